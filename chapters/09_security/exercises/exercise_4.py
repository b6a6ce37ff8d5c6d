"""Exercise 4, destructive: the host's disk from a privileged container. In a virtual machine, if it is a real disk."""


def script(major, minor, name):
    """A shell script that prints the file `name` of the file system on the block device MAJOR:MINOR of the host.

    With --privileged it works. Predict: where does it fail without?
    """
    return "false"
