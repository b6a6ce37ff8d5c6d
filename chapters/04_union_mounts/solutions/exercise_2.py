"""Exercise 2: undelete."""

import os


def undelete(upper, path, driver):
    """The file is where it always was. Only the mark that hides it has to go."""
    parent, name = os.path.split(upper + path)
    os.unlink(os.path.join(parent, f".wh.{name}" if driver == "aufs" else name))
