"""Chapter 10: cp, diff, commit and export: what comes out of a container and what goes into it, as with Podman."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading

import pytest

from minidocker import cgroups
from minidocker.engine import records
from tests.helpers import until
from tools.bench.engines import await_podman, podman_client

pytestmark = pytest.mark.chapter(10)
BUSYBOX = "busybox"
NOTHING = ("--network=none",)  # of what only Podman needs
MINE = [sys.executable, "-m", "minidocker"]


def do(*words, code=0, engine=MINE, **options):
    """One command; its result, if it ended with this code."""
    options = {"text": True} | options
    done = subprocess.run([*engine, *map(str, words)], capture_output=True, timeout=120, **options)
    assert code is None or done.returncode == code, (words, done.returncode, done.stderr)
    return done


@pytest.fixture
def box(request):
    """The name of a container that runs, and waits; those that tests make beside it begin so."""
    name = f"files{os.getpid()}"
    yield name
    for record in records.records():
        if record.name.startswith(name):
            do("rm", "-fv", record.id)


def run(name, script="true", *options):
    """Start it, and wait until the script is done."""
    script = f"{script}; echo ready; exec sleep 1000"
    do("run", "-d", "--network=none", "--name", name, *options, BUSYBOX, "sh", "-c", script)
    assert until(lambda: "ready" in do("logs", name).stdout)


TREE = """mkdir -p /d/sub; echo a >/d/a; ln -s a /d/link; chown 1000:1001 /d/a; chmod 4755 /d/a; mkfifo /d/fifo
mknod /d/null c 1 3; ln /d/a /d/twin; touch -d '2001-02-03 04:05' /d/sub; ln -s /d /way; chmod 1770 /d"""


def test_what_comes_out_is_the_callers_and_all_else_is_as_it_was(box, tmp_path):
    run(box, TREE)
    do("cp", f"{box}:/d", tmp_path / "new")
    seen = {path.name: path.lstat() for path in (tmp_path / "new").iterdir()}
    assert seen.keys() == {"a", "sub", "link", "fifo", "null", "twin"}
    assert {(status.st_uid, status.st_gid) for status in seen.values()} == {(0, 0)}
    assert stat.S_IMODE(seen["a"].st_mode) == 0o4755 and seen["a"].st_ino == seen["twin"].st_ino
    assert stat.S_ISFIFO(seen["fifo"].st_mode) and seen["null"].st_rdev == os.makedev(1, 3)
    assert seen["sub"].st_mtime < 1e9 and os.readlink(tmp_path / "new/link") == "a"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o1770
    do("cp", "-a", f"{box}:/d/a", tmp_path)
    assert (os.stat(tmp_path / "a").st_uid, os.stat(tmp_path / "a").st_gid) == (1000, 1001)


def test_what_goes_in_keeps_its_owner_mode_time_and_attributes(box, tmp_path):
    run(box)
    (tmp_path / "h/in").mkdir(parents=True)
    (tmp_path / "h/f").write_text("hi")
    os.chown(tmp_path / "h/f", 33, 44)
    os.chmod(tmp_path / "h/f", 0o2755)
    os.utime(tmp_path / "h/f", (10**9, 10**9))
    os.setxattr(tmp_path / "h/f", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chown(tmp_path / "h", 55, 66)
    do("cp", tmp_path / "h", f"{box}:/h")
    assert do("exec", box, "stat", "-c", "%n %a %u:%g %Y", "/h/f").stdout == "/h/f 2755 33:44 1000000000\n"
    assert do("exec", box, "stat", "-c", "%u:%g", "/h").stdout == "55:66\n"
    do("cp", f"{box}:/h/f", tmp_path / "back")
    assert "security.capability" in os.listxattr(tmp_path / "back")


RULES = [  # what is copied in, to where; what is then there, or that it is refused
    ("h/f", "/new", "/new"),
    ("h/f", "/dir", "/dir/f"),
    ("h/f", "/dir/", "/dir/f"),
    ("h/f", "/dir/old", "/dir/old"),
    ("h/f", "/none/", None),
    ("h/f", "/none/x", None),
    ("h/f/", "/x", None),
    ("h/nothing", "/x", None),
    ("h", "/newdir", "/newdir/f"),
    ("h", "/newdir/", "/newdir/f"),
    ("h", "/dir", "/dir/h/f"),
    ("h/.", "/dir", "/dir/f"),
    ("h/.", "/newdir", "/newdir/f"),
    ("h", "/dir/old", None),
    ("h", "/none/x", None),
    ("h", "/full", None),
    ("h/f", "/fulldir", None),
    ("link", "/dir", "/dir/link"),
    ("h/f", "/todir", "/dir/f"),
    ("h/f", "/tofile", "/dir/old"),
]


DOCKERS = [("h", "/newdir/"), ("link", "/dir")]  # Podman refuses the first, and follows a link


def test_dockers_rules_about_where_a_copy_goes_are_podmans(box, podman, tmp_path):
    """Both engines do all of it, each in a container of its own, and the same is there afterwards."""
    (tmp_path / "w/h").mkdir(parents=True)
    (tmp_path / "w/h/f").write_text("hi")
    (tmp_path / "w/link").symlink_to("f")
    place = "mkdir -p /t/$0/dir /t/$0/full /t/$0/fulldir/f; cd /t/$0; echo old >dir/old; echo >full/h; ln -s dir todir"
    make = f"for i in $(seq 0 {len(RULES)}); do sh -c '{place}; ln -s dir/old tofile' $i; done"
    run(box, make)
    do("run", "-d", "--name", box, *NOTHING, BUSYBOX, "sh", "-c", f"{make}; echo ready; sleep 1000", engine=podman)
    assert until(lambda: "ready" in do("logs", box, engine=podman).stdout)
    for number, (source, target, there) in enumerate(RULES):
        words = "cp", f"w/{source}", f"{box}:/t/{number}{target}"
        done = do(*words, code=None, cwd=tmp_path)
        assert done.returncode == (1 if there is None else 0), (source, target, done.stderr)
        assert (done.stderr == "") == (there is not None) and done.stderr.count("\n") < 2
        other = do(*words, code=None, cwd=tmp_path, engine=podman)
        found = [do("exec", box, "find", f"/t/{number}", engine=one).stdout.split() for one in (MINE, podman)]
        assert there is None or f"/t/{number}{there}" in found[0], (source, target)
        if (source, target) not in DOCKERS:
            assert (done.returncode, sorted(found[0])) == (bool(other.returncode), sorted(found[1])), (source, target)


def test_what_is_copied_from_a_link(box, tmp_path):
    run(box, TREE)
    do("cp", f"{box}:/way", tmp_path / "one")
    do("cp", "-L", f"{box}:/way", tmp_path / "two")
    do("cp", f"{box}:/way/", tmp_path / "three")
    do("cp", f"{box}:/way/.", tmp_path / "four")
    assert os.readlink(tmp_path / "one") == "/d"
    assert all((tmp_path / name / "a").read_text() == "a\n" for name in ("two", "three", "four"))


def test_archives_come_out_and_go_in(box):
    run(box, TREE)

    def names(path):
        out = do("cp", f"{box}:{path}", "-", text=False).stdout
        return [member.name for member in tarfile.open(fileobj=io.BytesIO(out))]

    assert names("/d/a") == ["a"] and names("/d")[:2] == ["d", "d/a"] and names("/d/.")[:2] == [".", "./a"]
    assert "twin" in " ".join(names("/d")) and not names("/")[0].strip("./")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("deep/er/file")
        entry.size, entry.uid = 5, 77
        tar.addfile(entry, io.BytesIO(b"hello"))
    do("cp", "-", f"{box}:/d", input=packed.getvalue(), text=False)
    assert do("exec", box, "sh", "-c", "cat /d/deep/er/file; stat -c %u /d/deep/er/file").stdout == "hello77\n"
    for path in ("/d/a", "/none"):
        done = do("cp", "-", f"{box}:{path}", input=packed.getvalue(), text=False, code=1)
        assert done.stderr == f"minidocker: {box}:{path}: not a directory\n".encode()
    climbing = packed.getvalue().replace(b"deep/er/file", b"../../r/file", 1)
    do("cp", "-", f"{box}:/d", input=climbing, text=False, code=1)


def test_a_container_that_does_not_run_has_its_volumes_too(box, tmp_path):
    (tmp_path / "bind").mkdir()
    run(
        box,
        "echo 1 >/vol/v; echo 2 >/bind/b; echo 3 >/own",
        "-v",
        "/vol",
        "-v",
        f"{tmp_path}/bind:/bind:rw",
        "--tmpfs",
        "/t",
    )
    do("stop", "-t", "0", box)
    for path in ("/vol/v", "/bind/b", "/own"):
        do("cp", f"{box}:{path}", tmp_path)
    assert [(tmp_path / name).read_text() for name in ("v", "b", "own")] == ["1\n", "2\n", "3\n"]
    do("cp", tmp_path / "own", f"{box}:/vol/new")
    do("cp", tmp_path / "own", f"{box}:/new")
    do("start", box)
    assert do("exec", box, "cat", "/vol/new", "/new").stdout == "3\n3\n"


def test_what_is_read_only_stays_so(box, tmp_path):
    (tmp_path / "f").write_text("x")
    run(box, "true", "--read-only", "-v", "/vol", "-v", f"{tmp_path}:/ro:ro")
    for _ in range(2):
        for path in ("/f", "/ro/g"):
            assert "Read-only file system" in do("cp", tmp_path / "f", f"{box}:{path}", code=1).stderr
        do("cp", tmp_path / "f", f"{box}:/vol/f")
        do("stop", "-t", "0", box)
    assert os.listdir(tmp_path) == ["f"]


def test_what_is_wrong_with_the_words(box, tmp_path):
    do("create", "--network=none", "--name", box, BUSYBOX)
    for words in (("a", "b"), (f"{box}:/a", f"{box}:/b"), (f"{box}:/etc", "-x:/b"), ("./a:b", "/c:d")):
        assert "CONTAINER:PATH" in do("cp", *(["--"] + list(words)), code=1).stderr
    assert "no such container: nobody" in do("cp", "nobody:/etc", ".", code=1).stderr
    assert "no such file, or no such directory" in do("cp", f"{box}:/nothing/etc", ".", code=1, cwd=tmp_path).stderr
    assert "there is no directory" in do("cp", f"{box}:/etc", "/nothing/here", code=1).stderr


SWAPS = """mkdir -p /w/real /w/deep/er; echo mine >/w/real/secret; echo mine >/w/deep/er/secret; ln -s {there} /w/link
cp -r /w/real /w/at; while :; do mv /w/at /w/x; mv /w/link /w/at; mv /w/at /w/link; mv /w/x /w/at; done & true"""


def test_a_container_that_swaps_links_meanwhile_reaches_nothing_of_the_host(box, tmp_path):
    """CVE-2018-15664: in both directions, and with a link that would lead to a directory of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("the host's")
    run(box, SWAPS.format(there=outside))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/secret").write_text("evil")
    for number in range(25):
        do("cp", f"{box}:/w/at/secret", tmp_path / f"out{number}", code=None)
        do("cp", tmp_path / "in/.", f"{box}:/w/at", code=None)
    assert (outside / "secret").read_text() == "the host's" and os.listdir(outside) == ["secret"]
    assert all("host" not in path.read_text() for path in tmp_path.glob("out[0-9]*") if path.is_file())


