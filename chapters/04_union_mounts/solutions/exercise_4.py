"""Exercise 4: the price of a byte."""

import os

from minidocker.process import start


def price(lower, upper, driver):
    """From the outside: the union is reached through the root directory of a process that sees it."""
    union = driver([lower], upper)
    with start(["sleep", "1000"], union) as process:
        file = f"/proc/{process.pid}/root{union.root}/big"
        before = taken(upper)
        os.chmod(file, 0o600)
        after_chmod = taken(upper)
        with open(file, "ab") as big:
            big.write(b"!")
        return after_chmod - before, taken(upper) - after_chmod


def taken(directory):
    """Disk space below a directory, in bytes."""
    paths = [os.path.join(top, name) for top, _, files in os.walk(directory) for name in files]
    return sum(os.lstat(path).st_blocks * 512 for path in paths)
