"""Stage 5: a container of an image: the layers of a name, one union, the image's own command.

python3 chapters/05_images/stage.py [IMAGE [COMMAND [ARGUMENT...]]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.images.container import container, ready
from minidocker.outcome import ContainerError
from minidocker.process import run

DEMO = [
    "sh",
    "-c",
    "echo I am $(hostname), made of:; sed -n 's/.*lowerdir=\\([^,]*\\).*/\\1/p' /proc/mounts | tr : '\\n'",
]

try:
    image = ready(sys.argv[1] if sys.argv[1:] else os.environ.get("MINIDOCKER_ROOT", "busybox"))
    argv, isolators, options = container(image, sys.argv[2:] or ([] if sys.argv[1:] else DEMO), hostname="stage5")
    result = run(argv, *isolators, stdin=0, stdout=1, stderr=2, **options)
except ContainerError as error:
    sys.exit(print(f"stage 5: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