def test_links_of_proc_lead_nowhere(box, tmp_path):
    (tmp_path / "f").write_text("x")
    run(box, "ln -s /proc/1/root /w; ln -s /proc/self/cwd /v; ln -s /proc/1/ns/net /n")
    for link in ("/w", "/v"):
        do("cp", tmp_path / "f", f"{box}:{link}/etc/evil", code=1)
        do("cp", f"{box}:{link}/etc/passwd", tmp_path / "p", code=1)
    do("cp", "-L", f"{box}:/n", tmp_path / "n", code=1)
    assert not os.path.exists("/etc/evil") and not os.path.exists(tmp_path / "p")


def test_root_of_remapped_users_is_root_of_what_comes_in(box, tmp_path):
    (tmp_path / "f").write_text("x")
    run(box, "echo 1 >/own", "--userns", "remap")
    for name in ("/a", "/b"):
        do("cp", tmp_path / "f", f"{box}:{name}")
        do("stop", "-t", "0", box)
    do("start", box)
    assert do("exec", box, "stat", "-c", "%u", "/a", "/b", "/own").stdout == "0\n" * 3
    do("cp", f"{box}:/own", tmp_path)
    assert os.stat(tmp_path / "own").st_uid == 0
    assert "--userns remap" in do("commit", box, code=1).stderr


