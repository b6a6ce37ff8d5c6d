"""Check an exercise of chapter 5: python3 chapters/05_images/exercises/check.py NUMBER [FILE]."""

import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.images.image import find, make
from minidocker.images.manifest import platform
from minidocker.images.store import Store
from minidocker.outcome import ContainerError


def check_1(module):
    """Other tools, and our store, take the image that was made by hand."""
    with tempfile.TemporaryDirectory(prefix="minidocker-exercise-") as scratch:
        os.makedirs(f"{scratch}/tree/etc")
        with open(f"{scratch}/tree/etc/motd", "w") as file:
            file.write("by hand\n")
        module.image_by_hand(f"{scratch}/tree", f"{scratch}/images")
        assert os.path.exists(f"{scratch}/images/index.json"), "no index.json in the layout: it is what names the image"
        shown = subprocess.run(
            ["skopeo", "inspect", f"oci:{scratch}/images:hand:latest"], capture_output=True, text=True
        )
        assert shown.returncode == 0, f"skopeo cannot read it: {shown.stderr.strip()[-300:]}"
        [layer] = find(Store(scratch), "hand").layers()
        with open(f"{layer}/etc/motd") as file:
            assert file.read() == "by hand\n", "the file in the layer is another one"


def check_2(module):
    """All of an image with itself, the base between two that are built on it, nothing between strangers."""
    with tempfile.TemporaryDirectory(prefix="minidocker-exercise-") as scratch:
        store = Store(scratch)
        layers = []
        for number in range(3):
            os.makedirs(f"{scratch}/{number}")
            with open(f"{scratch}/{number}/file{number}", "wb") as file:
                file.write(os.urandom(5000 * (number + 1)))
            layers.append(store.add_layer(f"{scratch}/{number}"))
        images = [
            _image(store, [layers[0], layers[1]]),
            _image(store, [layers[0], layers[2]]),
            _image(store, [layers[1]]),
        ]
        whole, base = images[0].size, layers[0][0]["size"]
        assert module.shared(store, images[0], images[0]) == whole, "an image shares all of its layers with itself"
        assert module.shared(store, images[0], images[1]) == base, "these two share their base, and nothing else"
        assert module.shared(store, images[1], images[2]) == 0, "these two share nothing"


def _image(store, layers):
    config = {**platform(), "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}}
    return make(store, config, [layer for layer, _ in layers])


def check_3(module):
    """A secret that a later layer deletes."""
    with tempfile.TemporaryDirectory(prefix="minidocker-exercise-") as scratch:
        store, secret = Store(scratch), os.urandom(8).hex()
        image = module.two_layers(store, f"{scratch}/work", secret)
        assert image is not None, "return the image: minidocker.images.image.make makes one"
        top, _ = image.layers()
        assert not os.path.isfile(f"{top}/secret"), "the upper layer should hide the file, and it has one of its own"
        assert os.path.lexists(f"{top}/secret"), "nothing in the upper layer hides the file: a whiteout is missing"
        assert module.recovered(image) == secret, "the secret was not read out of the image"


def check_4(module):
    """Three kinds of damage, three messages, and none of them a traceback. They are printed, to be read."""
    messages = []
    for damage in (module.cut_short, module.take_away, module.no_index):
        with tempfile.TemporaryDirectory(prefix="minidocker-exercise-") as scratch:
            os.makedirs(f"{scratch}/tree")
            store = Store(scratch)
            image = _image(store, [store.add_layer(f"{scratch}/tree")])
            store.tag("victim", image.descriptor)
            damage(store.layout, image.id)
            try:
                find(store, "victim").layers()
            except ContainerError as error:
                messages.append(str(error))
            else:
                raise AssertionError(f"{damage.__name__}: the image is as good as before")
    for message in messages:
        assert "\n" not in message.strip(), f"not one line: {message!r}"
    assert len({*messages}) == 3, f"different damage, and the same message: {messages}"
    print(*messages, sep="\n")


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
