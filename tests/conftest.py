"""What all tests share: which chapter they belong to, what they may skip, and that they leave nothing behind.

pytest --chapter 3                                     only the tests that are marked chapter(3)
MINIDOCKER_MODULE_03=my_cgroups.py pytest --chapter 3  the same, against a reader's own module
MINIDOCKER_MUST_WORK=1 pytest                          a skip is a failure
"""

import gc
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.helpers import GUEST, must_work, need
from tests.helpers.swap import PACKAGES, module_of, reader_file, swap
from tests.helpers.traces import traces

# Seconds: the kernel removes a network namespace, and systemd a cgroup, some time after their last process; and a
# server of the union ends after its mount.
SETTLE = 30.0 if GUEST else 2.0

for _place in PACKAGES.values():  # for the processes that tests start; pyproject.toml has it for this one
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_place)]))

swapped = pytest.StashKey[str]()


# What may be skipped


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


# Ways to start, and places to be


@pytest.fixture(params=["fork", "launcher"])
def way(request, monkeypatch):
    """With a second thread alive the launcher is asked; without one the process forks. (Libraries may hold threads.)"""
    from minidocker import child
    from minidocker import process as engine

    if request.param == "fork":
        if len(os.listdir("/proc/self/task")) > 1:
            monkeypatch.setattr(engine, "_parent", child.Forked)
        yield request.param
        return
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    yield request.param
    release.set()
    thread.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A state directory for the commands of a module's tests; its store has busybox."""
    from tests.helpers.images import new_store

    home = tmp_path_factory.mktemp("home")
    new_store(home)
    return home


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A state directory for this process, and for this test alone."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def host(own_home):
    """This thread is on a host of its own meanwhile, which keeps its files in a directory of its own."""
    from hosts import two_hosts

    need(os.geteuid() == 0, "networks need root")
    with two_hosts() as (here, lan), here.entered():
        here.lan = lan
        yield here


@pytest.fixture
def lan(host):
    """The other host."""
    return host.lan
