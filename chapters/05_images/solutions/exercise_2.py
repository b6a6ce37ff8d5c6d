"""Exercise 2: what a machine that has one image need not fetch for another."""


def shared(store, first, second):
    """A layer is the same if its digest is the same; nothing else has to be looked at."""
    have = {layer["digest"] for layer in first.manifest["layers"]}
    return sum(layer["size"] for layer in second.manifest["layers"] if layer["digest"] in have)
