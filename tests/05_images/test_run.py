"""Chapter 5, `minidocker run` and what an image's program finds inside: config, /dev, user, limits, ends."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from minidocker.images import image
from minidocker.images.container import container, ready
from minidocker.images.inside import resolve
from minidocker.namespaces import Join
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from tests.helpers.images import HOME, REPO, add_image, minidocker, new_store

pytestmark = pytest.mark.chapter(5)


@pytest.fixture
def here(home, monkeypatch):
    """This process, too, looks into that home."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    return home


def test_it_runs_and_ends_as_the_command_does(home):
    assert minidocker(home, "run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
    assert minidocker(home, "run", "busybox", "sh", "-c", "echo no >&2; exit 7").returncode == 7
    assert minidocker(home, "run", "busybox", "sh", "-c", "kill -9 $$; sleep 1").returncode == 0  # PID 1 ignores it
    assert minidocker(home, "run", "busybox", "nosuch").returncode == 127
    assert minidocker(home, "run", "busybox", "/etc/passwd").returncode == 126
    assert minidocker(home, "run", "--nosuch", "busybox").returncode == 125


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run",), "usage: minidocker run"),
        (("run", "--pull", "never", "nosuch"), "no such image: nosuch:latest"),
        (("run", "UPPER"), "is no name of an image"),
        (("run", ".."), "is no name of an image"),
        (("run", "ab" * 32), "no such image, and no name: 64 hexadecimal digits are an ID"),
        (("run", "sha256:" + "ab" * 32), "no such image, and no name"),
        (("tag", "busybox", "ab" * 32), "no such image, and no name"),
        (("run", "a" * 300), "is no name of an image"),
        (("build", "/nosuch"), "/nosuch"),
        (("load", "-i", "/nosuch"), "/nosuch"),
        (("run", "--cpus", "x", "busybox"), "a number is expected"),
        (("run", "--cpus", "0", "busybox", "true"), ""),
        (("run", "-m", "12q", "busybox"), "12q"),
        (("run", "--network", "nosuch", "busybox"), "nosuch"),
        (("run", "-u", "nosuch", "busybox", "true"), "neither a number nor in the image's /etc/passwd"),
        (("run", "-e"), "-e needs a value"),
        (("run", "--rm=x", "busybox"), "takes no value"),
        (("nosuch",), "is not a minidocker command"),
        (("rmi", "nosuch"), "no such image"),
        (("history", "a", "b"), "usage: minidocker history"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(home, words, text):
    before = sorted(os.listdir(home / "containers")) if (home / "containers").exists() else []
    result = minidocker(home, *words)
    assert text in result.stderr
    assert len(result.stderr.splitlines()) <= 1
    assert (result.returncode != 0) == bool(text)
    assert before == (sorted(os.listdir(home / "containers")) if (home / "containers").exists() else [])


def test_every_verb_explains_itself(home):
    listed = minidocker(home, "help").stdout
    for verb in re.findall(r"^  (\w[\w ]*\w)  ", listed, re.M):
        shown = minidocker(home, *verb.split(), "--help").stdout
        assert shown.startswith(f"usage: minidocker {verb}"), verb


def test_what_cannot_be_written_is_an_exit_status_and_at_most_a_line(home):
    def written_to(output, *words):
        environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
        argv = [sys.executable, "-m", "minidocker", *words]
        return subprocess.run(argv, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60)

    ours, theirs = os.pipe()
    os.close(ours)
    with open("/dev/full", "w") as full, open(theirs, "w") as nobody:
        for verb in ("images", "help"):
            refused = written_to(full, verb)
            assert (refused.returncode, refused.stderr) == (1, f"minidocker: {verb}: No space left on device\n")
            assert (written_to(nobody, verb).returncode, written_to(nobody, verb).stderr) == (141, "")
        assert written_to(full, "nosuch").returncode == 1
        for words, status in ((["nosuch"], 1), (["run"], 125), (["images"], 1)):
            argv = [sys.executable, "-m", "minidocker", *words]
            environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
            assert subprocess.run(argv, env=environment, stdout=full, stderr=full, timeout=60).returncode == status


def test_what_was_written_before_a_failure_is_not_lost():
    code = "import minidocker.cli as cli; print('so far'); cli.main = lambda _: 7; cli.command()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "so far\n", "")


def test_the_config_is_used_as_docker_uses_it(here, tmp_path):
    store = new_store(here)
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    add_image(
        store, "configured", root, Entrypoint=["sh", "-c"], Cmd=["echo $A $B; pwd"], Env=["A=1", "B=2"], WorkingDir="/w"
    )
    assert minidocker(here, "run", "configured").stdout == "1 2\n/w\n"
    assert minidocker(here, "run", "-e", "B=3", "-w", "/tmp/x", "configured").stdout == "1 3\n/tmp/x\n"
    assert minidocker(here, "run", "configured", "echo other").stdout == "other\n"
    result = minidocker(
        here, "run", "--entrypoint", "env", "configured"
    )  # the image's arguments were for its own program
    assert "A=1" in result.stdout.splitlines()
    environment = {**os.environ, "FROM_HERE": "x", "MINIDOCKER_HOME": str(here), "PYTHONPATH": str(REPO)}
    argv = [
        sys.executable,
        "-m",
        "minidocker",
        "run",
        "-e",
        "FROM_HERE",
        "-e",
        "NOT_HERE",
        "configured",
        "echo $FROM_HERE; env",
    ]
    lines = subprocess.run(argv, env=environment, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == "x"
    assert not any(line.startswith("NOT_HERE") for line in lines)


def test_an_image_without_anything_gets_what_programs_count_on(here, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(HOME / "roots/busybox/bin/busybox", root / "sh")
    add_image(new_store(here), "bare", root, Cmd=["/sh", "-c", "echo /dev/* /proc/self/stat; pwd"])
    shown = minidocker(here, "run", "bare").stdout
    for name in (
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "pts",
        "shm",
        "ptmx",
    ):
        assert f"/dev/{name} " in shown
    assert "/proc/self/stat" in shown
    script = (
        "echo x >/dev/null; head -c 3 /dev/zero | wc -c; touch /sys/x 2>/dev/null || echo read-only; echo y >/dev/shm/a"
    )
    assert minidocker(here, "run", "busybox", "sh", "-c", script).stdout == "3\nread-only\n"


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_an_image_cannot_show_its_own_files_as_the_kernels(here, tmp_path, name):
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    (root / "fake").mkdir()
    (root / name).symlink_to("fake")
    add_image(new_store(here), "liar", root)
    result = minidocker(here, "run", "liar", "sh", "-c", "echo started")
    assert result.returncode == 125
    assert "the image has something else there" in result.stderr


def test_users_by_name_and_number(home):
    def ids(*options):
        return minidocker(home, "run", *options, "busybox", "sh", "-c", "id -u; id -g; echo $HOME").stdout.split()

    assert ids() == ["0", "0", "/root"]
    assert ids("-u", "nobody") == ["65534", "65534", "/"]
    assert ids("-u", "1234") == ["1234", "0", "/"]
    assert ids("-u", "1234:56") == ["1234", "56", "/"]
    assert ids("-u", "nobody:root") == ["65534", "0", "/"]


def test_groups_of_a_user():
    passwd = [line.split(":") for line in ("root:x:0:0::/root:/bin/sh", "anna:x:7:8::/home/anna:/bin/sh", "#", "")]
    group = [line.split(":") for line in ("a:x:8:", "b:x:9:anna,otto", "c:x:10:otto", "d:x:11:anna")]
    assert resolve("anna", passwd, group) == (7, 8, [9, 11])
    assert resolve("7", passwd, group) == (7, 8, [9, 11])
    assert resolve("anna:c", passwd, group) == (7, 10, [])
    assert resolve("5:6", passwd, group) == (5, 6, [])
    for wrong in ("otto", "anna:nosuch", "-1", "4294967295", "٣"):
        with pytest.raises(ContainerError):
            resolve(wrong, passwd, group)


def test_two_containers_change_their_own_files_and_the_image_stays(here):
    [layer] = image.find(new_store(here), "busybox").layers()
    before = sorted(os.walk(layer))
    script = "test ! -e /new; echo $?; echo mine >/new; rm /etc/passwd; cat /new"
    for _ in range(2):
        assert minidocker(here, "run", "busybox", "sh", "-c", script).stdout == "0\nmine\n"
    assert sorted(os.walk(layer)) == before


def test_limits_hold(home):
    hog = "x=a; while :; do x=$x$x; done"
    assert minidocker(home, "run", "-m", "32m", "busybox", "sh", "-c", hog).returncode == 137
    forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 2 & done; wait"
    assert "can't fork" in minidocker(home, "run", "--pids-limit", "5", "busybox", "sh", "-c", forks).stderr


def test_standard_input_is_only_given_if_asked(home):
    assert minidocker(home, "run", "-i", "busybox", "cat", input="text\n").stdout == "text\n"
    assert minidocker(home, "run", "busybox", "cat", input="text\n").stdout == ""


def test_a_terminal(home):
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "minidocker", "run", "-it", "busybox", "sh"]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, b"test -t 0 && echo $((20+1)); exit 3\n")
    text = b""
    try:
        while data := os.read(ours, 1000):
            text += data
    except OSError:
        pass
    assert process.wait(20) == 3
    os.close(ours)
    assert b"21\r\n" in text


def started(home, *words):
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    argv = [sys.executable, "-m", "minidocker", "run", *words]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_container(home, number):
    script = f"trap 'echo got; exit 5' {number.value}; echo ready; while :; do sleep 0.05; done"
    process = started(home, "busybox", "sh", "-c", script)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "got\n"
    assert process.returncode == 5


def test_a_killed_command_leaves_what_prune_removes(home):
    process = started(home, "--rm", "--name", "victim", "busybox", "sh", "-c", "echo ready; sleep 60")
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10  # the container's own mounts go with its processes, a moment later
    while "victim" not in (shown := minidocker(home, "prune").stdout) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "victim" in shown
    assert not os.listdir(home / "containers")


def test_what_is_kept_ready_is_outdated_by_any_change_of_a_name(here, tmp_path):
    store = new_store(here)
    first = ready("busybox")
    assert ready("busybox") == first
    (tmp_path / "tree").mkdir()
    other = add_image(store, "busybox", tmp_path / "tree")
    assert ready("busybox")["id"] == other.id
    for damage in (b"", b"\0\1garbage"):
        [kept] = [path for path in (here / "ready").iterdir() if path.name == "busybox"]
        kept.write_bytes(damage)
        assert ready("busybox")["id"] == other.id
    new_store(here)


def test_the_library_does_the_same(here):
    argv, isolators, options = container(ready("busybox"), ["sh", "-c", "echo $A; pwd"], env=["A=b"], cwd="/tmp")
    assert run(argv, *isolators, **options).stdout == "b\n/tmp\n"
    with pytest.raises(ContainerError, match="no command"):
        container({"id": "", "layers": ["/"], "config": {}})


# What the user, or the image, says wins


def test_what_is_said_wins_over_the_defaults(here, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    add_image(new_store(here), "named", root, Env=["HOSTNAME=image", "HOME=/image", "TERM=image"], Cmd=["env"])

    def shown(*words):
        lines = minidocker(here, "run", "--rm", *words, "env").stdout.split()
        return {line.partition("=")[0]: line.partition("=")[2] for line in lines}

    assert shown("--name", "outside", "busybox")["HOSTNAME"] == "outside"
    assert "TERM" not in shown("busybox")
    for words in (("named",), ("--hostname", "other", "named")):
        found = shown(*words)
        assert [found[name] for name in ("HOSTNAME", "HOME", "TERM")] == ["image", "/image", "image"]
    found = shown("-e", "HOSTNAME=user", "-e", "HOME=/user", "-e", "TERM=user", "named")
    assert [found[name] for name in ("HOSTNAME", "HOME", "TERM")] == ["user", "/user", "user"]
    refused = minidocker(here, "run", "-e", "=x", "busybox", "true")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (125, 1)


def test_a_variable_without_a_value_is_taken_away(here, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    add_image(new_store(here), "with", root, Env=["NOT_SET_HERE=1", "=nameless"], Cmd=["env"])
    assert "NOT_SET_HERE=1" in minidocker(here, "run", "with").stdout
    assert "NOT_SET_HERE" not in minidocker(here, "run", "-e", "NOT_SET_HERE", "with").stdout


def test_an_empty_entrypoint_resets_that_of_the_image(here, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    add_image(new_store(here), "entered", root, Entrypoint=["echo", "entrypoint"], Cmd=["cmd"])
    assert minidocker(here, "run", "entered").stdout == "entrypoint cmd\n"
    for words in (("--entrypoint", ""), ("--entrypoint=",)):
        assert minidocker(here, "run", *words, "entered", "echo", "x").stdout == "x\n"
        refused = minidocker(here, "run", *words, "entered")
        assert (refused.returncode, "no command" in refused.stderr) == (125, True)


@pytest.mark.parametrize("kind", ["fifo", "huge", "device", "directory", "link", "loop"])
def test_a_passwd_that_is_none_is_as_good_as_no_passwd(here, tmp_path, kind):
    root = tmp_path / "root"
    shutil.copytree(HOME / "roots/busybox/bin", root / "bin", symlinks=True)
    (root / "etc").mkdir()
    for name in ("passwd", "group"):
        path = root / "etc" / name
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "huge":
            with open(path, "wb") as file:
                file.truncate(1 << 28)
        elif kind == "device":
            os.mknod(path, 0o20666, os.makedev(1, 5))
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "link" else name)
    add_image(new_store(here), "odd", root)
    ran = minidocker(here, "run", "-u", "7", "odd", "sh", "-c", "echo $HOME")
    assert (ran.returncode, ran.stdout) == (0, "/\n"), ran.stderr
    assert minidocker(here, "run", "-u", "anna", "odd", "true").returncode == 125


def test_a_group_alone_is_that_of_root(home):
    assert (
        minidocker(home, "run", "-u", ":5", "busybox", "sh", "-c", "id -u; id -g; echo $HOME").stdout == "0\n5\n/root\n"
    )


# Mounts below the container's own


@pytest.mark.parametrize("target", ["/dev/x", "/dev/shm", "/dev/shm/deep/er", "/sys/fs/cgroup", "/dev/mqueue"])
def test_a_volume_below_dev_and_sys_is_on_top_of_them(home, tmp_path, target):
    (tmp_path / "f").write_text("content")
    script = f"cat {target}/f; echo kept >{target}/g; test -c /dev/null && echo null"
    ran = minidocker(home, "run", "-v", f"{tmp_path}:{target}", "busybox", "sh", "-c", script)
    assert (ran.stdout, ran.returncode) == ("contentnull\n", 0), ran.stderr
    assert (tmp_path / "g").read_text() == "kept\n"


def test_a_file_and_a_tmpfs_below_dev(home, tmp_path):
    (tmp_path / "f").write_text("content")
    assert minidocker(home, "run", "-v", f"{tmp_path}/f:/dev/log", "busybox", "cat", "/dev/log").stdout == "content"
    shown = minidocker(home, "run", "--tmpfs", "/dev/shm:size=1g", "busybox", "df", "-m", "/dev/shm").stdout
    assert shown.splitlines()[-1].split()[1] == "1024"


def test_a_terminal_is_still_the_containers_own(home, tmp_path):
    """It is opened on the container's devpts, and so after the change of root, although /dev is mounted before."""
    words = ["script", "-qec", f"{sys.executable} -m minidocker run -t busybox tty", "/dev/null"]
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert "/dev/pts/0" in shown.stdout


def test_a_volume_on_the_console_stays_and_the_hosts_dev_can_be_one(home, tmp_path):
    (tmp_path / "f").write_text("content")
    for options, text in ((["-v", f"{tmp_path}/f:/dev/console"], "content"), (["--privileged", "-v", "/dev:/dev"], "")):
        look = ["sh", "-c", "cat /dev/console" if text else "test -c /dev/null"]
        shown = minidocker(home, "run", "-t", *options, "busybox", *look, stdin=subprocess.DEVNULL)
        assert (shown.returncode, shown.stdout) == (0, text), shown.stderr


@pytest.mark.parametrize(("name", "port"), [("web", 80), ("mail", 25)])
def test_the_servers_of_set_up_listen_on_every_interface(name, port):
    """127.0.0.2 is an address of lo as well: who listens on 127.0.0.1 alone does not answer there."""
    argv, isolators, options = container(ready(name))
    with start(argv, *isolators, **options) as process:
        ask = (
            f"for i in $(seq 200); do (exec 3<>/dev/tcp/127.0.0.2/{port}) 2>/dev/null && exit; sleep 0.05; done; exit 1"
        )
        assert run(["bash", "-c", ask], Join(process.pid)).exit_code == 0
