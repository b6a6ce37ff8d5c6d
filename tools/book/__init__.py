"""The text is woven, the figures are put in, the notebooks are executed and traced: each is also a check."""
