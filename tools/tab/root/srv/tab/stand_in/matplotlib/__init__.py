"""In place of matplotlib, which would not fit: a lab's plots draw nothing, and the page shows the stored pictures."""


class Anything:
    """Takes every call, and is every attribute."""

    def __call__(self, *_, **__):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, _):
        return self

    def savefig(self, file, **_):
        """An empty picture."""


rcParams = {}
cycler = Anything()
