"""Stage 4: the same process behind the same walls, and what it writes is its own.

python chapters/04_union_mounts/stage.py [COMMAND [ARGUMENT...]]      MINIDOCKER_DRIVER=aufs|copy for another driver
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../.."), HERE]

from aufs import DRIVERS
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
DEMO = ["sh", "-c", "rm -rf /bin /etc; echo $(hostname): I deleted /bin and /etc, and left: *"]
DRIVER = os.environ.get("MINIDOCKER_DRIVER", "overlay")
driver = DRIVERS.get(DRIVER) or sys.exit(f"stage 4: no driver {DRIVER!r}: there are {', '.join(DRIVERS)}")

try:
    union = driver([ROOT])
    result = run(
        sys.argv[1:] or DEMO,
        Namespaces("pid mount uts ipc net", hostname="stage4"),
        Cgroup(memory="64m", cpus=0.5, pids=64),
        Namespaces("cgroup"),
        union,
        PivotRoot(union.root),
        stdin=0,
        stdout=1,
        stderr=2,
    )
except ContainerError as error:
    sys.exit(print(f"stage 4: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
