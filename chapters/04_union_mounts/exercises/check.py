"""Check an exercise of chapter 4: python chapters/04_union_mounts/exercises/check.py NUMBER [FILE]."""

import errno
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../.."), os.path.join(HERE, "..")]

import exercise

from aufs import DRIVERS
from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot

ROOT = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker") + "/roots/busybox"


def directories(place, *names):
    """Make them; return their paths."""
    for name in names:
        os.mkdir(f"{place}/{name}")
    return [f"{place}/{name}" for name in names]


def change(upper, driver, script):
    """Run a script in a container that keeps what it changes; return what it printed."""
    union = DRIVERS[driver]([ROOT], upper)
    result = run(["sh", "-c", script], Namespaces("pid mount"), union, PivotRoot(union.root))
    return result.stdout + result.stderr


def check_1(module):
    """The top one wins, writes go up, and the host sees no mount."""
    with tempfile.TemporaryDirectory() as place:
        top, base, upper, work, merged = directories(place, "top", "base", "upper", "work", "merged")
        for lower in (top, base):
            with open(f"{lower}/both", "w") as file:
                file.write(os.path.basename(lower))
        script = "cat both; echo new >made; cat /proc/self/mountinfo"
        done = module.union_by_hand([top, base], upper, work, merged, ["sh", "-c", script])
        assert done.stdout.startswith("top"), "the file of the top directory is not seen: is the first one the top one?"
        assert merged in done.stdout, "nothing is mounted there"
        assert os.path.exists(f"{upper}/made"), "the new file is not in the upper directory"
        assert merged not in open("/proc/self/mountinfo").read(), "the mount is left on the host"


def check_2(module):
    """Visible again, and not by a copy."""
    for driver in ("overlay", "aufs"):
        with tempfile.TemporaryDirectory() as upper:
            assert "No such file" in change(upper, driver, "rm /bin/wc; ls /bin/wc")
            module.undelete(upper, "/bin/wc", driver)
            assert change(upper, driver, "ls /bin/wc") == "/bin/wc\n", f"{driver}: it is still hidden"
            assert not os.path.lexists(f"{upper}/bin/wc"), f"{driver}: there is a copy of it now"


def check_3(module):
    """A script of changes, and what Docker would print."""
    new = f"new-{random.randint(1000, 9999)}"
    script = f"rm /bin/wc; echo >/etc/motd; mkdir -p /srv/a; echo >/srv/a/b; rm -r /etc; mkdir /etc; echo >/etc/{new}"
    with tempfile.TemporaryDirectory() as upper:
        change(upper, "overlay", script)
        below = [f"D /etc/{name}" for name in os.listdir(f"{ROOT}/etc")]
        wanted = sorted(["C /bin", "D /bin/wc", "A /srv", "A /srv/a", "A /srv/a/b", "C /etc", f"A /etc/{new}", *below])
        found = module.diff(ROOT, upper)
        assert found == wanted, f"it says {found}, and should say {wanted}"


def check_4(module):
    """A whole copy for one bit, then nothing; and nothing at all where everything was copied before."""
    size = random.randint(4, 12) << 20
    for driver, copies in (("overlay", 1), ("aufs", 1), ("copy", 0)):
        with tempfile.TemporaryDirectory() as place:
            lower, upper = directories(place, "lower", "upper")
            with open(f"{lower}/big", "wb") as file:
                file.write(os.urandom(size))
            chmod, append = module.price(lower, upper, DRIVERS[driver])
            assert copies * size <= chmod < copies * size + (1 << 18), f"{driver}: {chmod} bytes for a chmod"
            assert 0 < append < 1 << 18, f"{driver}: {append} bytes for one byte"


def check_5(module):
    """Every path is gone, and the process is not."""
    with tempfile.TemporaryDirectory() as lower:
        wanted = os.path.basename(tempfile.mkstemp(dir=lower)[1])
        names, number, alive = module.pull_the_rug(lower)
    assert names == [wanted], f"the first list was {names}: look into the union while its server lives"
    assert number == errno.ENOTCONN, f"errno {number}: was the server dead, and did you look into the union?"
    assert alive, "the process is gone: look at it before you leave the block of start"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4, 5: check_5}, HERE)
