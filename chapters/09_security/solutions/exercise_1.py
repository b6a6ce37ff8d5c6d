"""Exercise 1: which walls does it have?"""


def walls(pid):
    """The same three lines for a container of any engine: capabilities are the bits of a number in hexadecimal."""
    with open(f"/proc/{pid}/status") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    mask = int(status["CapEff"], 16)
    return {bit for bit in range(64) if mask >> bit & 1}, status["Seccomp"] == "2", status["NoNewPrivs"] == "1"
