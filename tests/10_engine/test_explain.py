"""Chapter 10: `--explain` tells what is done, and nothing else. strace(1) is the witness."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from minidocker import namespaces
from minidocker.images.store import Store
from tests.helpers import REPO, need, python
from tests.helpers.images import minidocker
from tests.helpers.registries import Registry, image, tree
from tests.helpers.users import Someone

pytestmark = pytest.mark.chapter(10)
STEP = re.compile(r"^(?: {0,9}\d+\.\d\d ms| {12})  (\S.*?) +# (\w+)\(2\)$")
FLAGS = {"MS_RDONLY": "ro", "MS_NOSUID": "nosuid", "MS_NODEV": "nodev", "MS_NOEXEC": "noexec"}
TEXT = r'(?:NULL|"(?:[^"\\]|\\.)*")'
MOUNT = re.compile(rf"mount\(({TEXT}), ({TEXT}), ({TEXT}), (\S+), ({TEXT})\) = 0")
OTHER = {"mkdir": "mkdir(?:at)?", "rmdir": "rmdir|unlinkat", "unlink": "unlink(?:at)?", "rename": "rename(?:at|at2)?"}
OTHER |= {"symlink": "symlink(?:at)?", "sethostname": "sethostname", "pivot_root": "pivot_root", "umount2": "umount2"}


@pytest.fixture
def storage(tmp_path):
    """A home whose images have been used before: nothing has to be found out any more."""
    from tests.helpers.images import new_store

    new_store(tmp_path / "home")
    minidocker(tmp_path / "home", "run", "--rm", "--network=none", "busybox", "true")
    return tmp_path / "home"


def text_of(words):
    """A string of strace's, which escapes as C does; None for NULL."""
    return None if words == "NULL" else ast.literal_eval(f"b{words}").decode()


def steps(told):
    """(whether inside, what could be typed, system call) of each step, in order."""
    inside, found = False, []
    for line in told.splitlines():
        if line.startswith(("chapter ", "the command line, ")):
            inside = ", inside: " in line or "child._live: " in line
        elif match := STEP.match(line):
            found.append((inside, match[1].rstrip(), match[2]))
    return found


class Witness:
    """What strace has seen of one process: its lines; descriptors in names of /proc are what they were then."""

    def __init__(self, path):
        self.lines, descriptors = [], {}
        for line in path.read_text(errors="replace").splitlines():
            if opened := re.search(r" = (\d+)<(.*)>$", line):
                descriptors[opened[1]] = opened[2]
            self.lines.append(re.sub(r"/proc/self/fd/(\d+)", lambda n: descriptors.get(n[1], n[0]), line))

    def does(self, name, part=""):
        return any(line.startswith(f"{name}(") and part in line for line in self.lines)

    def typed(self):
        """(what a reader could type, or a pattern of strace's line, system call) in order, translated by the test."""
        for line in self.lines:
            name = line.partition("(")[0]
            if match := MOUNT.match(line):
                yield mounted(*match.groups()), "mount"
            elif line.endswith(" = 0") or not re.search(r" = -1 E\w+ \(", line):
                yield line, name


def mounted(source, target, fstype, flags, data):
    """mount(2), as one types it."""
    source, target, fstype, data = (text_of(words) for words in (source, target, fstype, data))
    flags = flags.split("|")
    if "MS_PRIVATE" in flags:
        return f"mount --make-rprivate {target}"
    if "MS_BIND" in flags:
        return f"mount --{'r' * ('MS_REC' in flags)}bind {source} {target}"
    options = ",".join([*(word for flag, word in FLAGS.items() if flag in flags), *([data] if data else [])])
    return f"mount -t {fstype} -o {options or 'rw'} {source} {target}"


def proves(claim, call, seen, name):
    """Whether this step of the witness is the one that was told of."""
    last = claim.split()[-1]
    if call == "mount":
        return name == "mount" and claim == seen
    if call == "write":  # echo TEXT > FILE
        content, path = re.fullmatch(r"echo '?(.*?)'? > (\S+)", claim).groups()
        return name == "write" and f'<{path}>, "{content}"' in seen
    if call in ("clone3", "unshare", "setns"):
        kinds = {name for name in namespaces.KINDS if f" --{name}" in claim}
        names = {"NEWNS" if kind == "mount" else f"NEW{kind.upper()}" for kind in kinds}
        return name == call and names == {*re.findall(r"CLONE_(NEW\w+)", seen)}
    if call == "prctl":
        capability = re.search(r"--drop=(\w+)", claim)
        return name in ("prctl", "seccomp") and (capability[1].upper() if capability else "SECCOMP_MODE_FILTER") in seen
    if call == "execve":
        return name == "execve" and f'"{claim.split()[1]}"' in seen
    if call in ("setresuid", "setresgid"):
        return name == call and seen.startswith(f"{call}({last}, {last}, {last})")
    if call in ("open_tree", "move_mount", "mount_setattr"):
        words = [word for word in claim.split() if word.startswith("/") and word != "/"]
        recursive = call != "mount_setattr" or ("=recursive" in claim) == ("AT_RECURSIVE" in seen)
        return name == call and recursive and all(os.path.basename(word) in seen for word in words)
    words = [word for word in claim.split()[1:] if word[0] != "-"]
    return re.fullmatch(OTHER[call], name) is not None and all(f'"{word}"' in seen for word in words)


