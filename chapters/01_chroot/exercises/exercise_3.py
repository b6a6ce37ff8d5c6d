"""Exercise 3: a root that cannot be written."""

from minidocker.process import Isolator


class ReadOnly(Isolator):
    """Stands after PivotRoot, and makes "/" read-only."""
