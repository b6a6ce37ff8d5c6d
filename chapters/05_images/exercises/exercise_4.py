"""Exercise 4: a store in trouble. The check makes a store for each damage, and prints what minidocker says to it.

`layout` is the directory of the store's images, an OCI image layout; `digest` is "sha256:..." of the image's config.
"""


def cut_short(layout, digest):
    """Take the last byte off the blob."""


def take_away(layout, digest):
    """Remove the blob."""


def no_index(layout, digest):
    """Make index.json something that is no JSON."""
