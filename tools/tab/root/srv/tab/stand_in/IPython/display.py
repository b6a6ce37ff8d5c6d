"""`display` for a lab in the browser tab: the page shows what comes."""


def publish(data):
    """Of the desk, which puts its own function here."""


def display(data, metadata=None, raw=True):
    """Bytes are a picture that matplotlib would have drawn: the page keeps the one that is stored."""
    publish({kind: content for kind, content in data.items() if isinstance(content, str)})
