"""Stage 7: the same container, with a cable to a switch, an address, and a published port.

python chapters/07_ports/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys
from urllib.request import urlopen

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.network import Network
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.rootfs import PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'busybox')}"
PAGE = "mount -t tmpfs none /mnt && hostname >/mnt/hostname && httpd -p 80 -h /mnt"
SERVE = ["sh", "-c", f"{PAGE} && echo $(hostname) serves && sleep 60"]

network = Network(ports=["127.0.0.1::80"], root=ROOT)
walls = [Namespaces("pid mount uts ipc", hostname="stage7"), network, Cgroup(memory="64m", cpus=0.5, pids=64)]
walls += [Namespaces("cgroup"), PivotRoot(ROOT)]
streams = {"stdin": 0, "stdout": 1, "stderr": 2} if sys.argv[1:] else {}
try:
    with start(sys.argv[1:] or SERVE, *walls, name="stage7", **streams) as container:
        print("stage 7:", network.addresses[0], "publishes", network.published[0], file=sys.stderr)
        if sys.argv[1:]:
            sys.exit(container.wait().exit_code)
        print(next(container.lines()))
        with urlopen(f"http://127.0.0.1:{network.published[0].number}/hostname") as answer:
            print("the host asked through the published port, and got:", answer.read().decode().strip())
except ContainerError as error:
    sys.exit(print(f"stage 7: {error}", file=sys.stderr) or error.exit_code)
