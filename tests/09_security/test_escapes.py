"""Public escapes from other engines, tried here as their descriptions say; and each again with its wall down, so that
one sees that the attack is one.

Others are where their feature is tested: CVE-2019-14271 (an import from the image) in 00_process and 01_chroot,
CVE-2021-30465 (links exchanged below a volume) in 06_volumes, CVE-2024-21626's streams in attacks/test_inherited.py.
"""

import errno
import mmap
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from minidocker import child, namespaces, terminal
from minidocker import process as engine
from minidocker.images import inside
from minidocker.images.container import container, ready
from minidocker.images.inside import Filesystems
from minidocker.isolator import Isolator
from minidocker.namespaces import Join, Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot
from minidocker.security import devices, paths
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.devices import NoDevices
from minidocker.security.paths import Masked
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import CLONE_NEWNS, MS_BIND, mount
from minidocker.volumes import Bind
from tests.helpers import HOME, need, until
from tests.helpers.images import add_image, minidocker, new_store

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="root of the host is what an escape is for"),
]

SECRET = "a secret of the host"


@pytest.fixture(autouse=True)
def forks(monkeypatch):
    """No launcher, which would not know what a test changes."""
    monkeypatch.setattr(engine, "_parent", child.Forked)


@pytest.fixture
def host(tmp_path):
    """A file of the host. No container has been given it."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return file


class Act(Isolator):
    """A function as an isolator: what somebody else does at that moment, or a wall that is badly built."""

    clone_flags = CLONE_NEWNS

    def __init__(self, act):
        self.act = act

    def inside(self):
        self.act()


def tried(command, *, without=(), after=None, act=None, instead=None, **options):
    """Run in a container with the isolators `without` some, with an `act` behind that of the type `after`."""
    argv, isolators, settings = container(ready("busybox"), command if isinstance(command, list) else ["x"], **options)
    isolators = [(instead or {}).get(type(one), one) for one in isolators if not isinstance(one, tuple(without))]
    if after:
        place = next(number for number, one in enumerate(isolators) if isinstance(one, after))
        isolators.insert(place + 1, Act(act))
    return run(command if callable(command) else argv, *isolators, **settings)


def sh(script, **options):
    """The output of a shell script in such a container."""
    return tried(["sh", "-c", script], **options).stdout


ROOT = f"{HOME}/merged"  # where each container has its root before it is the root: in its own mount namespace


# CVE-2016-9962: who is inside traces a process that joins, and takes what it holds of the host


class Holds(Isolator):
    """A joining process with something of the host; it goes on when the other has written, or after some seconds."""

    def __init__(self, path, seen, patience):
        self.path, self.seen, self.patience = path, seen, patience

    def __enter__(self):
        self.descriptors = (os.open(self.path, os.O_RDONLY), self.seen.fileno())
        return self

    def inside(self):
        for _ in range(int(self.patience / 0.1)):
            if not os.fstat(self.descriptors[1]).st_size:
                signal.sigtimedwait((), 0.1)

    def __exit__(self, *_):
        os.close(self.descriptors[0])


class Careless(Join):
    """Without its prctl(2)."""

    def inside(self):
        super().inside()
        namespaces.syscalls.prctl(namespaces.syscalls.PR_SET_DUMPABLE, 1)


WATCH = """
while :; do
    for p in /proc/[0-9]*; do
        test $p = /proc/1 || cat $p/fd/[3-9] $p/fd/[1-9][0-9]
    done 2>/dev/null