def test_nothing_of_the_container_is_loaded(box, tmp_path):
    """CVE-2019-14271: docker-tar loaded the container's libnss, as root of the host."""
    run(
        box,
        "for l in lib lib64 usr/lib; do mkdir -p /$l; echo >/$l/libnss_files.so.2; echo >/$l/libnss_compat.so.2; done; "
        "echo 'import os; os.system(\"touch /hit\")' >/encodings.py; rm /etc/passwd; mkfifo /etc/passwd /etc/group",
    )
    (tmp_path / "f").write_text("x")
    do("cp", tmp_path / "f", f"{box}:/f")
    do("cp", f"{box}:/f", tmp_path / "g")
    assert do("exec", "-u", "0", box, "test", "-e", "/hit", code=None).returncode


def test_a_device_of_the_container_is_copied_and_never_opened(box, tmp_path):
    device = next(os.stat(f"/dev/{name}").st_rdev for name in ("null",))
    run(box, f"mknod /disk c {os.major(device)} {os.minor(device)}")
    do("cp", f"{box}:/disk", tmp_path / "disk")
    assert stat.S_ISCHR((tmp_path / "disk").lstat().st_mode)


def test_a_file_that_grows_is_copied_as_far_as_it_was(box, tmp_path):
    run(box, "(while :; do echo line >>/log; done) & sleep 0.2")
    do("cp", f"{box}:/log", tmp_path / "log")
    do("cp", f"{box}:/log", "-", text=False)
    assert (tmp_path / "log").read_text().startswith("line\n")


