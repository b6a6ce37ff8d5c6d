"""An ordinary user of this machine, for a while: a name, ranges of numbers in subuid(5), a home, and no rights."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import GUEST, HOME, REPO, need

UID, RANGE = 12345, 200000
ADDRESS = "192.0.2.7"  # of the host, in the network namespace that the user has for the time of a script
# In a mount namespace the files of /etc that say who is who are others: newuidmap(1), which is set-user-ID, reads them
SCRIPT = """
set -e
cd "$0"
for name in passwd group subuid subgid; do touch /etc/$name; mount --bind $name /etc/$name; done
[ ! -e /dev/net/tun ] || mount --bind tun /dev/net/tun
ip link set lo up
ip addr add ADDRESS/32 dev lo
cd home
exec setpriv --reuid UID --regid UID --clear-groups sh -c "$1"
"""


class Someone:
    """A user with a store of their own, in which are the images busybox and debian."""

    def __init__(self, ranges=f"someone:{RANGE}:65536\n"):
        need(os.geteuid() == 0 and shutil.which("newuidmap"), "to make a user needs root, and uidmap to be one")
        self.place = Path(tempfile.mkdtemp(prefix="someone-"))
        self.place.chmod(0o755)
        self.home = self.place / "home"
        self.home.mkdir()
        os.chown(self.home, UID, UID)
        shutil.copytree(
            REPO / "minidocker", self.place / "code/minidocker", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name, line in ("passwd", f"someone:x:{UID}:{UID}::{self.home}:/bin/sh"), ("group", f"someone:x:{UID}:"):
            (self.place / name).write_text(Path("/etc", name).read_text() + line + "\n")
        for name in ("subuid", "subgid"):
            (self.place / name).write_text(ranges)
        (self.place / "minidocker").write_text(f'#!/bin/sh\nexec {sys.executable} -m minidocker "$@"\n')
        (self.place / "minidocker").chmod(0o755)
        os.mknod(self.place / "tun", 0o020666, os.makedev(10, 200))
        (self.place / "tun").chmod(0o666)

    def sh(self, script, **options):
        """Run a script as this user; `minidocker` is the command. CompletedProcess."""
        outer = SCRIPT.replace("UID", str(UID)).replace("ADDRESS", ADDRESS)
        argv = ["unshare", "-mn", "--propagation", "private", "sh", "-c", outer, str(self.place), script]
        keep = {
            "PATH": f"{self.place}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(self.place / "code"),
        }
        return subprocess.run(
            argv, env=keep, capture_output=True, text=True, timeout=20 if not GUEST else 300, **options
        )

    def load(self, *names):
        """Images of set-up into the user's store, by way of an archive; without texts."""
        for name in names:
            archive = ["tar", "--numeric-owner", "-C", f"{HOME}/roots/{name}", "--exclude=./usr/share", "-c", "."]
            with subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
                done = self.sh(f"minidocker import -c 'CMD [\"sh\"]' - {name}", stdin=tar.stdout)
            assert done.returncode == 0, done.stderr

    def remove(self):
        """All that was made for the user."""
        subprocess.run(["rm", "-rf", "--one-file-system", self.place], check=True)