done
"""


@pytest.mark.parametrize(("kind", "patience"), [(Join, 0.6), (Careless, 10)])
def test_2016_9962_a_process_that_joins_cannot_be_traced(host, tmp_path, kind, patience):
    """It has the rights of the container, so that of these none is in the way."""
    kept = capabilities()
    argv, isolators, settings = container(ready("busybox"), ["sh", "-c", WATCH])
    with open(tmp_path / "seen", "w+") as seen:
        with start(argv, *isolators, stdout=seen.fileno(), **settings) as process:
            assert until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sh\n")
            run(
                ["true"],
                kind(process.pid, "pid mount"),
                Bounding(kept),
                Capabilities(kept),
                Holds(host, seen, patience),
            )
            process.kill()
        seen.seek(0)
        assert (SECRET in seen.read()) == (kind is Careless)


# CVE-2019-5736: the container writes to the engine's program, through /proc/PID/exe


def test_2019_5736_the_engines_program_is_closed_in_proc(monkeypatch):
    """The first process that stays ours (--init) is a copy of the engine."""
    script = "head -c 4 /proc/1/exe | tail -c 3; readlink /proc/1/exe /proc/1/cwd /proc/1/fd/1"
    assert sh(script, init=True) == ""
    monkeypatch.setattr(namespaces.syscalls, "PR_SET_DUMPABLE", 29)  # of timers, and harmless
    assert sh(script, init=True).startswith("ELF")


def test_2019_5736_nobody_writes_to_a_program_that_runs():
    """A command that is a function of ours is the engine's program: it has got hold of the file, and cannot write."""

    def overwrite():
        program = os.open("/proc/self/exe", os.O_RDONLY)
        try:
            os.close(os.open(f"/proc/self/fd/{program}", os.O_WRONLY))
            print("open")
        except OSError as refused:
            print(errno.errorcode[refused.errno])

    assert tried(overwrite).stdout == "ETXTBSY\n"


# CVE-2019-14271: the engine loads a library, or a module, from the image


def test_2019_14271_what_the_engine_opens_in_the_image_is_data():
    """Each file that Python opens, imports or loads between the change of root and the command."""
    opened = []

    def watch():
        child.sys.addaudithook(lambda event, words: opened.append((event, *words)))

    def tell():
        for event, *words in opened:
            by_path = event == "open" and isinstance(words[0], str) and not words[2] & os.O_PATH
            if by_path or event in ("import", "ctypes.dlopen"):
                os.write(1, f"{event} {words[0]}\n".encode())

    shown = tried(["true"], after=PivotRoot, act=watch, instead={Capabilities: Act(tell)}).stdout
    assert {*shown.splitlines()} == {"open /proc/self/mountinfo", "open /etc/passwd", "open /etc/group"}


# CVE-2019-16884: /proc is the image's own, and what the engine or a program writes there has no effect


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A store of this test's, and a function: add an image with these changes of busybox's root."""
    home = tmp_path / "home"
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    store = new_store(home)

    def add(name, change, **config):
        root = tmp_path / name
        subprocess.run(["cp", "-a", f"{HOME}/roots/busybox", root], check=True)
        change(root)
        add_image(store, name, root, **config)
        return home

    return add


def liar(root):
    """A directory that looks like /proc, and is the image's."""
    (root / "fake/self/attr").mkdir(parents=True)
    (root / "fake/self/attr/exec").write_text("the image's")
    shutil.rmtree(root / "proc", ignore_errors=True)
    (root / "proc").symlink_to("fake")


def test_2019_16884_proc_is_the_kernels(images, monkeypatch):
    home = images("liar", liar)
    script = "cat /proc/self/attr/exec /fake/self/attr/exec; exit 0"
    argv, isolators, settings = container(ready("liar", str(home)), ["sh", "-c", script], privileged=True)
    with pytest.raises(ContainerError, match="the image has something else there: no directory"):
        run(argv, *isolators, **settings)
    monkeypatch.setattr(inside, "_directory", lambda path: None)
    isolators = [one for one in isolators if type(one) is not Filesystems]  # a runtime that does not look, as that one
    assert run(argv, *isolators, **settings).stdout == "the image's" * 2


@pytest.mark.parametrize("target", ["/proc", "/proc/self/attr", "/link", "/link/self"])
def test_2019_16884_no_volume_of_an_image_lies_on_proc(images, target):
    home = images("covers", lambda root: (root / "link").symlink_to("proc"), Volumes={target: {}})
    refused = minidocker(home, "run", "covers", "true")
    assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)
    assert "nothing can be mounted on the root, nor on or below /proc" in refused.stderr


