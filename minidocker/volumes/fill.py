"""Chapter 6: an empty named volume takes what the image has at its place, with owners and modes, at its first use.

    fill(image_directory, volume_directory)      # two descriptors

Two programs may be against us while we copy with the host's rights: one that shares the root and exchanges links in the
source, and one that shares the volume and does so in the target. So every entry is opened below a descriptor of its
directory, following no link, looked at, and only then read: chapter 4's copy goes by paths, where nobody else is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

DEEPEST = 200  # directories in directories: each is a level of recursion, and three open descriptors


def fill_once(image: int, volume: int, directory: str) -> None:
    """Fill the volume if it is empty, one container at a time. `directory` is the volume's on the host.

    The file `filling` says that somebody has begun. Found under the lock, it says that they died: then begin again.
    """
    lock = os.open(f"{directory}/config", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    mark = f"{directory}/filling"
    if os.path.exists(mark):
        clear(volume)
    elif os.listdir(volume):
        return os.close(lock)
    os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    copy_directory(image, volume)
    os.unlink(mark)
    os.close(lock)


def copy_directory(source: int, target: int, depth: int = 0) -> None:
    """Copy the content of one open directory to the other, empty one; then its owner, mode, attributes and times."""
    if depth > DEEPEST:
        raise OSError(errno.ELOOP, f"more than {DEEPEST} directories in each other: too deep to be copied")
    for name in os.listdir(source):
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        _copy_entry(entry, name, target, depth)
        os.close(entry)
    copy_attributes(source, target)


def _copy_entry(entry: int, name: str, target: int, depth: int) -> None:
    """One entry, held by an O_PATH descriptor: it cannot become another between the look and the copy."""
    status = os.fstat(entry)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        pair = (
            reopened(entry, os.O_DIRECTORY),
            os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=target),
        )
        copy_directory(*pair, depth + 1)
    elif stat.S_ISREG(status.st_mode):
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
        pair = reopened(entry), new
        copy_content(*pair)
        copy_attributes(*pair)
    else:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink("", dir_fd=entry), name, dir_fd=target)
        else:
            umask = os.umask(0)
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)  # Docker copies device nodes, too
            os.umask(umask)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        return
    for descriptor in pair:
        os.close(descriptor)


def reopened(entry: int, flags: int = 0) -> int:
    """The very thing behind an O_PATH descriptor, opened for reading: the magic link of proc(5) looks nothing up."""
    return os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_CLOEXEC | flags)


def copy_content(source: int, target: int) -> None:
    """sendfile(2) until nothing comes: the bytes do not pass through this process."""
    while os.sendfile(target, source, None, 1 << 30):  # None: from where the last one ended
        pass


def copy_attributes(source: int, target: int) -> None:
    """Owner first, since changing it takes setuid bits and capabilities away; times last, as the rest changes them."""
    status = os.fstat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def clear(directory: int) -> None:
    """Remove what is below an open directory; links are removed and not followed."""
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            clear(below)
            os.close(below)
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
