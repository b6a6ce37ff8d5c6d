"""Exercise 2: what a machine that has one image need not fetch for another."""


def shared(store, first, second):
    """Bytes of the second image (minidocker.images.image.Image) that a store with the first one has already."""
    return second.size