# CVE-2022-0492: release_agent of a cgroup of version 1 names a program that the kernel runs, as root of the host

# One that the host has mounted already, since its options must stay as they are; else a new one, which ends with this
V1 = any(re.search(r" cgroup \S*\bmemory\b", line) for line in Path("/proc/mounts").read_text().splitlines())
AGENT = f"""
mkdir -p /tmp/it; mount -t cgroup -o {"memory" if V1 else "none,name=escape"} it /tmp/it && echo mounted
test -e /tmp/it/release_agent && echo open
"""
ALONE = f"unshare -UrmC sh -c '{AGENT}'"
ALL = capabilities(["ALL"])


def cgroup_namespace(isolator):
    return isinstance(isolator, Namespaces) and isolator.kinds == ["cgroup"]


def shown_by_0492(script, *up):
    """In a container of which only some of these walls are up."""
    kept = capabilities() if "capabilities" in up else ALL
    options = {"kept": kept, "seccomp": "unconfined", "covered": False}
    argv, isolators, settings = container(ready("busybox"), ["sh", "-c", script], **options)
    if "seccomp" in up:
        isolators = [Seccomp(capabilities()) if isinstance(one, Seccomp) else one for one in isolators]
    if "cgroup namespace" not in up:
        isolators = [one for one in isolators if not cgroup_namespace(one)]
    return run(argv, *isolators, **settings).stdout


def test_2022_0492_more_than_one_wall_closes_release_agent():
    """The file is in the root of a hierarchy alone, and a cgroup namespace shows a part of it: so the last wall."""
    assert shown_by_0492(AGENT).startswith("mounted\n")
    for wall in ("capabilities", "seccomp"):
        assert shown_by_0492(AGENT, wall) == "", wall
    assert shown_by_0492(ALONE, "seccomp") == ""
    for script in (AGENT, ALONE):
        assert shown_by_0492(script, "cgroup namespace") in ("mounted\n", "")


# CVE-2022-0847, the container's half: what is read-only is not written through a second name of the same file


