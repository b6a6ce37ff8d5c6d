"""Exercise 4: a store in trouble. Never on the store that you need: damage() makes one of its own."""


def damage():
    """Damage a store in three ways; return what minidocker says to each: three lines."""
    return []
