"""Chapter 11: sentences of the OCI runtime specification, each asked of our runtime, or of MINIDOCKER_RUNTIME."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidocker.cgroups import hierarchies
from tests.helpers import need, until
from tests.helpers.images import HOME

pytestmark = [pytest.mark.chapter(11), pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
OTHER = os.environ.get("MINIDOCKER_RUNTIME", "")
RUNTIME = [OTHER] if OTHER else [sys.executable, "-m", "minidocker", "runtime"]
SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")
ours = pytest.mark.skipif(bool(OTHER), reason="of our own words")


class Bundle:
    """A directory with a root of busybox and a config.json; and a runtime that knows its containers alone."""

    def __init__(self, place):
        self.path, self.root, self.names = place, place / "state", []
        (place / "rootfs").mkdir()
        for name in ("bin", "etc"):  # its /dev has devices, which have no end
            shutil.copytree(HOME / "roots/busybox" / name, place / "rootfs" / name, symlinks=True)
        self("spec", cwd=place)
        self.config = json.loads((place / "config.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["root"]["readonly"] = False
        self.linux, self.process = self.config["linux"], self.config["process"]

    def __call__(self, *words, check=True, cwd=None, **options):
        """Call the runtime; what it prints."""
        done = self.code(*words, cwd=cwd, **options)
        assert not check or done.returncode == 0, done
        return done.stdout

    def code(self, *words, cwd=None, **options):
        command = [*RUNTIME, "--root", self.root, *words]
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
        return subprocess.run(command, cwd=cwd or self.path, timeout=60, **options)

    def write(self, *args):
        """config.json as it is now, with these arguments."""
        self.process["args"] = [*args] or self.process["args"]
        (self.path / "config.json").write_text(json.dumps(self.config))

    def created(self, *args, words=()):
        """The name of a container that waits. What it writes goes to the file `out`."""
        self.write(*args)
        self.names.append(name := f"test-{os.urandom(4).hex()}")
        with open(self.path / "out", "w") as out:
            self("create", *words, "--bundle", self.path, name, capture_output=False, stdout=out, stderr=out)
        return name

    def started(self, *args):
        name = self.created(*args)
        self("start", name)
        return name

    def run(self, *args):
        """What a whole life writes."""
        self.write(*args)
        return self("run", f"test-{os.urandom(4).hex()}")

    def sh(self, script):
        return self.run("sh", "-c", script)

    def refused(self, *words):
        """It does not start, for a reason with these words in it, and nothing is left."""
        self.write("true")
        done = self.code("run", "refused")
        assert done.returncode != 0 and all(word in done.stderr for word in words), done
        assert done.stderr.count("\n") == 1 and not list(self.root.iterdir()), done.stderr

    def state(self, name):
        return json.loads(self("state", name))

    def status(self, name):
        return self.state(name)["status"]

    def ended(self, name):
        assert until(lambda: self.status(name) == "stopped")
        return (self.path / "out").read_text()


@pytest.fixture
def bundle(tmp_path):
    bundle = Bundle(tmp_path)
    yield bundle
    for name in bundle.names:
        bundle("delete", "--force", name, check=False)


# The life of a container


def test_a_container_is_created_then_runs_then_is_stopped(bundle):
    name = bundle.created("sh", "-c", "echo begun; sleep 0.3")
    state = bundle.state(name)
    assert (state["id"], state["status"], state["bundle"]) == (name, "created", str(bundle.path))
    assert state["ociVersion"].startswith("1.") and os.path.exists(f"/proc/{state['pid']}")
    assert (bundle.path / "out").read_text() == "", "the program must not run before start"
    bundle("start", name)
    assert bundle.status(name) == "running"
    assert bundle.ended(name) == "begun\n"
    assert bundle.state(name).get("pid", 0) == 0
    bundle("delete", name)
    assert "does not exist" in bundle.code("state", name).stderr
    assert not list(bundle.root.iterdir())


def test_what_cannot_be_now_is_an_error_and_has_no_effect(bundle):
    name = bundle.started("sleep", "100")
    bundle.write("true")
    for words in (("create", name), ("start", name), ("delete", name), ("resume", name), ("start", "nobody")):
        done = bundle.code(*words)
        assert done.returncode != 0 and done.stderr.count("\n") == 1, done
        assert bundle.status(name) == "running"
    bundle("kill", name, "KILL")
    bundle.ended(name)
    for words in (("start", name), ("kill", name, "TERM"), ("exec", name, "true"), ("pause", name)):
        assert bundle.code(*words).returncode != 0
        assert bundle.status(name) == "stopped"
    assert "not running" in bundle.code("kill", name, "TERM").stderr, "containerd looks for these words"


def test_changes_of_config_json_after_create_have_no_effect(bundle):
    name = bundle.created("echo", "before")
    bundle.write("echo", "after")
    bundle("start", name)
    assert bundle.ended(name) == "before\n"


def test_run_returns_the_exit_code_and_leaves_nothing(bundle):
    bundle.write("sh", "-c", "exit 7")
    assert bundle.code("run", "one").returncode == 7
    bundle.write("sh", "-c", "kill -9 $$")
    bundle.linux["namespaces"] = [one for one in bundle.linux["namespaces"] if one["type"] != "pid"]
    bundle.write("sh", "-c", "kill -9 $$")
    assert bundle.code("run", "one").returncode == 137
    assert not list(bundle.root.iterdir())


def test_the_pid_file_names_the_process(bundle):
    name = bundle.created("sleep", "100", words=["--pid-file", "pid"])
    assert int((bundle.path / "pid").read_text()) == bundle.state(name)["pid"]


def test_a_signal_by_name_and_by_number(bundle):
    for text in ("USR1", "SIGUSR1", "10"):
        name = bundle.started("sh", "-c", "trap 'echo got; exit' USR1; echo ready; while :; do sleep 0.05; done")
        assert until(lambda: "ready" in (bundle.path / "out").read_text())
        bundle("kill", name, text)
        assert bundle.ended(name) == "ready\ngot\n"
    assert bundle.code("kill", name, "NOTHING").returncode != 0


def test_pause_and_resume(bundle):
    name = bundle.started("sh", "-c", "while :; do echo x; sleep 0.01; done")
    bundle("pause", name)
    assert bundle.status(name) == "paused"
    size = (bundle.path / "out").stat().st_size
    time.sleep(0.1)
    assert (bundle.path / "out").stat().st_size == size
    assert bundle.code("exec", name, "true").returncode != 0
    bundle("resume", name)
    assert until(lambda: (bundle.path / "out").stat().st_size > size)
    bundle("pause", name)
    bundle("delete", "--force", name)


def test_list_ps_and_events(bundle):
    name = bundle.started("sleep", "100")
    assert bundle("list", "--quiet") == f"{name}\n" and name in bundle("list")
    assert [one["status"] for one in json.loads(bundle("list", "--format", "json"))] == ["running"]
    assert json.loads(bundle("ps", "--format", "json", name)) == [bundle.state(name)["pid"]]
    assert "sleep 100" in bundle("ps", name)
    told = json.loads(bundle("events", "--stats", name))
    assert told["id"] == name and told["data"]["pids"]["current"] == 1 and told["data"]["memory"]["usage"]["usage"] > 0


@ours
def test_killed_between_any_two_steps_force_removes_all(bundle):
    """SIGKILL to create and to start, later and later."""
    bundle.linux["cgroupsPath"] = "/minidocker-test/killed"
    bundle.write("sleep", "100")
    for moment in range(16):
        for verb in ("create", "start"):
            process = subprocess.Popen([*RUNTIME, "--root", bundle.root, verb, "one"], cwd=bundle.path)
            time.sleep(moment * 0.015)
            process.kill()
            process.wait()
        bundle("delete", "--force", "one")
        assert not bundle.root.exists() or not list(bundle.root.iterdir())
        left = [one.path for one in hierarchies() if os.path.exists(f"{one.path}/minidocker-test/killed")]
        assert not left
    for one in hierarchies():
        if os.path.exists(f"{one.path}/minidocker-test"):
            os.rmdir(f"{one.path}/minidocker-test")
    found = subprocess.run(["pgrep", "-f", f"{bundle.root}"], capture_output=True, text=True).stdout
    assert found == ""


# The process


def test_who_it_is(bundle):
    user = {"uid": 33, "gid": 34, "additionalGids": [35, 36], "umask": 0o077}
    bundle.process |= {"user": user, "cwd": "/made/for it", "env": ["A=1", "B=x y"]}
    text = bundle.sh("id -u; id -g; id -G; umask; pwd; echo $A$B")
    assert text == "33\n34\n34 35 36\n0077\n/made/for it\n1x y\n"


def test_rights(bundle):
    none = [{"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}, None]
    for capabilities in none:
        bundle.process["capabilities"] = capabilities
        bundle.process["noNewPrivileges"] = capabilities is None
        text = bundle.sh("grep -E '^(Cap|NoNew)' /proc/self/status | tr -s '\\t' ' '")
        assert [int(line.split()[1], 16) for line in text.splitlines()[:5]] == [0] * 5
        assert f"NoNewPrivs: {int(capabilities is None)}" in text
    kept = ["CAP_CHOWN", "CAP_NET_RAW"]
    bundle.process["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted", "inheritable", "ambient"), kept
    )
    bundle.process["user"] = {"uid": 33, "gid": 33}
    text = bundle.sh("grep ^Cap /proc/self/status")
    assert [int(line.split()[1], 16) for line in text.splitlines()] == [1 << 0 | 1 << 13] * 5


def test_limits_of_the_process(bundle):
    bundle.process |= {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}], "oomScoreAdj": 321}
    assert bundle.sh("ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj") == "77\n88\n321\n"
    bundle.process["rlimits"] *= 2
    bundle.refused("RLIMIT_NOFILE")
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOTHING", "soft": 77, "hard": 88}]
    bundle.refused("RLIMIT_NOTHING")


def test_a_program_that_is_not_there_is_an_error_of_create(bundle):
    for program, words in (
        ("/nothing", "no such file"),
        ("nothing", "not found in $PATH"),
        ("/etc", "permission denied"),
    ):
        bundle.write(program)
        done = bundle.code("create", "one")
        assert done.returncode != 0 and words in done.stderr, done
    (bundle.path / "rootfs/bad").write_text("no program")
    (bundle.path / "rootfs/bad").chmod(0o755)
    name = bundle.created("/bad")
    assert "Exec format error" in bundle.code("start", name).stderr


def test_no_descriptor_leaks_and_those_that_are_asked_for_are_there(bundle):
    shell = ["sh", "-c", 'exec "$@" 3</dev/null 9</dev/null', "sh", *RUNTIME, "--root", bundle.root, "run"]

    def run(*words):
        return subprocess.run(
            [*shell, *words, "one"], cwd=bundle.path, capture_output=True, text=True, timeout=60
        ).stdout

    bundle.write("ls", "/proc/self/fd")
    assert run().split() == ["0", "1", "2", "3"]  # the last is of ls
    bundle.write("sh", "-c", "ls -l /proc/$$/fd/3; ls /proc/$$/fd/9")
    assert run("--preserve-fds", "1").count("/dev/null") == 1


def test_a_terminal_is_sent_to_the_socket(bundle):
    bundle.process["terminal"] = True
    bundle.write("sh", "-c", "test -t 0 && echo yes; sleep 0.2")
    bundle.names.append("one")
    assert "console-socket" in bundle.code("create", "one").stderr
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.path / "console"))
        listener.listen()
        bundle("create", "--console-socket", "console", "one", capture_output=False)
        _, descriptors, _, _ = socket.recv_fds(listener.accept()[0], 100, 1)
    bundle("start", "one")
    assert os.read(descriptors[0], 100) == b"yes\r\n"
    os.close(descriptors[0])


# exec


def test_exec_is_in_the_same_walls(bundle):
    bundle.process["env"].append("OF=config")
    name = bundle.started("sleep", "100")
    script = """
        for n in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$n /proc/1/ns/$n; done | sort | uniq -u
        cat /proc/1/status /proc/self/status | grep -E '^(CapEff|NoNew)' | sort | uniq -u
        echo $OF$MORE
    """
    assert bundle("exec", name, "sh", "-c", script) == "config\n"
    words = ["--env", "MORE=1", "--user", "33:34", "--cwd", "/tmp"]
    assert bundle("exec", *words, name, "sh", "-c", "id -u; id -g; pwd; echo $MORE") == "33\n34\n/tmp\n1\n"
    assert bundle.code("exec", name, "sh", "-c", "exit 9").returncode == 9
    done = bundle.code("exec", name, "nothing")
    assert done.returncode != 0 and "not found in $PATH" in done.stderr


def test_exec_goes_where_the_first_process_has_gone(bundle):
    """In version 2 a group that is divided holds no process: systemd in a container divides its own."""
    place = next((one for one in hierarchies() if one.version == 2), None)
    need(place, "no control groups of version 2")
    target = "/sys/fs/cgroup" if len(hierarchies()) == 1 else f"/sys/fs/cgroup/{os.path.basename(place.path)}"
    group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
    bundle.config["mounts"].append(group)
    name = bundle.started("sh", "-c", f"mkdir {target}/in; echo 0 >{target}/in/cgroup.procs; echo ready; sleep 100")
    assert until(lambda: "ready" in (bundle.path / "out").read_text())
    assert bundle("exec", name, "cat", "/proc/self/cgroup").endswith("0::/in\n")


def test_exec_of_a_file_detached(bundle):
    name = bundle.started("sleep", "100")
    (bundle.path / "process.json").write_text(json.dumps(bundle.process | {"args": ["sleep", "99"], "cwd": "/tmp"}))
    bundle("exec", "--detach", "--pid-file", "pid", "--process", "process.json", name, capture_output=False)
    pid = int((bundle.path / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_text() == "sleep\0" + "99\0" and pid in json.loads(
        bundle("ps", "-f", "json", name)
    )
    bundle("kill", "--all", name, "KILL")
    assert until(lambda: not os.path.exists(f"/proc/{pid}/cmdline") or not Path(f"/proc/{pid}/cmdline").read_text())
    bundle.ended(name)


def test_no_link_of_proc_is_a_working_directory(bundle):
    """CVE-2024-21626: a descriptor that somebody forgot would be the way out."""
    name = bundle.started("sleep", "100")
    for number in range(3, 20):
        for rest in ("", "/../../../..", "/new"):
            cwd = f"/proc/self/fd/{number}{rest}"
            assert bundle.code("exec", "--cwd", cwd, name, "true").returncode != 0, cwd
    bundle("delete", "--force", name)
    for number in (3, 7, 8):
        bundle.process["cwd"] = f"/proc/self/fd/{number}"
        bundle.refused()


def test_who_waits_at_the_gate_tells_nothing(bundle):
    """Until the command executes, the process is a copy of one of the host's: CVE-2016-9962, CVE-2019-5736."""
    name = bundle.created("true")
    assert len(bundle("exec", name, "ls", "/proc/1/fd").split()) == 4, "three streams, and the gate"
    for script in ("readlink /proc/1/fd/0", "cat /proc/1/environ", "readlink /proc/1/exe", "ls /proc/1/root/"):
        done = bundle.code("exec", name, "sh", "-c", script)
        assert done.returncode != 0 and done.stdout == "", (script, done)