def traced(home, directory, *words):
    """(the finished command, what it told, witness of each of its processes by pid)."""
    need(shutil.which("strace"), "strace is the witness here: apt install strace")
    directory.mkdir()
    argv = ["strace", "-ff", "-y", "-v", "-s", "99999", "-o", directory / "pid", sys.executable, "-m", "minidocker"]
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    done = subprocess.run([*argv, *words], env=environment, capture_output=True, text=True, timeout=120)
    return done, {int(path.suffix[1:]): Witness(path) for path in directory.glob("pid.*")}


def in_order(claims, witness):
    """Each claim is proved by a step of the witness behind that of the one before."""
    seen = iter(witness.typed())
    for claim, call in claims:
        assert any(proves(claim, call, *step) for step in seen), f"told, and not done (or not then): {claim} # {call}"


def test_what_it_tells_was_done_in_that_order_and_by_that_process(host, storage, tmp_path):
    (tmp_path / "site").mkdir()
    options = ["-m", "64m", "-h", "web", "-v", f"{tmp_path}/site:/www:ro", "-p", "127.0.0.1:8080:80"]
    done, seen = traced(storage, tmp_path / "trace", "run", "--explain", "--rm", *options, "busybox", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    told = steps(done.stderr)
    container = next(witness for witness in seen.values() if witness.does("pivot_root"))
    command = next(witness for witness in seen.values() if witness.does("clone3", "CLONE_NEWNS"))
    ours = [(claim, call) for inside, claim, call in told if not inside and call != "execve"]
    theirs = [(claim, call) for inside, claim, call in told if inside]
    assert len(ours) > 10 and len(theirs) > 30
    in_order(ours, command)
    in_order(theirs, container)


def test_each_mount_of_the_container_is_told_or_counted(storage, tmp_path):
    done, seen = traced(storage, tmp_path / "trace", "run", "--explain", "--rm", "--network=none", "busybox", "true")
    container = next(witness for witness in seen.values() if witness.does("pivot_root"))
    calls = ("mount", "mount_setattr", "open_tree", "move_mount")
    made = [name for _, name in container.typed() if name in calls]
    shown = [call for inside, _, call in steps(done.stderr) if inside and call in calls]
    again = sum(map(int, re.findall(r"(\d+) more mount ", done.stderr)))
    assert len(shown) + again == len(made) > 40


def test_the_lines_of_ip_and_nft_are_those_that_were_executed(host, storage, tmp_path):
    done, seen = traced(
        storage, tmp_path / "trace", "run", "--explain", "--rm", "-p", "127.0.0.1:8080:80", "busybox", "true"
    )
    command = next(witness for witness in seen.values() if witness.does("clone3", "CLONE_NEWNS"))
    read = re.compile(r'pwrite64\(\d+</memfd:(?:ip|nft)>\(deleted\), (".*"), \d+, 0\) = ')
    given = [text for line in command.lines for text in read.findall(line)]
    lines = [line for text in map(text_of, given) for line in text.splitlines()]
    executed = [line for one in seen.values() for line in one.lines if re.match(r"execve\(.* = 0$", line)]
    told = [claim for _, claim, call in steps(done.stderr) if call == "execve" and not claim.startswith("exec ")]
    at = 0
    for claim in told:
        program, *words = shlex.split(re.sub(r"^nsenter --net=/proc/\d+/ns/net ", "", claim))
        line = " ".join(words).removesuffix(" … }")
        if line in lines[at:]:
            at = lines.index(line, at) + 1
        else:  # of a program that reads nothing
            argv = ", ".join(f'"{word}"' for word in words)
            assert any(f'/{program}", [' in one and f"{argv}]" in one for one in executed), claim
    assert len(told) > 15 and at


def test_both_spellings_and_none_of_a_containers_own(storage):
    before = minidocker(storage, "--explain", "volume", "create", "one")
    behind = minidocker(storage, "volume", "create", "--explain", "two")
    for done, name in ((before, "one"), (behind, "two")):
        assert (done.returncode, done.stdout) == (0, f"{name}\n")
        assert "chapter 6, " in done.stderr and f"/{name}" in done.stderr
    for words in (["--explain", "volumes"], ["volumes", "--explain"]):
        assert minidocker(storage, *words).stderr.startswith("minidocker: 'volumes' is not a minidocker command")
    own = minidocker(storage, "run", "--rm", "--network=none", "busybox", "echo", "--explain")
    assert (own.stdout, own.stderr) == ("--explain\n", "")


def test_what_does_not_explain_imports_nothing_for_it(storage):
    python(f"""
        import os, sys
        os.environ["MINIDOCKER_HOME"] = {str(storage)!r}
        from minidocker.cli import main
        assert main(["run", "--rm", "--network=none", "busybox", "true"]) == 0
        assert not {{"minidocker.explain", "http.client", "shlex"}} & {{*sys.modules}}
    """)


def test_the_command_is_as_without(storage):
    words = ["--rm", "--network=none", "-i", "busybox", "sh", "-c", "cat; echo wrong >&2; exit 3"]
    done = minidocker(storage, "run", "--explain", *words, input="given")
    assert (done.returncode, done.stdout) == (3, "given")
    lines = done.stderr.splitlines()
    assert "# execve(2)" in lines[lines.index("wrong") - 1]  # what is inside is told before what the command writes
    missing = minidocker(storage, "run", "--explain", "--rm", "--network=none", "busybox", "nothing")
    assert missing.returncode == 127
    assert missing.stderr.splitlines()[-1].startswith("minidocker: nothing: command not found")


def test_each_chapter_is_named_and_their_times_are_parts_of_the_whole(host, storage, tmp_path):
    options = ["-m", "64m", "-v", f"{tmp_path}:/here", "-p", "127.0.0.1:8080:80"]
    told = minidocker(storage, "run", "--explain", "--rm", *options, "busybox", "true").stderr
    assert {*re.findall(r"^chapter (\d+), ", told, re.M)} == {*"01234567", "9"}
    assert "chapter 3, Cgroup, before: A control group with limits\n" in told
    whole, parts = re.match(r" *([\d.]+) ms with .*; in the steps (.*)", told.splitlines()[-1]).groups()
    parts = {chapter: float(time) for time, chapter in re.findall(r"([\d.]+) in ([\w ]+)", parts)}
    assert len(parts) == 9 and sum(parts.values()) < float(whole)


def test_no_secret_is_told(storage, tmp_path):
    (tmp_path / "env").write_text("FROM_FILE=hunter2\n")
    (tmp_path / "file").write_text("hunter4\n")
    options = ["-e", "PASSWORD=hunter1", "--env-file", tmp_path / "env", "-v", f"{tmp_path}/file:/file"]
    for kept in ([], ["--rm"]):
        done = minidocker(storage, "run", "--explain", *kept, *options, "--network=none", "busybox", "cat", "/file")
        assert done.stdout == "hunter4\n" and "exec cat /file" in done.stderr
        assert "hunter" not in done.stderr
    minidocker(storage, "rm", *minidocker(storage, "ps", "-aq").stdout.split())


def test_of_a_container_that_stays_the_start_is_told_and_its_monitor_keeps_nothing(storage):
    """The reader of standard error sees its end when the command ends, and not when the container does."""
    argv = ["run", "--explain", "-d", "--name", "still", "--init", "--network=none", "busybox", "sleep", "99"]
    begun = time.monotonic()
    done = minidocker(storage, *argv)
    try:
        assert time.monotonic() - begun < 30 and len(done.stdout) == 65, done.stderr
        assert "chapter 1, PivotRoot, inside" in done.stderr and "exec sleep 99" in done.stderr
    finally:
        again = minidocker(storage, "rm", "--explain", "-f", "still")
    assert again.stdout == "still\n" and "chapter 10, " in again.stderr
    end = minidocker(storage, "run", "--explain", "--network=none", "--name", "ended", "busybox", "echo", "hello")
    assert end.stdout == "hello\n" and "chapter 3, Cgroup, at the end" in end.stderr
    minidocker(storage, "rm", "ended")


def test_other_verbs_explain_themselves(storage, tmp_path):
    made = image(Store(str(storage)), "", [tree(tmp_path / "tree")])
    with Registry() as server:
        server.serve(made)
        name = f"{server.name}/some/image:1"
        shutil.rmtree(storage / "images")
        pulled = minidocker(storage, "pull", "--explain", name)
    assert pulled.returncode == 0, pulled.stderr
    assert f"curl -X GET http://{server.name}/v2/some/image/manifests/1 " in pulled.stderr
    assert "hunter2" not in pulled.stderr


def test_where_there_are_few_descriptors_and_nobody_listens(storage):
    words = "--rm --explain --network=none busybox sh -c 'ls -C /proc/self/fd'"
    for limit, error, told in (("ulimit -n 256", "", True), ("true", "2>&-", False), ("true", "2>/dev/full", False)):
        script = f"{limit}; exec {sys.executable} -m minidocker run {words} {error}"
        environment = {**os.environ, "MINIDOCKER_HOME": str(storage), "PYTHONPATH": str(REPO)}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.split()) == (0, ["0", "1", "2", "3"])  # 3 is the directory
        assert ("chapter 1, PivotRoot, inside" in done.stderr) == told


def test_without_root():
    someone = Someone()
    try:
        someone.load("busybox")
        done = someone.sh("minidocker run --explain --rm --network=none busybox echo hello")
    finally:
        someone.remove()
    assert done.stdout == "hello\n", done.stderr
    assert "chapter 1, PivotRoot, inside" in done.stderr and "exec echo hello" in done.stderr
