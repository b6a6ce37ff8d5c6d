"""Exercise 3: a layer that deletes, and a secret that stays."""


def two_layers(store, work, secret):
    """An image of two layers: the first has the file /secret, the second deletes it. `work`: for directories."""


def recovered(image):
    """The secret, read out of the image."""
