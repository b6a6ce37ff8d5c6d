"""Exercise 4, destructive: the monitor is killed, and nobody can write down what became of its container."""


def orphan(name):
    """Kill the monitor of this running container with SIGKILL. Return three things: the status that the state file
    said just after that; the exit code that the engine reports when it is asked; the status in the file at last.

    Predict them. The files are in MINIDOCKER_HOME, or /var/lib/minidocker: names/NAME leads to state.json.
    """
    return None, None, None
