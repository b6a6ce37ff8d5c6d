"""Exercise 2: weights."""


def weights(weight):
    """Run a container of this weight beside one of weight 100 on one CPU, then the light one alone, as long as before.

    Return how many times more CPU time the heavy one got than the light one, and the light one alone than beside it.
    """
    return 0, 0
