"""Exercise 2: a backup by a container."""


def backup(volume, archive):
    """Write a tar of the content of a named volume to the file `archive` of the host, which does not exist yet.

    A container does it that cannot change the volume, and sees nothing of the host but the archive's directory.
    """
