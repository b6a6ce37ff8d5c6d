"""Stage 8: nothing is added to the walls. The same command in a container, and in a virtual machine if there is one.

python chapters/08_versus_vms/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../.."), HERE]

from bench import machine
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.state import home
from minidocker.union import Union

DEMO = "echo up: kernel $(uname -r), $(ls /proc | grep -c '^[0-9]') processes"
ROOT = os.path.join(home(), "roots", os.environ.get("MINIDOCKER_ROOT", "busybox"))

union = Union([ROOT])
walls = [Namespaces("pid mount uts ipc net"), Cgroup(memory="64m", pids=64), Namespaces("cgroup"), union]
begin = time.monotonic()
try:
    result = run(sys.argv[1:] or ["sh", "-c", DEMO], *walls, PivotRoot(union.root), stdin=0, stdout=1, stderr=2)
    if not sys.argv[1:]:
        middle = time.monotonic()
        print(f"container: {middle - begin:.3f} s", flush=True)
        print(f"no virtual machine here: {machine.missing()}" if machine.missing() else "and in a virtual machine:")
        if not machine.missing():
            with machine.boot("minimal", DEMO) as guest:
                print(guest.wait().stdout.strip())
            print(f"virtual machine ({machine.accelerator()}): {time.monotonic() - middle:.3f} s")
except ContainerError as error:
    sys.exit(print(f"stage 8: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
