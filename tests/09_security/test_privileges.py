"""What --security-opt and --ulimit ask for; and /proc/self/status beside that of Docker and Podman."""

import json
import os

import pytest

from tests.helpers import BARE, HOME, python
from tests.helpers.images import minidocker

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root"),
]
KEYS = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def lines(text):
    words = (line.split() for line in text.splitlines() if ":\t" in line)
    return {key.rstrip(":"): value for key, *rest in words if key.rstrip(":") in KEYS for value in rest}


def status(*flags, pid="self"):
    shown = minidocker(HOME, "run", "--rm", *flags, "busybox", "cat", f"/proc/{pid}/status")
    assert (shown.returncode, shown.stderr) == (0, "")
    return lines(shown.stdout)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("", "0 2 1"),
        ("-u nobody", "0 2 1"),
        ("--init", "0 2 1"),
        ("--cap-add ALL", "0 2 1"),
        ("--cap-drop ALL", "0 2 1"),
        ("--security-opt no-new-privileges", "1 2 1"),
        ("--security-opt no-new-privileges=true --cap-drop ALL -u nobody --init", "1 2 1"),
        ("--security-opt no-new-privileges=false --security-opt apparmor=unconfined", "0 2 1"),
        ("--security-opt seccomp=unconfined --security-opt label=disable", "0 0 0"),
        ("--privileged", "0 0 0"),
    ],
)
def test_status(flags, wanted):
    found = status(*flags.split())
    assert " ".join(found[key] for key in KEYS[:3]) == wanted
    if "--init" in flags:
        assert status(*flags.split(), pid=1) == found


def test_a_profile_that_is_asked_for_is_for_privileged_containers_too(tmp_path):
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert status("--privileged", "--security-opt", f"seccomp={tmp_path}/p.json")["Seccomp"] == "2"


