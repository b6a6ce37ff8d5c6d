"""Run a chapter's tests on a kernel that has only cgroup v2, within seconds and without a virtual machine.

    python -m tools.machines.uml tests/03_cgroups   [pytest's options]

User-Mode Linux is the Linux kernel compiled as an ordinary program (Debian's package user-mode-linux). It boots here as
the user nobody, on this machine's own files: its root is an overlay in memory over a read-only view of the host's `/`.
So the repository and its virtual environment are there, and nothing that the tests do reaches the host. (If nobody may
not read those, since they are in somebody's home, it boots as whoever calls this.)

Its clock may run unevenly, so in it tests assert on the kernel's counters and not on seconds (MINIDOCKER_GUEST is set).
The exit status comes back as a line on its console; without that line the run has failed, whatever else was printed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import REPO

KERNEL, MODULES = "/usr/bin/linux.uml", "/usr/lib/uml/modules"
TIMEOUT = 240  # seconds
NOBODY = 65534

# PID 1 of the guest. The first part builds the root, the second runs in it.
INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
root=/run/root
mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mkdir -p /run/up /run/work $root /run/m/lib/modules
busybox mount -t hostfs -o {modules} none /run/m/lib/modules  # util-linux 2.41 takes a path for a parameter
busybox insmod /run/m/lib/modules/*/kernel/fs/overlayfs/overlay.ko
mount -t overlay -o lowerdir=/,upperdir=/run/up,workdir=/run/work overlay $root || exec busybox poweroff -f
mkdir -p $root/lib/modules && mount --move /run/m/lib/modules $root/lib/modules
for kind in proc:proc sysfs:sys devtmpfs:dev tmpfs:run; do mount -t ${{kind%:*}} none $root/${{kind#*:}}; done
mkdir -p $root/run/tmp $root/dev/pts $root/dev/shm
mount -t devpts none $root/dev/pts && mount -t tmpfs none $root/dev/shm
mount -t cgroup2 none $root/sys/fs/cgroup
cat > $root/run/second <<'END'
ip link set lo up
for module in veth bridge; do busybox modprobe $module; done
mkfs.ext4 -q /dev/ubda && mkdir -p /run/disk && mount /dev/ubda /run/disk
cd {repository}
{environment} {command}
echo "STATUS $?"
exec busybox poweroff -f
END
cd $root && mount --move . / && exec chroot . sh /run/second
"""


def guest_command(arguments: list[str]) -> str:
    """pytest with these arguments, as one line of shell."""
    return shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *arguments])


def environment() -> str:
    """What the tests in the guest know: where things are, and that they must work."""
    names = {
        "MINIDOCKER_HOME": os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"),
        "MINIDOCKER_MUST_WORK": "1",
        "MINIDOCKER_GUEST": "uml",
        "TMPDIR": "/run/tmp",  # the clone may lie in /tmp, which stays as it is
        "PYTHONPATH": str(REPO),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in names.items())


def nobody_may_read(path: Path) -> bool:
    """Whether any user may go there and read it."""
    real = path.resolve()
    return bool(real.stat().st_mode & 0o004) and all(parent.stat().st_mode & 0o001 for parent in real.parents)


def boot(arguments: list[str]) -> tuple[int, str]:
    """Boot, run the tests, and return pytest's exit status and all that was printed. Any user may do this."""
    with tempfile.TemporaryDirectory(prefix="uml-") as place:
        os.chmod(place, 0o755)
        init = Path(place, "init")
        text = INIT.format(
            modules=MODULES, repository=REPO, environment=environment(), command=guest_command(arguments)
        )
        init.write_text(text)
        init.chmod(0o755)
        scratch = Path(place, "scratch")
        scratch.mkdir()
        disk = scratch / "disk"
        with disk.open("wb") as file:
            file.truncate(64 << 20)
        user = {}
        if os.geteuid() == 0 and all(map(nobody_may_read, (REPO, Path(sys.executable)))):
            for path in (scratch, disk):
                os.chown(path, NOBODY, NOBODY)
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        kernel = [KERNEL, "mem=1G", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}", "quiet"]
        kernel += ["con=null", "con0=null,fd:1", f"uml_dir={scratch}", f"ubd0={disk}"]
        done = subprocess.run(
            kernel,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            env={"PATH": os.environ["PATH"], "TMPDIR": "/dev/shm", "HOME": str(scratch)},
            **user,
        )
    output = done.stdout.decode(errors="replace")
    status = re.search(r"^STATUS (\d+)", output, re.MULTILINE)
    return (int(status[1]) if status else 1), output


if __name__ == "__main__":
    code, text = boot(sys.argv[1:])
    print(text)
    sys.exit(code)
