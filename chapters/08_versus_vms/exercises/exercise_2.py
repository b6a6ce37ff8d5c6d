"""Exercise 2: what layers cannot share. Two images from different days hold the same files in different layers."""


def twice(trees):
    """Bytes on disk that would be saved if files of the same content in these directories were stored once.

    Count blocks, as du does. A file with several names (hard links) is on the disk once already; a link is no file.
    """
    return 0
