"""The attacks of chapter 9 under minidocker, Docker and Podman; and each with its wall down, which proves the test."""

import json
import socket

import pytest
from attacks import ATTACKS, HARMFUL

from minidocker.security.capabilities import NAMES
from tests.helpers import BARE, GUEST, HOME, REPO, python
from tests.helpers.images import minidocker

PAGE = REPO / "chapters/09_security"

pytestmark = pytest.mark.chapter(9)

HOSTS = [("/usr", "/usr"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64"), (str(PAGE), "/mnt")]
VOLUMES = [f"-v={source}:{target}:ro" for source, target in HOSTS]
ATTACK = ["/usr/bin/python3", "/mnt/attacks.py"]
ABSENT = ("ENOSYS", "ENOENT")  # this kernel does not have it
WORKS = {name: one.off for name, one in ATTACKS.items() if one.off}


def outcomes(text):
    """name -> how it ended."""
    return dict(line.split(": ") for line in text.splitlines())


def tried(flags="", names=()):
    """What a container with these flags can do."""
    with socket.socket(socket.AF_UNIX) as host:
        host.bind("\0minidocker-attack")
        host.listen()
        shown = minidocker(HOME, "run", "--rm", "--rm", *flags.split(), *VOLUMES, "busybox", *ATTACK, *names)
    assert (shown.returncode, shown.stderr) == (0, "")
    return outcomes(shown.stdout)


def lacking(flags):
    """Whether root of this machine does not have a capability that the flags give."""
    with open("/proc/self/status") as file:
        mine = int(next(line.split()[1] for line in file if line.startswith("CapBnd")), 16)
    return any(word in NAMES and not mine >> NAMES.index(word) & 1 for word in flags.split())


@pytest.fixture(scope="module")
def defended():
    return tried("", ATTACKS)


@pytest.fixture(scope="module")
def naked():
    """What this kernel has at all: with every wall down that a flag takes down."""
    return tried("--privileged --network host")


PEER = """
import json, sys
from contextlib import nullcontext
from tools.bench.engines import archive, docker_client, on_disk, podman_client
from tools.bench.sandbox import GROUP, PATH, ROOT, checked, lab

engine, volumes, attack = sys.argv[1], *map(json.loads, sys.argv[2:])
clients = {"docker": docker_client, "podman": lambda *places: nullcontext(podman_client(*places))}
with lab() as scratch, on_disk() as data, clients[engine](scratch, data) as client:
    checked([*client, "import", str(archive(scratch, ROOT)), "bench"])
    run = ["run", "--rm", "--network=none", f"--cgroup-parent=/{GROUP}-{engine}", *volumes, "bench", *attack]
    print(checked([*client, *run]))
"""


def wanted(name):
    return "worked" if ATTACKS[name].on else ATTACKS[name].ends


def test_each_attack_ends_at_its_wall(defended, naked):
    """Exactly as the table says; what is not in this kernel ends as it does without walls."""
    found = {name: how for name, how in defended.items() if how not in ABSENT or how != naked.get(name)}
    assert found == {name: wanted(name) for name in found}
    assert {*defended} == {*ATTACKS}


@pytest.mark.xfail(bool(BARE), reason="the guest has no Docker, and no room for Podman", run=False)
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_under_another_engine_it_is_the_same(engine, defended):
    """But for what the table says, with the reason; and nodev says EACCES where a cgroup says EPERM."""
    wrong = {}
    for name, how in outcomes(
        python(PEER, engine, json.dumps(VOLUMES), json.dumps([*ATTACK, *ATTACKS])).stdout.strip()
    ).items():
        other = ATTACKS[name].differs.get(engine, ("", ""))[0]
        if other == "worked" and how in ATTACKS[name].through:
            continue
        if how != other and how.replace("EACCES", "EPERM") != defended[name].replace("EACCES", "EPERM"):
            wrong[name] = (how, defended[name])
    assert wrong == {}


@pytest.mark.parametrize("off", sorted({*WORKS.values()}))
def test_without_its_wall_each_works(off, naked):
    """One wall at a time, and only what is harmless then."""
    names = [name for name, flags in WORKS.items() if flags == off and name not in HARMFUL]
    stopped = {
        name: how
        for name, how in (tried(off, names) if names else {}).items()
        if how not in ("worked", *ATTACKS[name].through)
        and not (how == naked[name] and (how in ABSENT or lacking(off)))
    }
    assert stopped == {}


@pytest.mark.parametrize("on", sorted({one.on for one in ATTACKS.values() if one.on}))
def test_a_wall_that_docker_leaves_down_can_be_put_up(on):
    names = [name for name, one in ATTACKS.items() if one.on == on]
    assert tried(on, names) == {name: ATTACKS[name].ends for name in names}


@pytest.mark.xfail(not GUEST, reason="it would hurt this machine", run=False)
@pytest.mark.parametrize("name", HARMFUL)
def test_what_would_hurt_works_in_a_virtual_machine(name):
    assert tried(ATTACKS[name].off, [name]) == {name: "worked"}
