"""Exercise 1: an image by hand, with tar, gzip, sha256 and JSON."""


def image_by_hand(directory, layout):
    """Make the OCI image layout `layout` with one image, named hand:latest, of one layer: the files of `directory`."""
