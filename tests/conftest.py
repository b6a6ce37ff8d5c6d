"""What all tests share: which chapter they belong to, what they may skip, and that they leave nothing behind.

pytest --chapter 3                                     only the tests that are marked chapter(3)
MINIDOCKER_MODULE_03=my_cgroups.py pytest --chapter 3  the same, against a reader's own module
MINIDOCKER_MUST_WORK=1 pytest                          a skip is a failure
"""

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"))
MODULES = {
    0: "minidocker.process",
    1: "minidocker.rootfs",
    2: "minidocker.namespaces",
    3: "minidocker.cgroups",
    4: "minidocker.union",
    5: "minidocker.images.apply",
    6: "minidocker.volumes",
    7: "minidocker.network",
    8: "bench.memory",
}  # the module that a reader of a chapter may write; of a package, its `__init__`
PACKAGES = {"minidocker": REPO, "bench": REPO / "chapters/08_versus_vms"}  # and where the package lies
GUEST = os.environ.get("MINIDOCKER_GUEST")  # "qemu" or "uml": a machine whose processor may be emulated
# Seconds: the kernel removes a network namespace, and systemd a cgroup, some time after their last process; and a
# server of the union ends after its mount.
SETTLE = 30.0 if GUEST else 2.0
STATE = ("containers", "merged", "build", "tmp", "ready", "network", "volumes")  # made at first use, to stay

sys.path.insert(0, str(REPO / "tools"))  # some tests are about them
for _place in PACKAGES.values():
    sys.path.append(str(_place))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_place)]))

swapped = pytest.StashKey[str]()


# What may be skipped


def must_work():
    """Whether this machine must be able to run everything, as CI's must."""
    return os.environ.get("MINIDOCKER_MUST_WORK", "") not in ("", "0")


def need(condition, reason):
    """Skip the test unless the condition holds; where everything must work, fail it."""
    __tracebackhide__ = True
    if not condition:
        (pytest.fail if must_work() else pytest.skip)(reason)


def fail_if_skipped(report):
    """Turn a skip into a failure where everything must work. (An expected failure is reported as a skip, too.)"""
    if report.skipped and must_work() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"MINIDOCKER_MUST_WORK is set, and this did not run: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Each test, with its set-up and tear-down."""
    return fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """A whole file that skips itself."""
    return fail_if_skipped((yield))


# Chapters


def pytest_addoption(parser):
    """--chapter N."""
    parser.addoption("--chapter", type=int, metavar="N", help="run only the tests that are marked chapter(N)")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of other chapters."""
    wanted = config.getoption("--chapter")
    if wanted is None:
        return
    here = [item for item in items if any(mark.args == (wanted,) for mark in item.iter_markers("chapter"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = here


def pytest_configure(config):
    """Put a reader's modules in the place of the package's own, before anything imports that."""
    theirs = {name: value for name, value in os.environ.items() if name.startswith("MINIDOCKER_MODULE_") and value}
    if theirs:
        config.stash[swapped] = swap({module_of(name): reader_file(name, value) for name, value in theirs.items()})


def module_of(variable):
    """MINIDOCKER_MODULE_03 stands for `minidocker.cgroups`."""
    number = variable.rpartition("_")[2]
    if not number.isdecimal() or int(number) not in MODULES:
        known = ", ".join(f"{chapter:02} ({name})" for chapter, name in MODULES.items())
        raise pytest.UsageError(f"{variable}: there is no module to swap for {number!r}; known are {known}")
    return MODULES[int(number)]


def reader_file(variable, value):
    """The reader's file, which must exist."""
    path = Path(value).absolute()
    if not path.is_file():
        raise pytest.UsageError(f"{variable}={value}: there is no such file (looked for {path})")
    return path


def swap(files):
    """Make a directory in which the packages are links to their modules, and to the reader's; put it first.

    Through sys.path and PYTHONPATH the launcher, kernels and other programs find the same modules as the tests.
    """
    directory = tempfile.mkdtemp(prefix="swapped-")
    link_packages(directory, files)
    sys.path.insert(0, directory)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [directory, os.environ.get("PYTHONPATH")]))
    return directory


def link_packages(directory, files):
    """Links to all packages; `files` are the reader's, by the names of their modules."""
    for package, place in PACKAGES.items():
        theirs = {name.partition(".")[2]: file for name, file in files.items() if name.partition(".")[0] == package}
        link(place / package, Path(directory, package), theirs)