def rewrite(path):
    """By another name of the open file, by the memory of the process, and by a copy in a pipe."""
    read = os.open(path, os.O_RDONLY)
    with mmap.mmap(read, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        address = next(line for line in open("/proc/self/maps") if path in line).split("-")[0]
        memory = os.open("/proc/self/mem", os.O_RDWR)
        os.pwrite(memory, b"owned", int(address, 16))
        assert mapped[:5] == b"owned"  # in a copy of the page, which is the process's own
    ours, theirs = os.pipe()
    os.splice(read, theirs, 1, offset_src=0)
    os.write(theirs, b"wned")
    try:
        os.write(os.open(f"/proc/self/fd/{read}", os.O_WRONLY), b"owned")
        print("written")
    except OSError as refused:
        print(errno.errorcode[refused.errno])


def test_2022_0847_a_layer_is_not_written_through(images):
    """Above all a file of the image that another container uses, too."""
    home = images("shared", lambda root: (root / "file").write_text("shared by all"))
    image = ready("shared", str(home))
    argv, isolators, settings = container(image, ["x"], seccomp="unconfined")
    assert run(lambda: rewrite("/file"), *isolators, **settings).stdout == "written\n"  # in the upper directory
    layer = Path(image["layers"][0])
    assert (layer / "file").read_text() == "shared by all"
    run(lambda: rewrite("/file"), Namespaces("mount pid"), PivotRoot(layer))  # without a union
    assert (layer / "file").read_text() == "ownedd by all"


@pytest.mark.parametrize(("readonly", "said"), [(True, "EROFS"), (False, "written")])
def test_2022_0847_a_read_only_bind_is_not_written_through(host, readonly, said):
    bind = Bind(str(host), "/secret", ROOT, readonly=readonly)
    assert tried(lambda: rewrite("/secret"), mounts=lambda root: [bind]).stdout == f"{said}\n"
    assert (host.read_text() == SECRET) == readonly


# CVE-2024-21626: a descriptor of the host is open during the start, and the working directory is /proc/self/fd/N


def leak():
    """Some of the engine's libraries, or we, forget a descriptor of the host's root."""
    os.dup2(os.open("/", os.O_PATH), 40)


def test_2024_21626_no_descriptor_is_a_working_directory(images):
    home = images("leaky", lambda root: None, WorkingDir="/proc/self/fd/3")
    files = {"/etc/hosts": "", "/etc/hostname": "", "/nowhere/else": ""}
    for number in range(3, 41):
        argv, isolators, settings = container(
            ready("leaky", str(home)), ["pwd"], cwd=f"/proc/self/fd/{number}" if number > 3 else "", files=files
        )
        with pytest.raises(ContainerError, match=rf"/proc/self/fd/{number}\b"):
            run(argv, *isolators, **settings)


def test_2024_21626_also_if_one_is_open(monkeypatch):
    def attack():
        return {*sh("ls -A", cwd="/proc/self/fd/40", after=Namespaces, act=leak).split()}

    with pytest.raises(ContainerError, match=r"User: openat2\(/proc/self/fd/40\): Too many levels of symbolic links"):
        attack()
    monkeypatch.setattr(inside, "RESOLVE_NO_MAGICLINKS", 0)
    assert attack() == {*os.listdir("/")}  # the host's


def test_2024_21626_nobody_stands_on_a_mount_that_nodev_did_not_reach(monkeypatch):
    """What is left of the union below the new root has devices that open. We once left a descriptor of it."""
    script = "mknod node c 10 229; : <node && echo open"

    def forget():
        os.dup2(os.open(ROOT, os.O_PATH), 40)

    with pytest.raises(ContainerError, match="Too many levels"):
        sh(script, cwd="/proc/self/fd/40", after=Filesystems, act=forget)
    monkeypatch.setattr(inside, "RESOLVE_NO_MAGICLINKS", 0)
    need(os.path.exists("/dev/fuse"), "a device to open: modprobe fuse")
    assert sh(script, cwd="/proc/self/fd/40", after=Filesystems, act=forget) == "open\n"


# CVE-2025-31133: /dev/null is a link when files are covered with it, and what it leads to is seen in their place


def exchange(path, target):
    """In the container's root, before it is the root: put a link in the place of something."""

    def act():
        subprocess.run(["umount", "-l", f"{ROOT}{path}"], stderr=subprocess.DEVNULL)
        (os.rmdir if os.path.isdir(f"{ROOT}{path}") else os.unlink)(f"{ROOT}{path}")
        os.symlink(target, f"{ROOT}{path}")

    return act


class ByPath(Masked):
    """As in runc before: by paths, and with whatever is found there."""

    def inside(self):
        mount(f"{self.root}/dev/null", f"{self.root}/proc/keys", flags=MS_BIND)


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "SECRET"])
def test_2025_31133_files_are_covered_with_the_device_alone(host, target):
    """/proc/keys would be the switch of the host, and writable; or any file of the host."""
    act = exchange("/dev/null", str(host) if target == "SECRET" else target)
    script = "cat /proc/keys; test -w /proc/keys && echo writable"
    with pytest.raises(ContainerError, match=r"Masked: openat2\(dev/null\): Too many levels of symbolic links"):
        sh(script, after=Filesystems, act=act)
    expected = SECRET if target == "SECRET" else Path(target).read_text()
    shown = sh(script, after=Filesystems, act=act, instead={Masked: ByPath(ROOT)}, kept=ALL)
    assert expected in shown and "writable" in shown


