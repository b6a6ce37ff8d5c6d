"""Exercise 2: what layers cannot share. Two images from different days hold the same files in different layers."""

import hashlib
import os
import stat


def twice(trees):
    """A file is known by its inode, a content by its digest; what comes a second time could be saved."""
    inodes, contents, saved = set(), set(), 0
    for tree in trees:
        for directory, _, names in os.walk(tree):
            for path in (os.path.join(directory, name) for name in names):
                status = os.lstat(path)
                inode = status.st_dev, status.st_ino
                if not stat.S_ISREG(status.st_mode) or inode in inodes:
                    continue
                inodes.add(inode)
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
                saved += status.st_blocks * 512 if digest in contents else 0
                contents.add(digest)
    return saved