def test_a_step_of_a_build_has_the_filter(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN grep ^Seccomp: /proc/self/status > /found; cat /found\n")
    shown = minidocker(HOME, "build", "--no-cache", str(tmp_path))
    assert "Seccomp:\t2" in shown.stdout + shown.stderr, shown


PEERS = """
import json, sys
from tools.bench.engines import archive, docker_client, on_disk, podman_client
from tools.bench.sandbox import GROUP, ROOT, checked, lab

def tried(client, name):
    checked([*client, "import", str(archive(scratch, ROOT)), "bench"])
    run = [*client, "run", "--rm", "--network=none", f"--cgroup-parent=/{GROUP}-{name}"]
    return [checked([*run, *flags, "bench", "cat", "/proc/self/status"]) for flags in json.loads(sys.argv[1])]

with lab() as scratch, on_disk() as data, on_disk() as other:
    with docker_client(scratch, data) as client:
        found = {"docker": tried(client, "docker")}
    (scratch / "podman").mkdir()
    found["podman"] = tried(podman_client(scratch / "podman", other), "podman")
print(json.dumps(found))
"""
ASKED = (
    [],
    ["--user=65534"],
    ["--security-opt=no-new-privileges"],
    ["--cap-drop=ALL", "--cap-add=KILL"],
    ["--security-opt=seccomp=unconfined"],
)


without_peers = pytest.mark.xfail(bool(BARE), reason="the guest has no Docker, and no room for Podman", run=False)


@pytest.fixture(scope="module")
def peers():
    return json.loads(python(PEERS, json.dumps(ASKED)).stdout)


@without_peers
@pytest.mark.parametrize("asked", range(len(ASKED)))
def test_docker_has_the_same(peers, asked):
    assert status(*ASKED[asked]) == lines(peers["docker"][asked])


@without_peers
@pytest.mark.parametrize("asked", range(len(ASKED)))
def test_podman_has_the_same_but_for_its_capabilities(peers, asked):
    """It keeps eleven, and not fourteen."""
    ours, theirs = status(*ASKED[asked]), lines(peers["podman"][asked])
    assert {key: ours[key] for key in KEYS[:3]} == {key: theirs[key] for key in KEYS[:3]}


@pytest.mark.parametrize(
    "word", ["", "x", "seccomp", "seccomp=", "no-new-privileges=yes", "apparmor=docker-default", "label=user:a"]
)
def test_what_we_do_not_know_is_an_error_that_names_it(word):
    shown = minidocker(HOME, "run", "--rm", "--security-opt", word, "busybox", "true")
    assert shown.returncode == 125
    assert shown.stderr.startswith(f"minidocker: --security-opt {word}: ") and shown.stderr.count("\n") == 1


def test_no_new_privileges_takes_the_effect_from_set_user_id(tmp_path):
    """A set-user-ID copy of busybox: root's for nobody, and with the flag nobody's."""
    script = "cp /usr/bin/id /id; chmod 4755 /id; exec setpriv --reuid 65534 --clear-groups /id -u"
    for flags, user in ([], "0"), (["--security-opt", "no-new-privileges"], "65534"):
        shown = minidocker(HOME, "run", "--rm", *flags, "debian", "sh", "-c", script)
        assert shown.stdout == f"{user}\n", shown


@pytest.mark.parametrize(
    ("word", "file", "soft", "hard"),
    [
        ("nofile=77:99", "Max open files", "77", "99"),
        ("nofile=88", "Max open files", "88", "88"),
        ("core=-1", "Max core file size", "unlimited", "unlimited"),
        ("core=0:-1", "Max core file size", "0", "unlimited"),
        ("nproc=1000", "Max processes", "1000", "1000"),
        ("rttime=5000000", "Max realtime timeout", "5000000", "5000000"),
        ("locks=7", "Max file locks", "7", "7"),
    ],
)
def test_limits_are_there_also_for_another_user_and_behind_an_init(word, file, soft, hard):
    words = ["--ulimit", word, "-u", "nobody", "--init", "busybox", "grep", file, "/proc/self/limits"]
    shown = minidocker(HOME, "run", "--rm", *words)
    assert shown.stdout.removeprefix(file).split()[:2] == [soft, hard], shown


@pytest.mark.parametrize(
    "word",
    [
        "nofile",
        "nofile=",
        "nofile=9:3",
        "nofile=-1:3",
        "x=1",
        "nofile=a",
        "nofile=1:2:3",
        "nofile=1:",
        "nofile=\u0663",
        f"core={10**30}",
        "",
    ],
)
def test_a_limit_that_is_none_is_one_line(word):
    shown = minidocker(HOME, "run", "--rm", "--ulimit", word, "busybox", "true")
    assert shown.returncode == 125
    assert shown.stderr.startswith(f"minidocker: --ulimit {word}: NAME=SOFT") and shown.stderr.count("\n") == 1


def test_a_limit_that_the_machine_refuses_names_it():
    shown = minidocker(HOME, "run", "--rm", "--ulimit", "nofile=-1", "busybox", "true")  # fs.nr_open is the most
    assert shown.returncode == 125
    assert shown.stderr == "minidocker: prlimit64(nofile): Operation not permitted\n"


RUNC = """
import json
from tools.bench import peers
from tools.bench.sandbox import checked, lab

with lab() as scratch:
    command = peers.oci(scratch, "runc", walls=True)
    config = scratch / "runc-walls/config.json"
    bundle = json.loads(config.read_text())
    bundle["process"]["args"] = ["sh", "-c", "cat /proc/self/status; cut -d' ' -f5 /proc/self/mountinfo"]
    config.write_text(json.dumps(bundle))
    print(checked(command))
"""


@without_peers
def test_the_bundle_of_the_bench_has_the_same_walls():
    """Beside `minidocker run` it would prove nothing to time a runc that puts up fewer."""
    theirs = python(RUNC).stdout
    assert lines(theirs) == status()
    for path in ("/proc/sys", "/proc/keys", "/dev/mqueue", "/dev/shm", "/dev/pts"):
        assert path in theirs.splitlines()