def test_several_copies_at_once_and_a_kill(box, tmp_path):
    run(box, "head -c 3000000 /dev/zero >/big")
    threads = [threading.Thread(target=do, args=("cp", f"{box}:/big", tmp_path / str(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {3000000}
    command = subprocess.Popen([*MINE, "cp", f"{box}:/", "-"], stdout=subprocess.PIPE)
    command.stdout.read(1000)
    command.kill()
    command.wait()
    command.stdout.close()
    do("rm", "-f", box)


CHANGE = """echo 1 >/etc/new; rm /etc/passwd; chmod 700 /root; mkdir -p /deep/er; echo x >/deep/er/f; rm -r /home
echo more >>/etc/group; mkdir /gone; rmdir /gone; touch /tmp/x"""


@pytest.fixture
def podman(tmp_path_factory):
    """Podman with busybox, in a store of its own."""
    scratch = tmp_path_factory.mktemp("p")
    client = [*podman_client(scratch, scratch / "data"), "--runtime=runc"]  # crun refuses a host with both versions
    archive = scratch / "busybox.tar"
    with open(archive, "wb") as file:
        subprocess.run([*MINE, "export", BUSYBOX], stdout=file, check=True)
    do("import", archive, BUSYBOX, engine=client)
    yield client
    do("rm", "-fa", "-t", "0", engine=client, code=None)
    await_podman(str(scratch))
    subprocess.run(["umount", "-l", scratch / "data/overlay"], capture_output=True)
    subprocess.run(["umount", "-l", scratch / "data"], capture_output=True)
    shutil.rmtree(scratch, ignore_errors=True)


def test_diff_is_podmans(box, podman):
    run(box, CHANGE)
    do("run", "--name", box, "--network=none", BUSYBOX, "sh", "-c", CHANGE, engine=podman)
    theirs = do("diff", box, engine=podman).stdout.splitlines()
    mine = do("diff", box).stdout.splitlines()
    assert sorted(mine) == sorted(theirs)
    do("stop", "-t", "0", box)
    assert do("diff", box).stdout.splitlines() == mine


def test_commit_is_an_image_with_what_was_changed_above_the_others(box):
    run(box, CHANGE, "-e", "A=1", "-w", "/deep", "-l", "team=blue", "--stop-signal", "INT")
    image = f"{box}:v1"
    identity = do(
        "commit", "-m", "why", "-a", "me", "-c", 'CMD ["cat", "/etc/new"]', "-c", "ENV B=2", "-c", "EXPOSE 80", "-c",
        "VOLUME /data", "-c", "USER 33", "-c", "LABEL a=b", "-c", "WORKDIR er", "-c", 'ENTRYPOINT ["env"]', box, image,
    ).stdout.strip()  # fmt: skip
    try:
        (seen,) = json.loads(do("inspect", image).stdout)
        config = seen["Config"]
        assert seen["Id"] == identity and seen["Author"] == "me" and len(seen["RootFS"]["Layers"]) == 2
        assert config["Cmd"] == ["cat", "/etc/new"] and {"A=1", "B=2"} <= {*config["Env"]} and config["User"] == "33"
        assert config["Entrypoint"] == ["env"] and config["WorkingDir"] == "/deep/er" and config["StopSignal"] == "INT"
        assert config["Labels"] == {"team": "blue", "a": "b"} and config["ExposedPorts"] == {"80/tcp": {}}
        assert config["Volumes"] == {"/data": {}}
        last = do("history", "--no-trunc", image).stdout.splitlines()[1]
        assert "sh -c" in last and last.rstrip().endswith("why")
        script = "cat /etc/new; test ! -e /home && test ! -e /etc/passwd && pwd"
        made = do("run", "--rm", "--net=none", "--entrypoint", "", image, "sh", "-c", script)
        assert made.stdout == "1\n/deep/er\n"
    finally:
        do("rmi", image)


def test_what_commit_refuses_leaves_nothing(box):
    run(box)
    before = do("images", "-q").stdout
    for change in ("ONBUILD RUN x", "RUN x", "FROM y", "NONSENSE"):
        assert do("commit", "-c", change, box, code=1).stderr.count("\n") == 1
    do("commit", box, "Not/A:Name:x", code=1)
    do("commit", "nobody", code=1)
    assert do("images", "-q").stdout == before


def test_it_is_frozen_while_it_is_committed(box, monkeypatch, capsys):
    from minidocker.cli import main
    from minidocker.images.store import Store

    run(box)
    real, seen = Store.add_layer, []
    state = next(one for one in records.records() if one.name == box).state
    monkeypatch.setattr(Store, "add_layer", lambda *words: (seen.append(state()["status"]), real(*words))[1])
    for flags in ([], ["--pause=false"]):
        assert main(["commit", *flags, box, f"{box}:x"]) == 0
    assert seen == ["paused", "running"] and state()["status"] == "running"
    do("rmi", "-f", f"{box}:x")
    do("image", "prune")


def test_export_is_the_container_as_it_is_now(box, podman):
    run(box, CHANGE, "-v", "/vol")

    def names(word):
        out = do("export", word, text=False).stdout
        return {member.name.removeprefix("./"): member for member in tarfile.open(fileobj=io.BytesIO(out))}

    running = names(box)
    do("stop", "-t", "0", box)
    assert running.keys() == names(box).keys()
    assert "deep/er/f" in running and "home" not in running and running["root"].mode == 0o700 and "vol" in running
    assert not [name for name in running if name.startswith(("proc/", "sys/", "vol/"))]
    assert "home" in names(BUSYBOX)
    assert cgroups.hierarchies()
