"""Chapter 10: update, rename, and what a container that stays was started with: the same after each restart."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from minidocker.cgroups.hierarchy import hierarchies, read
from minidocker.engine import records
from minidocker.images import image
from minidocker.images.store import Store
from tests.helpers import until

pytestmark = pytest.mark.chapter(10)
RUN = ("run", "-d", "--network=none")
WAIT = ("busybox", "sh", "-c", "exec sleep 1000")
FILES = {  # limit -> its file in version 2, and in 1
    "memory": ("memory.max", "memory.limit_in_bytes"),
    "cpus": ("cpu.max", "cpu.cfs_quota_us"),
    "pids": ("pids.max", "pids.max"),
}


def do(*words, code=0, **options):
    """One command; its result, if it ended with this code."""
    command = [sys.executable, "-m", "minidocker", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert code is None or done.returncode == code, (words, done.returncode, done.stderr)
    return done


@pytest.fixture
def box():
    """The name of a container; those that tests make beside it begin so."""
    name = f"settings{os.getpid()}"
    yield name
    for record in records.records():
        if record.name.startswith(name):
            do("rm", "-fv", record.id)


def limit(name, which):
    """What the kernel says."""
    short = records.find(name).short
    for one in hierarchies():
        for file in FILES[which]:
            if text := read(f"{one.parent}/{short}/{file}"):
                return text.split()[0]
    return None


def test_limits_change_at_once_and_stay(box):
    do(*RUN, "--name", box, "-m", "64m", *WAIT)
    assert do("update", "-m", "96m", "--cpus", "0.5", "--pids-limit", "20", box).stdout == f"{box}\n"
    wanted = {"memory": str(96 << 20), "cpus": "50000", "pids": "20"}
    assert {which: limit(box, which) for which in FILES} == wanted
    do("restart", "-t", "0", box)
    assert {which: limit(box, which) for which in FILES} == wanted
    do("update", "--pids-limit", "-1", "-m", "32m", box)
    assert limit(box, "pids") == "max" and limit(box, "memory") == str(32 << 20)


def test_a_container_that_does_not_run_has_them_at_its_next_start(box):
    do("create", "--network=none", "--name", box, *WAIT)
    do("update", "--pids-limit", "30", box)
    do("start", box)
    assert limit(box, "pids") == "30"


def test_what_is_refused_changes_nothing(box):
    do(*RUN, "--name", box, "-m", "64m", "--pids-limit", "20", *WAIT)
    before = records.find(box).config
    for words in (("-m", "1m"), ("--cpus", "many"), ("--restart", "sometimes"), ("--memory-swap", "32m"), ()):
        done = do("update", *words, box, code=1)
        assert done.stderr.startswith("minidocker: ") and done.stderr.count("\n") == 1
    do("update", "--pids-limit", "30", "-m", "3g", "--memory-swap", "2g", box, code=1)
    assert records.find(box).config == before
    assert (limit(box, "pids"), limit(box, "memory")) == ("20", str(64 << 20))
    assert "no such container" in do("update", "--pids-limit", "30", f"{box}-no", box, code=1).stderr
    assert limit(box, "pids") == "30"


def test_memory_that_is_in_use_cannot_be_taken_and_then_nothing_changes(box):
    fill = "head -c 40000000 /dev/zero >/dev/shm/x; echo ready; exec sleep 1000"
    do(*RUN, "--name", box, "-m", "64m", "--cpus", "1", "busybox", "sh", "-c", fill)
    assert until(lambda: "ready" in do("logs", box).stdout)
    done = do("update", "-m", "8m", "--cpus", "0.5", box, code=None)
    if done.returncode:  # version 1; in version 2 the kernel ends a process instead
        assert (limit(box, "cpus"), limit(box, "memory")) == ("100000", str(64 << 20))
        assert records.find(box).config["options"]["cpus"] == "1"


def test_the_restart_policy_changes_for_one_that_runs(box):
    do(*RUN, "--name", box, "busybox", "sh", "-c", "sleep 0.7; exit 3")
    do("update", "--restart", "on-failure:1", box)
    state = records.find(box).state
    assert until(lambda: state()["restarts"] == 1 and state()["status"] == "exited")
    do(*RUN, "--rm", "--name", f"{box}-rm", *WAIT)
    assert "exclude each other" in do("update", "--restart", "always", f"{box}-rm", code=1).stderr


def test_many_changes_at_once_are_all_there(box):
    do(*RUN, "--name", box, *WAIT)
    words = [("--pids-limit", "33"), ("--cpus", "0.7"), ("-m", "70m"), ("--restart", "always"), ("--cpu-weight", "50")]
    identity = records.find(box).id
    threads = [threading.Thread(target=do, args=("update", *pair, identity)) for pair in words]
    threads.append(threading.Thread(target=do, args=("rename", identity, f"{box}-new")))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    config = records.find(f"{box}-new").config
    found = {name: config["options"][name] for name in ("pids-limit", "cpus", "memory", "restart", "cpu-weight")}
    assert [*found.values()] == ["33", "0.7", "70m", "always", "50"] and config["name"] == f"{box}-new"


def test_rename_refuses_what_is_taken_and_what_is_no_name(box):
    do("create", "--network=none", "--name", box, *WAIT)
    do("create", "--network=none", "--name", f"{box}-b", *WAIT)
    for name in (box, f"{box}-b", "", "../x", "a b", "-x"):
        assert do("rename", "--", box, name, code=1).stderr.count("\n") == 1
    assert "no such container" in do("rename", f"{box}-c", f"{box}-d", code=1).stderr
    do("rename", box, f"{box}-c")
    do("rename", f"{box}-b", box)
    assert records.find(f"{box}-c").id != records.find(box).id


def test_of_two_that_want_a_name_one_gets_it(box):
    names = [f"{box}-{number}" for number in range(4)]
    for name in names:
        do("create", "--network=none", "--name", name, *WAIT)
    codes = []
    threads = [
        threading.Thread(target=lambda name=name: codes.append(do("rename", name, box, code=None).returncode))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0, 1, 1, 1]


def test_what_is_in_memory_is_empty_again_and_what_is_read_only_stays_so(box):
    script = "df -P /dev/shm /t | tail -n 2 | awk '{print $2}'; ls /t; touch /t/x; touch /x 2>/dev/null || echo no"
    flags = ("--shm-size", "128k", "--tmpfs", "/t:size=64k", "--read-only", "--ulimit", "nofile=77")
    do(*RUN, "--name", box, *flags, "busybox", "sh", "-c", f"{script}; ulimit -n")
    for number in (1, 2):
        until(lambda: records.find(box).state()["status"] == "exited")
        assert do("logs", box).stdout == "128\n64\nno\n77\n" * number
        do("start", box) if number == 1 else None
    assert do("run", "--rm", "--network=none", "--shm-size", "1x", "busybox", code=125).stderr.count("\n") == 1


def test_a_relative_path_is_the_one_of_then(box, tmp_path):
    (tmp_path / "here").mkdir()
    do(*RUN, "--name", box, "-v", "./here:/v:ro", "busybox", "ls", "/v", cwd=tmp_path)
    until(lambda: records.find(box).state()["status"] == "exited")
    (tmp_path / "here/file").touch()
    do("start", "-a", box, cwd="/")
    assert do("logs", box).stdout == "file\n"


def test_a_relative_profile_and_a_relative_mount_are_those_of_then(box, tmp_path):
    tmp_path = tmp_path / 'with, a "comma'
    (tmp_path / "a b").mkdir(parents=True)
    (tmp_path / "a b/file").touch()
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    words = ("--security-opt", "seccomp=profile.json", "--mount", "type=bind,source=./a b,target=/v")
    do(*RUN, "--name", box, *words, *WAIT, cwd=tmp_path)
    assert "not permitted" in do("exec", box, "mkdir", "/x", code=1, cwd="/").stderr
    assert do("exec", box, "ls", "/v", cwd="/").stdout == "file\n"


def test_a_stopsignal_that_is_none_is_sigterm_with_a_word(box):
    store = Store()
    base = image.find(store, "busybox")
    with store.writing():
        config = base.config | {"config": base.config["config"] | {"StopSignal": "SIGNONSENSE"}}
        store.tag(box, image.make(store, config, base.manifest["layers"]).descriptor)
    do(*RUN, "--name", box, box, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    assert until(lambda: "ready" in do("logs", box).stdout)
    assert "no signal" in do("stop", "-s", "NONSENSE", box, code=1).stderr
    told = do("stop", box).stderr
    assert told.count("\n") == 1 and "SIGNONSENSE" in told and "SIGTERM" in told
    assert records.find(box).state()["exit_code"] == 7
    do("rm", box)
    do("rmi", box)


def test_volumes_of_another_container(box, tmp_path):
    (tmp_path / "f").write_text("bound")
    mount = f"type=bind,source={tmp_path},target=/m"
    do(*RUN, "--name", box, "-v", "/anonymous", "-v", f"{tmp_path}:/b:ro", "--mount", mount, *WAIT)
    do("exec", box, "touch", "/anonymous/there")
    again = ("run", "--rm", "--network=none", "--volumes-from", box)
    assert do(*again, "busybox", "ls", "/anonymous", "/b", "/m").stdout.split() == [
        "/anonymous:", "there", "/b:", "f", "/m:", "f",
    ]  # fmt: skip
    assert "Read-only" in do(*again, "busybox", "touch", "/b/x", code=1).stderr
    again = (*again[:-1], f"{box}:ro")
    for path in ("/anonymous/x", "/b/x", "/m/x"):
        assert "Read-only" in do(*again, "busybox", "touch", path, code=1).stderr
    do(*RUN, "--name", f"{box}-b", "--volumes-from", box, "-v", "/b", *WAIT)
    assert do("exec", f"{box}-b", "ls", "/b").stdout == ""  # what it has itself wins
    do("rm", "-fv", box)
    assert do("exec", f"{box}-b", "ls", "/anonymous").stdout == "there\n"
    assert do("run", "--volumes-from", f"{box}-no", "busybox", code=125).stderr.count("\n") == 1
    assert do("run", "--volumes-from", f"{box}-b:x", "busybox", code=125).stderr.count("\n") == 1


def test_platforms_and_signals_are_judged_at_the_start(box):
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    do("run", "--rm", "--network=none", "--platform", f"linux/{here}", "busybox", "true")
    for platform in ("linux/s390x", "nonsense"):
        assert "this machine is linux/" in do("run", "--rm", "--platform", platform, "busybox", code=125).stderr
    assert "no signal" in do(*RUN, "--name", box, "--stop-signal", "FOO", *WAIT, code=125).stderr
    trap = "trap 'echo got; exit 5' RTMIN+3; echo ready; while :; do sleep 0.1; done"
    do(*RUN, "--name", box, "--stop-signal", "SIGRTMIN+3", "debian", "bash", "-c", trap)
    assert until(lambda: "ready" in do("logs", box).stdout)
    do("stop", box)
    assert "got" in do("logs", box).stdout and records.find(box).state()["exit_code"] == 5


def test_a_document_that_is_half_written_is_never_seen(box):
    do("create", "--network=none", "--name", box, *WAIT)
    path = pathlib.Path(records.find(box).path, "config.json")
    over = threading.Event()

    def change():
        for number in range(10, 22):
            do("update", "--pids-limit", number, box)
        over.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not over.is_set():
        assert json.loads(path.read_text())["name"] == box
    thread.join()
