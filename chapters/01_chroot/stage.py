"""Stage 1: the process gets another root.

python3 chapters/01_chroot/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
DEMO = ["sh", "-c", "echo I see $(ls /) and nothing else"]

try:
    result = run(sys.argv[1:] or DEMO, PivotRoot(ROOT), stdin=0, stdout=1, stderr=2)
except ContainerError as error:
    sys.exit(print(f"stage 1: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