@pytest.mark.parametrize("kind", ["file", "other device", "nothing"])
def test_2025_31133_nothing_else_takes_the_place_of_the_device(kind):
    def act():
        subprocess.run(["umount", f"{ROOT}/dev/null"], check=True)
        os.unlink(f"{ROOT}/dev/null")
        if kind == "file":
            Path(f"{ROOT}/dev/null").touch()
        elif kind == "other device":
            os.mknod(f"{ROOT}/dev/null", stat.S_IFBLK | 0o666, os.makedev(1, 3))

    with pytest.raises(ContainerError, match="null"):
        sh("cat /proc/keys", after=Filesystems, act=act)


# CVE-2025-52565: /dev/console, or the terminal that is mounted on it, becomes a link at the last moment


def test_2025_52565_the_console_is_mounted_where_it_was_made(monkeypatch):
    """What a container that shares /dev would do between the two calls, done by the first of them."""

    def opened(path, *words, **how):
        made = real(path, *words, **how)
        if path == "/dev/console":
            os.rename("/dev/console", "/dev/moved")
            os.symlink("/etc/passwd", "/dev/console")
        return made

    script = "grep -o ' /dev/moved \\| /etc/passwd ' /proc/mounts"
    console = terminal.Terminal(console=True)

    def shown():
        argv, isolators, settings = container(ready("busybox"), ["sh", "-c", script], terminal=[console])
        return run(argv, *isolators, **settings, timeout=10).stdout.split()

    real = os.open
    monkeypatch.setattr(terminal.os, "open", opened)
    assert shown() == ["/dev/moved"]
    monkeypatch.setattr(terminal, "mount", lambda source, target, **how: mount(source, "/dev/console", **how))
    assert shown()[-1] == "/etc/passwd"


# CVE-2025-52881: what the engine writes or reads in /proc is led elsewhere


def false_proc():
    """Another file system in the place of /proc: its files are those that somebody chose."""
    mount("tmpfs", f"{ROOT}/proc", "tmpfs")
    os.mkdir(f"{ROOT}/proc/self")


def test_2025_52881_masks_are_for_the_kernels_proc(monkeypatch):
    with pytest.raises(ContainerError, match="Masked: /proc: it is not of the kernel's own file system"):
        sh("true", after=Filesystems, act=false_proc)
    monkeypatch.setattr(paths, "check_proc", lambda descriptor: None)
    monkeypatch.setattr(devices, "check_proc", lambda descriptor: None)
    assert sh("ls /proc", after=Filesystems, act=false_proc, without=[NoDevices], cwd="/") == "self\n"


@pytest.mark.parametrize("way", ["mount", "link"])
def test_2025_52881_a_mask_does_not_follow_a_link_or_a_mount(way, host):
    """/proc/sys is to be read-only; where it leads elsewhere, that would be, and /proc/sys would not."""

    def act():
        mount("tmpfs" if way == "mount" else str(host), f"{ROOT}/proc/{'sys' if way == 'mount' else 'timer_list'}",
              "tmpfs" if way == "mount" else None, 0 if way == "mount" else MS_BIND)  # fmt: skip

    with pytest.raises(ContainerError, match="Masked: openat2.*Invalid cross-device link"):
        sh("true", after=Filesystems, act=act)


def test_2025_52881_a_false_list_of_mounts_opens_no_device(monkeypatch):
    """It says that the root is a file system of terminals, where no node can be made."""
    need(os.path.exists("/dev/fuse"), "a device to open: modprobe fuse")

    def act():
        number = os.stat("/").st_dev
        line = f"1 1 {os.major(number)}:{os.minor(number)} / / rw - devpts none rw\n"
        mount("tmpfs", "/proc", "tmpfs")
        os.makedirs("/proc/self/fd")
        Path("/proc/self/mountinfo").write_text(line)

    script = "mknod /node c 10 229; : </node && echo open"
    with pytest.raises(ContainerError, match="NoDevices: /proc: it is not of the kernel's own file system"):
        sh(script, after=PivotRoot, act=act)
    monkeypatch.setattr(devices, "check_proc", lambda descriptor: None)
    assert sh(script, after=PivotRoot, act=act) == "open\n"


