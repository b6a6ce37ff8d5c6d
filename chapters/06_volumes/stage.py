"""Stage 6: the same container, with volumes that others see, too, and that are still there when it has gone.

python chapters/06_volumes/stage.py [-v [SOURCE:]TARGET[:OPTIONS]]... [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.state import home
from minidocker.union import Union
from minidocker.volumes import ordered, store
from minidocker.volumes.spelling import from_v

DEMO = 'echo "$(hostname): I find $(wc -l < /notes/log) lines, and add one"; date >> /notes/log'
ROOT = f"{home()}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"


def stage(argv, texts, name="stage6"):
    """Chapter 4's union, this chapter's volumes below it, and the root that carries them along."""
    union = Union([ROOT])
    volumes = ordered([from_v(text, union.root) for text in texts])
    walls = [Namespaces("pid mount uts ipc net", hostname=name), union, *volumes, PivotRoot(union.root)]
    return run(argv, *walls, stdin=0, stdout=1, stderr=2).exit_code


arguments, texts = sys.argv[1:], []
while arguments[:1] == ["-v"]:
    texts, arguments = [*texts, *arguments[1:2]], arguments[2:]
try:
    if arguments:
        sys.exit(stage(arguments, texts))
    for name in ("first", "second"):
        stage(["sh", "-c", f"touch /notes/log; {DEMO}"], ["stage6-notes:/notes"], name)
    store.remove("stage6-notes")
except ContainerError as error:
    sys.exit(print(f"stage 6: {error}", file=sys.stderr) or error.exit_code)
