"""Exercise 3: docker diff."""

import os
import stat


def diff(lower, upper):
    """Walk the upper directory: it holds all that changed, and nothing else."""
    changes = []
    for directory, directories, files in os.walk(upper):
        place = directory.removeprefix(upper)
        for name in directories + files:
            path = f"{place}/{name}"
            status = os.lstat(upper + path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                changes.append(f"D {path}")
            else:
                changes.append(f"{'C' if os.path.lexists(lower + path) else 'A'} {path}")
        if place and is_opaque(directory) and os.path.isdir(lower + place):
            gone = set(os.listdir(lower + place)) - {*directories, *files}
            changes += [f"D {place}/{name}" for name in gone]
    return sorted(changes)


def is_opaque(directory):
    name = "trusted.overlay.opaque"
    return name in os.listxattr(directory) and os.getxattr(directory, name) == b"y"
