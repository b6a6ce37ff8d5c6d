"""Exercise 4: what is damaged is found by its digest, what is gone by its name, and none of it is a traceback."""

import os


def _blob(layout, digest):
    return f"{layout}/blobs/{digest.replace(':', '/')}"


def cut_short(layout, digest):
    os.truncate(_blob(layout, digest), os.path.getsize(_blob(layout, digest)) - 1)


def take_away(layout, digest):
    os.unlink(_blob(layout, digest))


def no_index(layout, digest):
    with open(f"{layout}/index.json", "w") as file:
        file.write("{")
