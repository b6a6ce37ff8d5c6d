"""Stage 3: the same process, behind walls and inside a fence.

python chapters/03_cgroups/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
DEMO = ["sh", "-c", "echo $(hostname): I double a string until somebody stops me; a=x; while :; do a=$a$a; done"]

fence = Cgroup(memory="64m", cpus=0.5, pids=64)
try:
    result = run(
        sys.argv[1:] or DEMO,
        Namespaces("pid mount uts ipc net", hostname="stage3"),
        fence,
        Namespaces("cgroup"),
        PivotRoot(ROOT),
        stdin=0,
        stdout=1,
        stderr=2,
    )
except ContainerError as error:
    sys.exit(print(f"stage 3: {error}", file=sys.stderr) or error.exit_code)
if fence.oom_killed:
    print("stage 3: killed, since it wanted more memory than the fence allows", file=sys.stderr)
sys.exit(result.exit_code if sys.argv[1:] else 0)
