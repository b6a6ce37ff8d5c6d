"""What the tests of chapter 5 share: a store of their own, and images made of the roots of set-up."""

import os
import subprocess
import sys

import pytest

from minidocker.images import manifest as media
from minidocker.images.image import make
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from tests.helpers import HOME, REPO


def add_image(store, name, root, **config):
    """An image of one layer, with the files of a directory."""
    with store.writing():
        layer, diff_id = store.add_layer(str(root))
        document = {**media.platform(), "config": config, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
        image = make(store, document, [layer])
        store.tag(name, image.descriptor)
    return image


def new_store(home):
    """A store in a temporary home, with the busybox image of set-up."""
    store = Store(str(home))
    add_image(store, "busybox", HOME / "roots/busybox", Cmd=["sh"])
    return store


def refused(function, *arguments, kind=ContainerError):
    """The message of the error; one line of printable text."""
    with pytest.raises(kind) as failure:
        function(*arguments)
    text = str(failure.value)
    assert text.isprintable(), text
    return text


def minidocker(home, *words, **options):
    """The command, in a process of its own, with that home: CompletedProcess. A container has no network, which takes
    its time, unless the words ask for one.
    """
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    verb, *others = map(str, words)
    if verb in ("run", "build") and not any(word.startswith(("--net", "-p", "-P", "--publish")) for word in others):
        verb, *others = verb, "--network=none", *others
    argv = [sys.executable, "-m", "minidocker", verb, *others]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, **options)
