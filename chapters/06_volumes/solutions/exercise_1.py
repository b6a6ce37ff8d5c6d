"""Exercise 1: a read-only bind mount by hand."""

from minidocker.syscalls import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, mount


def read_only_bind(source, target):
    """MS_RDONLY counts in a remount only, and a remount is for one mount. (Its other flags should be kept as well.)"""
    mount(source, target, flags=MS_BIND | MS_REC)
    with open("/proc/self/mountinfo") as file:
        places = [line.split()[4] for line in file]
    for place in places:
        if place == target or place.startswith(f"{target}/"):
            mount(None, place, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