# Hooks


def test_hooks_run_in_order_with_the_state_as_it_is(bundle):
    """prestart and createRuntime in the runtime's namespaces; createContainer and startContainer in the container's."""
    moments = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    script = "{ printf '%s ' NAME; readlink /proc/self/ns/uts; cat; echo; } >>FILE"
    (bundle.path / "rootfs/hooked").touch()
    (bundle.path / "hooked").touch()
    bundle.config["annotations"] = {"of": "ours"}
    bundle.config["mounts"].append(
        {"destination": "/hooked", "type": "bind", "source": str(bundle.path / "hooked"), "options": ["bind", "rw"]}
    )
    bundle.config["hooks"] = {}
    for moment in moments:
        file = "/hooked" if moment == "startContainer" else str(bundle.path / "hooked")
        args = ["sh", "-c", script.replace("NAME", moment).replace("FILE", file)]
        bundle.config["hooks"][moment] = [{"path": "/bin/sh", "args": args, "env": ["PATH=/usr/bin:/bin"]}]
    name = bundle.created("true")
    pid = bundle.state(name)["pid"]
    bundle("start", name)
    bundle.ended(name)
    bundle("delete", name)
    lines = (bundle.path / "hooked").read_text().splitlines()
    assert [line.split()[0] for line in lines[::2]] == [*moments]
    here = os.readlink("/proc/self/ns/uts")
    inside = [line.split()[1] != here for line in lines[::2]]
    assert inside == [False, False, True, True, False, False]
    states = [json.loads(line) for line in lines[1::2]]
    assert [state["status"] for state in states] == ["creating"] * 3 + ["created", "running", "stopped"]
    assert [state.get("pid") for state in states[:5]] == [pid] * 5
    assert all(state["id"] == name and state["annotations"] == {"of": "ours"} for state in states)


