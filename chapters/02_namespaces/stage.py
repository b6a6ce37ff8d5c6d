"""Stage 2: the process gets a view of its own.

python3 chapters/02_namespaces/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
DEMO = ["sh", "-c", "echo I am process $$ on $(hostname), with $(ls -d /proc/[0-9]* | wc -l) processes in sight"]

try:
    walls = Namespaces("pid mount uts ipc net", hostname="stage2"), PivotRoot(ROOT)
    result = run(sys.argv[1:] or DEMO, *walls, stdin=0, stdout=1, stderr=2)
except ContainerError as error:
    sys.exit(print(f"stage 2: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