@pytest.mark.parametrize("target", ["/proc/self/mountinfo", "/proc/kcore", "/proc/sys", "/proc/self/fd"])
@pytest.mark.parametrize("name", ["hosts", "hostname"])
def test_2025_52881_files_of_etc_do_not_land_in_proc(images, name, target):
    """The image has a link there. A container that starts has its own /proc, and one that would not does not start."""

    def change(root):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to(target)

    home = images("leads", change)
    shown = minidocker(home, "run", "-h", "here", "leads", "sh", "-c", f"grep -c -e here -e localhost {target}")
    assert shown.stdout in ("", "0\n") and shown.returncode in (1, 2, 125), shown


# All at once

LOT = r"""#!/bin/sh
try() {
    name=$1; shift
    if ( "$@" ) >/tmp/said 2>&1 </dev/null; then echo "$name: OPEN"; else echo "$name: closed"; fi
}
node() { mknod $1 $2 $3 $4; : <$1; }
write() { echo x >"$1"; }
full() { test -n "$(head -c 9 $1)"; }
climb() { mkdir /jail; chroot /jail /bin/true; cd /proc/1/root/..; test -e $SECRET; }
ajar() {
    for p in /proc/[0-9]*; do
        for n in $p/cwd $p/root $p/fd/*; do cat $n/$SECRET $n/../../..$SECRET && return; done
    done
    false
}
again() { exec 3<$1; echo x >/proc/self/fd/3; }
agent() { mkdir /tmp/cg; mount -t cgroup -o memory it /tmp/cg && write /tmp/cg/release_agent; }
alone() { unshare -Urm sh -c 'mkdir /tmp/m; mount -t tmpfs none /tmp/m'; }

try disk node /disk b $DISK
try fuse node /dev/shm/fuse c 10 229
try mem node /mem c 1 1
try kmsg node /kmsg c 1 11
try kcore full /proc/kcore
try keys full /proc/keys
try timers full /proc/timer_list
try firmware sh -c 'test -n "$(ls /sys/firmware)"'
try dmesg dmesg
try core_pattern write /proc/sys/kernel/core_pattern
try sysrq write /proc/sysrq-trigger
try irq write /proc/irq/default_smp_affinity
try sysfs write /sys/kernel/mm/ksm/run
try limits write /sys/fs/cgroup/memory.max
try mount mount -t tmpfs none /mnt
try remount mount -o remount,rw,bind /sys
try uncover umount /proc/keys
try release_agent agent
try unshare alone
try nsenter nsenter -t 1 -m -n -u -i true
try hostname hostname owned
try memory sh -c 'head -c 1 /proc/1/mem'
try climb climb
try descriptors ajar
try given again /given
try path test -e $SECRET
try swapoff swapoff -a
try module insmod /bin/busybox
try clock hwclock -w
try link ip link set lo down
echo done
"""


def test_a_hostile_image_that_tries_the_lot(images, host, tmp_path):
    """Each attempt is a line. With all walls down some of them work, so that the script is known to try."""

    def change(root):
        (root / "lot").write_text(LOT)
        (root / "lot").chmod(0o755)
        os.mknod(root / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
        (root / "etc/passwd").unlink(missing_ok=True)
        os.mkfifo(root / "etc/passwd")

    home = images("hostile", change, Cmd=["/lot"], User="0:0")
    disk = Path("/sys/block/loop0/dev").read_text() if os.path.exists("/sys/block/loop0") else "1:0"
    said = ["-v", f"{host}:/given:ro", "-e", f"SECRET={host}", "-e", f"DISK={disk.strip().replace(':', ' ')}"]
    shown = minidocker(home, "run", "--rm", *said, "hostile")
    lines = dict(line.split(": ") for line in shown.stdout.splitlines() if ": " in line)
    assert shown.stdout.endswith("done\n") and len(lines) >= 30, shown
    assert [name for name, ended in lines.items() if ended != "closed"] == []
    assert host.read_text() == SECRET