def link(source, target, files):
    """Links to all modules. Where the reader's is one of a package, or its `__init__`, the others are the package's."""
    target.mkdir()
    for path in source.iterdir():
        below = {
            name.partition(".")[2] or "__init__": file
            for name, file in files.items()
            if name.partition(".")[0] == path.name
        }
        if path.is_dir() and below:
            link(path, target / path.name, below)
        elif path.name != "__pycache__":
            (target / path.name).symlink_to(files.get(path.stem, path))


def pytest_unconfigure(config):
    """Remove the links."""
    if directory := config.stash.get(swapped, None):
        shutil.rmtree(directory)


def pytest_report_header(config):
    """Whose module is tested."""
    if directory := config.stash.get(swapped, None):
        links = [path for path in Path(directory).rglob("*.py") if path.is_symlink()]
        ours = {place / package for package, place in PACKAGES.items()}
        theirs = [path for path in links if not ours & {*path.readlink().parents}]
        return [f"{path.relative_to(directory)}: {path.readlink()}" for path in theirs]
    return []


# Nothing is left behind


@pytest.fixture(autouse=True)
def nothing_left():
    """Compare the machine before and after each test. What is there at only one moment of the waiting is no leak."""
    before = traces()
    yield
    left, until = traces() - before, time.monotonic() + SETTLE
    while left and time.monotonic() < until:
        time.sleep(0.02)
        gc.collect()
        left &= traces()
    lost = {line for line in before - traces() if line.startswith(("mount ", "this process"))}
    if left or lost:
        pytest.fail("\n".join(["this test left behind:", *sorted(left), *(f"lost: {line}" for line in sorted(lost))]))


def traces():
    """Everything that a container could leave on this machine, one line of text each."""
    kinds = {
        "mount": Path("/proc/self/mountinfo").read_text().splitlines(),
        "cgroup": cgroups(),
        "network link": (name for _, name in socket.if_nameindex()),
        "firewall": firewall(),
        "process": descendants(os.getpid()),
        "descriptor": descriptors(),
        "union server": servers(),
        "directory without an owner": ownerless(),
        "this process:": (f"{name} {os.readlink(f'/proc/self/{name}')}" for name in ("root", "cwd", *namespaces())),
        "file": files(),
    }
    return {f"{kind} {text}" for kind, texts in kinds.items() for text in texts}


def cgroups():
    """The cgroups of containers: what lies below a directory `minidocker` or is named minidocker-something."""
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name.startswith("minidocker-") or "/minidocker" in directory:
                yield f"{directory}/{name}"


def firewall():
    """The tables of nft."""
    if not shutil.which("nft"):
        return []
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()


def descendants(pid):
    """Children, and theirs: "pid command line"; but not the launcher, which lives as long as its caller."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in read(children).split():
            command = read(Path(f"/proc/{child}/cmdline")).replace("\0", " ")
            if "minidocker.launcher" not in command:
                yield f"{child} {command or read(Path(f'/proc/{child}/stat'))[:40]}"
            yield from descendants(child)


def servers():
    """Those of the driver aufs that this clone started, also if their owner is dead: they end with their mount."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        command = read(path)
        if "minidocker.union.server" in command and str(REPO) in command:
            yield f"{path.parent.name} {command}"


def ownerless():
    """Directories of containers that nobody has locked: what `minidocker prune` would remove. proc(5), /proc/locks."""
    locked = {line.split()[5].rpartition(":")[2] for line in read(Path("/proc/locks")).splitlines() if "FLOCK" in line}
    for path in (HOME / "containers").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if str(path.stat().st_ino) not in locked:
                yield path.name


def read(path):
    """Its text, or nothing if it is gone meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def descriptors():
    """Open descriptors of this process, but not the one with which it talks to its launcher."""
    launcher = sys.modules.get("minidocker.launcher")
    own = launcher and launcher._Caller.socket
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the directory that listdir had open
        if int(number) != own:
            yield f"{number} {target}"


def namespaces():
    """The names of this process's own namespaces."""
    return (f"ns/{name}" for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children"))


def files():
    """Directories that an engine writes to: its state, /tmp and shared memory, the top of the roots."""
    temporary = Path(tempfile.gettempdir())
    yield from (str(path) for path in temporary.iterdir() if "minidocker" in path.name)
    for directory in (
        Path("/dev/shm"),
        Path("/run/minidocker"),
        HOME,
        *HOME.glob("roots/*"),
        *HOME.glob("roots/*/tmp"),
    ):
        if directory.is_dir():
            yield from (str(path) for path in directory.iterdir() if path.name not in STATE)