@pytest.mark.parametrize("moment", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_before_the_start_ends_it(bundle, moment):
    bundle.config["hooks"] = {moment: [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]}
    bundle.refused(moment, "because")
    bundle.config["hooks"] = {moment: [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    bundle.refused(moment, "1 s")


@ours
def test_a_hook_that_fails_after_the_start_is_only_told(bundle):
    both = [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", f"echo x >>{bundle.path}/more"]}]
    bundle.config["hooks"] = {"poststart": both, "poststop": both}
    bundle.write("sh", "-c", "exit 4")
    done = bundle.code("run", "one")
    assert done.returncode == 4 and "poststart" in done.stderr and "poststop" in done.stderr
    assert (bundle.path / "more").read_text() == "x\nx\n", "the others go on"


# Namespaces, mounts, devices


def test_namespaces_by_path_are_joined(bundle):
    first = bundle.started("sleep", "100")
    pid = bundle.state(first)["pid"]
    names = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    bundle.linux["namespaces"] = [{"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in names.items()]
    bundle.linux["namespaces"].append({"type": "mount"})
    bundle.config.pop("hostname")
    text = bundle.sh("for n in pid net ipc uts; do readlink /proc/self/ns/$n; done")
    assert text.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in names.values()]


def test_namespaces_that_are_not_named_are_the_hosts(bundle):
    bundle.linux["namespaces"] = []
    bundle.config.pop("hostname")
    name = bundle.created("sh", "-c", "echo *")
    pid = bundle.state(name)["pid"]
    for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    before = Path("/proc/self/mountinfo").read_text()
    bundle("start", name)
    assert bundle.ended(name).splitlines()[-1].split()[:2] == ["bin", "etc"]
    assert Path("/proc/self/mountinfo").read_text() == before


def test_users_are_mapped(bundle):
    bundle.linux["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux |= {"uidMappings": maps, "gidMappings": maps}
    for path in [bundle.path / "rootfs", *(bundle.path / "rootfs").rglob("*")]:
        os.lchown(path, 100000, 100000)
    for path in [bundle.path, *bundle.path.parents][:-1]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o011)
    assert bundle.sh("id -u; cat /proc/self/uid_map; echo x >/dev/null; touch /file").split() == [
        "0",
        "0",
        "100000",
        "65536",
    ]
    assert (bundle.path / "rootfs/file").stat().st_uid == 100000


def test_users_of_another_container_are_joined(bundle):
    """As in a pod with users of its own."""
    test_users_are_mapped(bundle)
    (bundle.path / "rootfs/file").unlink()
    first = bundle.started("sleep", "100")
    pid = bundle.state(first)["pid"]
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"], bundle.config["hostname"]
    names = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts"}
    bundle.linux["namespaces"] = [{"type": kind} for kind in ("mount", "pid", "cgroup")]
    bundle.linux["namespaces"] += [{"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in names.items()]
    bundle.config["mounts"].append({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]})
    text = bundle.sh("id -u; readlink /proc/self/ns/user; echo x >/run/x; echo y >/dev/null; touch /file; echo $$")
    assert text.split() == ["0", os.readlink(f"/proc/{pid}/ns/user"), "1"]
    assert (bundle.path / "rootfs/file").stat().st_uid == 100000
    second = bundle.started("sleep", "100")
    assert bundle("exec", second, "sh", "-c", "id -u; cat /proc/self/uid_map").split() == ["0", "0", "100000", "65536"]


def test_mounts_have_their_options(bundle):
    (bundle.path / "data").mkdir()
    (bundle.path / "data/file").write_text("text")
    for target, source, options in (
        ("/new/ro", "data", ["rbind", "ro", "nosuid", "noexec", "noatime"]),
        ("/new/file", "data/file", ["bind"]),
        ("/new/tmp", "", ["size=64k", "mode=700", "nodev"]),
        ("/etc", "", ["tmpcopyup", "ro"]),
        ("/new/shared", "data", ["bind", "rshared"]),
        ("/new/unbindable", "data", ["bind", "unbindable"]),
    ):
        one = {"type": "bind", "source": source} if source else {"type": "tmpfs", "source": "tmpfs"}
        bundle.config["mounts"].append({"destination": target, "options": options} | one)
    lines = bundle.sh("cat /proc/self/mountinfo /new/file; test -f /etc/passwd && ! touch /etc/x 2>&- && echo kept")
    found = {line.split()[4]: line for line in lines.splitlines() if "/new" in line and " - " in line}
    assert found["/new/ro"].split()[5] == "ro,nosuid,noexec,noatime"
    assert "size=64k,mode=700" in found["/new/tmp"] and "nodev" in found["/new/tmp"]
    assert "shared:" in found["/new/shared"] and "unbindable" in found["/new/unbindable"]
    assert lines.endswith("textkept\n")


def test_a_link_to_what_is_not_there_yet(bundle):
    """As /etc/resolv.conf is one in images of systemd: below the root, and not on the host."""
    links = {
        "relative": "../run/deep/one",
        "absolute": "/run/two",
        "chain": "relative2",
        "relative2": "../../../../run/three",
    }
    for name, target in links.items():
        (bundle.path / "rootfs/etc" / name).symlink_to(target)
    (bundle.path / "rootfs/loop").symlink_to("loop")
    (bundle.path / "data").write_text("text")
    mounts = bundle.config["mounts"]
    for name in ("relative", "absolute", "chain"):
        one = {"destination": f"/etc/{name}", "type": "bind", "source": "data", "options": ["bind"]}
        bundle.config["mounts"] = mounts = [*mounts, one]
    assert bundle.sh("cd /etc; cat relative absolute chain /run/deep/one /run/two /run/three") == "text" * 6
    mounts.append({"destination": "/loop/x", "type": "tmpfs", "source": "tmpfs"})
    bundle.refused("/loop")


def test_a_link_of_the_image_leads_nowhere_else(bundle):
    """CVE-2021-30465, and older ones: the target of a mount is below the root."""
    (bundle.path / "outside").mkdir()
    (bundle.path / "rootfs/trap").symlink_to("../../../../../../../../../.." + str(bundle.path / "outside"))
    bundle.config["mounts"].append({"destination": "/trap/x", "type": "tmpfs", "source": "tmpfs"})
    bundle.write("true")
    bundle.code("run", "one")
    assert not list((bundle.path / "outside").iterdir())


def test_an_image_cannot_put_a_link_or_a_file_in_the_place_of_the_kernels(bundle):
    """CVE-2019-16884, CVE-2019-19921, CVE-2025-31133."""
    (bundle.path / "rootfs/fake").mkdir()
    (bundle.path / "rootfs/proc").symlink_to("fake")
    bundle.refused("/proc")
    (bundle.path / "rootfs/proc").unlink()
    mounts = bundle.config["mounts"]
    for target in ("/proc", "/proc/self/attr", "/proc/sys"):
        bundle.config["mounts"] = [*mounts, {"destination": target, "type": "tmpfs", "source": "tmpfs"}]
        bundle.refused(target)
    (bundle.path / "stat").write_text("of lxcfs")
    files = {"destination": "/proc/stat", "type": "bind", "source": "stat", "options": ["bind"]}
    bundle.config["mounts"] = [*mounts, files]
    assert bundle.sh("cat /proc/stat") == "of lxcfs"
    bundle.config["mounts"] = [mount for mount in mounts if not mount["destination"].startswith("/dev")]
    (bundle.path / "rootfs/dev").mkdir(exist_ok=True)
    (bundle.path / "rootfs/dev/null").write_text("no device")
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    bundle.refused("/dev/null")


def test_dev_becomes_read_only_when_all_is_in_it(bundle):
    """So Podman 5 asks for it, with --read-only; the terminal's console is in there, too."""
    dev = next(mount for mount in bundle.config["mounts"] if mount["destination"] == "/dev")
    dev["options"] = [*(dev.get("options") or []), "ro"]
    bundle.write("sh", "-c", "test -c /dev/null && ls -d /dev/pts && ! touch /dev/x 2>/dev/null && echo sealed")
    assert bundle("run", "one").split() == ["/dev/pts", "sealed"]


def test_paths_are_masked_or_read_only(bundle):
    (bundle.path / "rootfs/secret").write_text("secret")
    (bundle.path / "rootfs/closed").mkdir()
    (bundle.path / "rootfs/closed/secret").write_text("secret")
    (bundle.path / "rootfs/fixed").mkdir()
    bundle.linux |= {"maskedPaths": ["/secret", "/closed", "/nothing"], "readonlyPaths": ["/fixed", "/nothing"]}
    text = bundle.sh("cat /secret; ls /closed; touch /fixed/x 2>&1; touch /free && echo ok")
    assert text == "touch: /fixed/x: Read-only file system\nok\n"
    bundle.config["root"]["readonly"] = True
    assert "Read-only" in bundle.sh("touch /x 2>&1; true")


def test_devices_are_the_default_ones_and_those_that_are_asked_for(bundle):
    bundle.linux["devices"] = [
        {"path": "/dev/made/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/pipe", "type": "p"},
    ]
    bundle.linux["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    lines = bundle.sh("""
        cd /dev
        stat -c '%n %F %a %u %g %t %T' null zero full random urandom tty made/zero pipe
        readlink fd
        head -c 1 made/zero | od -An -tx1
        mknod disk b 254 0
        head -c 1 disk 2>&1 || true
    """).splitlines()
    assert lines[0] == "null character special file 666 0 0 1 3" and lines[5].endswith("666 0 0 5 0")
    assert lines[6] == "made/zero character special file 640 5 6 1 5" and lines[7] == "pipe fifo 666 0 0 0 0"
    assert lines[8] == "/proc/self/fd" and lines[9].strip() == "00" and "Operation not permitted" in lines[10]


@ours
def test_devices_are_refused_without_a_group_for_them(bundle):
    """Control groups of version 2 have no file for devices: the mounts are a wall instead."""
    alone = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
    alone += " && mount --bind /dev/null /sys/fs/cgroup/cgroup.subtree_control"  # which is the host's
    alone += ' && exec "$@"'
    bundle.linux["devices"] = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}]
    group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    bundle.config["mounts"].append(group)
    script = """
        for place in /dev /dev/shm /; do
            mknod $place/own c 1 5
            head -c 1 $place/own 2>&1 | grep -o 'Permission denied'
        done
        head -c 1 /dev/mine | od -An -tx1
        echo x >/dev/null && cat /proc/self/cgroup && ls /sys/fs/cgroup/cgroup.procs
    """
    for rules, answers in (([{"allow": False}], 3), ([{"allow": True}], 1)):  # /dev/shm is nodev
        bundle.linux["resources"]["devices"] = rules
        bundle.write("sh", "-c", script)
        command = ["unshare", "-m", "sh", "-c", alone, "sh", *RUNTIME, "--root", bundle.root, "run", "one"]
        done = subprocess.run(command, cwd=bundle.path, capture_output=True, text=True, timeout=60)
        assert done.stdout.count("Permission denied") == answers and " 00\n" in done.stdout, done
        assert done.stdout.endswith("0::/\n/sys/fs/cgroup/cgroup.procs\n"), done
        for path in ("own", "dev/own"):
            (bundle.path / "rootfs" / path).unlink(missing_ok=True)


def test_sysctls_that_the_container_has_of_its_own(bundle):
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}
    assert bundle.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax") == "1\n9000\n"
    bundle.linux["sysctl"] = {"vm.swappiness": "10"}
    bundle.refused("vm.swappiness")
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.linux["namespaces"] = [one for one in bundle.linux["namespaces"] if one["type"] != "network"]
    bundle.refused("net.ipv4.ip_forward")


# Control groups and filters


def group(controller, path):
    """The container's directory in the hierarchy that has it, and which version that is."""
    one = next((one for one in hierarchies() if controller in one.controllers), None)
    need(one, f"no control groups with {controller}")
    return Path(f"{one.path}{path}"), one.version


def test_resources_are_limits_of_its_groups(bundle):
    bundle.linux["cgroupsPath"] = "/minidocker-test/inner"
    bundle.linux["resources"] = {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "0"},
        "pids": {"limit": 33},
    }
    name = bundle.started("sleep", "100")
    wanted = {
        "memory": (("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
        "pids": (("pids.max", "33"), ("pids.max", "33")),
        "cpu": (("cpu.shares", "512"), ("cpu.max", "20000 50000")),
    }
    for controller, lines in wanted.items():
        place, version = group(controller, "/minidocker-test/inner")
        file, text = lines[version - 1]
        assert (place / file).read_text().strip() == text
        assert str(bundle.state(name)["pid"]) in (place / "cgroup.procs").read_text().split()
    resources = json.dumps({"memory": {"limit": 128 << 20}, "pids": {"limit": 44}})
    bundle("update", "--resources", "-", name, stdin=None, input=resources)
    place, version = group("memory", "/minidocker-test/inner")
    assert (place / wanted["memory"][version - 1][0]).read_text().strip() == str(128 << 20)
    bundle("update", "--pids-limit", "55", name)
    assert (group("pids", "/minidocker-test/inner")[0] / "pids.max").read_text() == "55\n"
    bundle("delete", "--force", name)
    for one in hierarchies():
        assert not os.path.exists(f"{one.path}/minidocker-test/inner")
        os.rmdir(f"{one.path}/minidocker-test")


def test_a_group_of_others_is_refused_and_not_harmed(bundle):
    bundle.linux["cgroupsPath"] = "/minidocker-test"
    name = bundle.started("sleep", "100")
    bundle.write("true")
    assert "exists already" in bundle.code("create", name).stderr or OTHER
    for path in ("/minidocker-test", "/minidocker-test/..", "/"):
        bundle.linux["cgroupsPath"] = path
        bundle.write("true")
        done = bundle.code("run", "other")
        assert done.returncode != 0 and "cgroupsPath" in done.stderr
    assert bundle.status(name) == "running"
    assert [entry.name for entry in bundle.root.iterdir()] == [name]


def test_a_limit_that_this_machine_has_not_is_an_error(bundle):
    bundle.linux["resources"]["hugepageLimits"] = [{"pageSize": "3MB", "limit": 1}]
    bundle.refused("hugepageLimits")


def test_a_filter_of_system_calls(bundle):
    calls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}
    for new in (True, False):
        bundle.process["noNewPrivileges"] = new
        assert "No space left" in bundle.sh("mkdir /x 2>&1; true")
    name = bundle.started("sleep", "100")
    assert "No space left" in bundle.code("exec", name, "mkdir", "/x").stderr
    bundle.linux["seccomp"]["syscalls"] = [{"names": ["mkdir"], "action": "SCMP_ACT_NOTHING"}]
    bundle("delete", "--force", name)
    bundle.refused("seccomp", "SCMP_ACT_NOTHING")


def test_without_root_there_are_no_groups(bundle):
    """In a user namespace with one number, as for Podman without root: devices are the host's, limits an error."""
    for path in [bundle.path, *bundle.path.parents][:-1]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o755)
    home = bundle.path / "home"
    home.mkdir()
    for path in (home, *(bundle.path / "rootfs").rglob("*"), bundle.path / "rootfs"):
        os.lchown(path, 12345, 12345)
    as_somebody = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "unshare", "-Urm", *RUNTIME]
    bundle.process["capabilities"] = {}
    bundle.linux["resources"] = {}
    for mount in bundle.config["mounts"]:
        mount["options"] = [word for word in mount["options"] if word != "gid=5"]
    for resources, expected in (({}, "0\n"), ({"pids": {"limit": 5}}, "")):
        bundle.linux["resources"] = resources
        bundle.write("sh", "-c", "echo x >/dev/null && id -u")
        done = subprocess.run(
            [*as_somebody, "--root", home / "state", "run", "one"],
            **{"cwd": bundle.path, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL},
            env=os.environ | {"MINIDOCKER_HOME": str(home)},
        )
        assert done.stdout == expected and bool(resources) == ("pids.limit" in done.stderr), done


# What is not there


@ours
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("linux", "intelRdt", {"closID": "x"}),
        ("linux", "mountLabel", "system_u:object_r:x"),
        ("process", "selinuxLabel", "system_u:system_r:x"),
        ("process", "ioPriority", {"class": "IOPRIO_CLASS_IDLE", "priority": 4}),
        ("linux", "rootfsPropagation", "sideways"),
        ("linux", "personality", {"domain": "SOLARIS"}),
    ],
)
def test_what_there_is_no_code_for_is_refused_by_its_name(bundle, part, name, value):
    bundle.config[part][name] = value
    bundle.refused(name)


@ours
def test_what_cannot_be_is_one_line(bundle):
    (bundle.path / "config.json").write_text("{")
    done = bundle.code("run", "one")
    assert done.returncode != 0 and done.stderr.count("\n") == 1 and "JSON" in done.stderr
    bundle.write()
    for change in ({"ociVersion": "2.0"}, {"root": {"path": "nowhere"}}, {"process": {}}):
        (bundle.path / "config.json").write_text(json.dumps(bundle.config | change))
        done = bundle.code("run", "one")
        assert done.returncode != 0 and done.stderr.count("\n") == 1 and next(iter(change)) in done.stderr, done
    done = bundle.code("--systemd-cgroup", "list")
    assert done.returncode != 0 and "cgroupfs" in done.stderr


def test_errors_are_in_the_log_too(bundle):
    done = bundle.code("--log", "log", "--log-format", "json", "start", "nobody")
    last = json.loads((bundle.path / "log").read_text().splitlines()[-1])
    assert done.returncode != 0 and last["level"] == "error" and "does not exist" in last["msg"]


def test_the_specification_judges_what_spec_writes(bundle):
    need(SCHEMAS.exists(), "golang-github-opencontainers-specs-dev: run vagrant/provision.sh")
    jsonschema = pytest.importorskip("jsonschema")
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    def fetched(name):
        path = SCHEMAS / name.rpartition("/")[2]
        return Resource.from_contents(json.loads(path.read_text()), default_specification=DRAFT4)

    schema = json.loads((SCHEMAS / "config-schema.json").read_text())
    judge = jsonschema.Draft4Validator(schema, registry=Registry(retrieve=fetched))
    bundle("spec", "--bundle", "/", check=False, cwd=bundle.path)
    (bundle.path / "config.json").unlink()
    bundle("spec")
    written = json.loads((bundle.path / "config.json").read_text())
    assert [error.message for error in judge.iter_errors(written)] == []
    assert [error.message for error in judge.iter_errors(written | {"process": {"cwd": 3}})]
    state = jsonschema.Draft4Validator(
        json.loads((SCHEMAS / "state-schema.json").read_text()), registry=Registry(retrieve=fetched)
    )
    name = bundle.created("true")
    assert [error.message for error in state.iter_errors(bundle.state(name))] == []


@ours
def test_each_verb_says_what_it_takes(bundle):
    from minidocker.cli.runtime import VERBS

    for verb in VERBS:
        assert bundle(verb, "--help").startswith(f"usage: minidocker runtime {verb} ".rstrip())
    done = bundle.code("start")
    assert (done.returncode, done.stderr) == (1, "minidocker: usage: minidocker runtime start NAME\n")
    assert "--memory VALUE" in bundle("update", "--help") and "--pid-file" in bundle("create", "--help")


def test_features_and_version(bundle):
    features = json.loads(bundle("features"))
    assert "bind" in features["mountOptions"] and "createRuntime" in features["hooks"]
    assert "spec: 1." in bundle("--version")


@ours
@pytest.mark.parametrize("verb", ["create", "run", "exec", "delete"])
def test_each_verb_has_a_help(bundle, verb):
    assert bundle(verb, "--help").startswith(f"usage: minidocker runtime {verb} [OPTIONS] ")


def test_signals_reach_what_run_has_started(bundle):
    bundle.write("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    command = [*RUNTIME, "--root", bundle.root, "run", "one"]
    with subprocess.Popen(command, cwd=bundle.path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 5
