"""Exercise 4: the price of a byte."""


def price(lower, upper, driver):
    """Bytes that the kept directory `upper` takes more than before, in a union over `lower`, which has the file `big`:

    after a chmod of it, and after one more byte was appended to it. `driver` is a class: `driver([lower], upper)`.
    """
    return 0, 0
