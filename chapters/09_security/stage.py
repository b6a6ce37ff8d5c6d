"""Stage 9: the container of stage 7, in which root may do no more than it may in Docker.

python chapters/09_security/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.cgroups import Cgroup
from minidocker.images.inside import DEVICES, Filesystems
from minidocker.namespaces import Namespaces
from minidocker.network import Network
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.devices import NoDevices
from minidocker.security.paths import Masked
from minidocker.security.seccomp import Seccomp
from minidocker.union import Union

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
TRIES = "mount -t tmpfs none /mnt", "mknod /disk b 7 0; cat /disk", "dmesg", "unshare -U true", "grep -q . /proc/keys"
DEMO = "; ".join(f"({one}) 2>/dev/null && echo {one!r} works || echo {one!r} is stopped" for one in TRIES)

kept, union = capabilities(), Union([ROOT])
walls = [Namespaces("pid mount uts ipc", hostname="stage9"), Network(ports=["127.0.0.1::80"], root=union.root)]
walls += [Cgroup(memory="64m", cpus=0.5, pids=64), Namespaces("cgroup"), union, Filesystems(union.root)]
walls += [Masked(union.root), PivotRoot(union.root, proc=False), NoDevices(DEVICES.values())]
walls += [Seccomp(kept), Bounding(kept), Capabilities(kept)]
try:
    result = run(sys.argv[1:] or ["sh", "-c", DEMO], *walls, stdin=0, stdout=1, stderr=2)
except ContainerError as error:
    sys.exit(print(f"stage 9: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
