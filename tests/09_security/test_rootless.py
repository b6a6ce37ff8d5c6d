"""Chapter 9, without root: the command of an ordinary user, from a shell script of theirs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from attacks import ATTACKS

from tests.helpers import GUEST, REPO, need
from tests.helpers import until as wait_until
from tests.helpers.users import ADDRESS, RANGE, UID, Someone

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="to make a user needs root"),
]
WWW_DATA = 33


@pytest.fixture(scope="module")
def someone():
    """With both images."""
    user = Someone()
    user.load("busybox", "debian")
    yield user
    user.remove()


def words(done):
    """What it printed, of a script that went well."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def inside(script, image="busybox", options=""):
    """The words of a shell for a container that runs a script."""
    return f"minidocker run {options} {image} sh -c {shlex.quote(script)}"


def until(command):
    """The words of a shell that repeats it until it succeeds."""
    return f"for turn in $(seq {600 if GUEST else 60}); do {command} && break; sleep 0.1; done"


def test_root_inside_is_the_user_outside(someone):
    done = someone.sh(inside("id -u; hostname; ps > all; wc -l < all; cat /proc/self/uid_map", options="-h web"))
    assert words(done) == ["0", "web", "3", "0", str(UID), "1", "1", str(RANGE), "65536"]
    assert done.stderr == ""
    seen = until("ps -o uid=,args= -C sleep | grep 'sleep 60'")
    done = someone.sh(f"minidocker run busybox sleep 60 & {seen}; kill -TERM $!; wait")
    assert f"{UID} sleep 60" in done.stdout


def test_it_keeps_its_files_in_the_home_of_the_user(someone):
    assert "index.json" in words(someone.sh("minidocker images; ls ~/.local/share/minidocker/images"))
    assert {path.stat().st_uid for path in (someone.home / ".local/share/minidocker").iterdir()} == {UID}


def test_the_walls_are_there(someone):
    done = someone.sh(
        inside("grep ^Cap[EB] /proc/self/status; wc -c < /proc/interrupts; echo > /proc/sys/vm/swappiness")
    )
    assert re.findall(r"Cap\w+:\s(\w+)", done.stdout) == ["00000000a80425fb"] * 2
    assert "\n0\n" in done.stdout and "Read-only file system" in done.stderr
    someone.sh(inside("echo x > /dev/null; chmod 0 /dev/null"))
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_the_attacks_end_as_with_root(someone):
    """All of them, but for what this kernel does not have, or another wall refuses by another errno."""
    (someone.place / "attacks.py").write_text((REPO / "chapters/09_security/attacks.py").read_text())
    places = ("/usr", "/usr"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64"), (f"{someone.place}/attacks.py", "/a.py")
    volumes = " ".join(f"-v {source}:{target}:ro" for source, target in places)
    names = " ".join(map(shlex.quote, ATTACKS))
    done = someone.sh(f"minidocker run {volumes} busybox /usr/bin/python3 /a.py {names}")
    found = dict(line.split(": ") for line in done.stdout.splitlines() if not line.endswith(": ENOENT"))
    wanted = {name: "worked" if one.on else one.differs.get("rootless", [one.ends])[0] for name, one in ATTACKS.items()}
    assert len(found) > 30, done
    for name, how in found.items():
        assert how.replace("EACCES", "EPERM") == wanted[name].replace("EACCES", "EPERM"), name


def test_debian_has_all_its_users(someone):
    script = "cd /var/cache; chown _apt apt; stat -c %U apt; su -s /bin/sh www-data -c 'id -un'; stat -c %g /etc/shadow"
    assert words(someone.sh(inside(script, "debian"))) == ["_apt", "www-data", "42"]
    assert words(someone.sh(inside("id -un", "debian", "-u www-data"))) == ["www-data"]


def test_files_in_a_volume_have_owners_outside(someone):
    script = "touch /v/root /v/www; chown www-data /v/www; chmod u+s /v/root"
    words(someone.sh("mkdir v; " + inside(script, "debian", "-v $PWD/v:/v")))
    assert (someone.home / "v/root").stat().st_uid == UID  # set-user-ID, and so the user's, and not root's
    assert (someone.home / "v/www").stat().st_uid == RANGE + WWW_DATA - 1
    words(someone.sh(inside("rm /v/root /v/www", options="-v $PWD/v:/v")))


def test_a_named_volume(someone):
    first = someone.sh(inside("stat -c %g /var/log/btmp; touch /var/log/new", "debian", "--rm -v logs:/var/log"))
    assert words(first) == ["43"]
    again = someone.sh(inside("ls /l/new", options="--rm -v logs:/l:ro") + "; minidocker volume rm logs")
    assert words(again) == ["/l/new", "logs"]


def test_a_file_of_root_stays_closed(someone):
    secret = someone.place / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    done = someone.sh(inside("id -u; cat /secret; chmod 666 /secret", options=f"-v {secret}:/secret"))
    assert done.stdout == "0\n" and done.stderr.count("denied") + done.stderr.count("not permitted") == 2


def test_a_published_port_and_the_way_out(someone):
    """To an address of the host; but not to its loopback interface, where servers listen that trust everybody."""
    server = inside("echo inside > index.html; httpd -f -p 80", options="-p 127.0.0.1:8080:80")
    out = f"wget -qO- {ADDRESS}:8000/f; wget -T 2 -qO- 10.0.2.2:8000/f || echo closed; cat /etc/resolv.conf"
    script = f"""
        mkdir -p site; echo outside > site/f; cd site
        {sys.executable} -m http.server -b 0.0.0.0 8000 2>/dev/null & web=$!
        {server} & container=$!
        {until("curl -sf http://127.0.0.1:8080/")}
        {inside(out, options="--network bridge")}
        kill $container $web; wait
    """
    assert words(someone.sh(script)) == ["inside", "outside", "closed", "nameserver", "10.0.2.3"]


@pytest.mark.parametrize(
    "command, text",
    [
        ("run -p 80:80 busybox true", "port *:80 -> 80/tcp: permission denied"),
        ("run --network backend busybox true", "backend: this needs root"),
        ("run --network bridge --egress 10M busybox true", "this needs root"),
        ("network create backend", "this needs root: sudo minidocker network create"),
        ("run -v /etc/shadow:/s busybox cat /s", "Permission denied"),
    ],
)
def test_what_needs_root_says_so_in_a_line(command, text, someone):
    done = someone.sh(f"minidocker {command}")
    assert done.returncode and text in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_limit_needs_a_group_of_the_user(someone):
    done = someone.sh("minidocker run -m 64m busybox true")
    assert done.returncode == 125 and "controller memory: missing here" in done.stderr
    assert "systemd-run --user --scope" in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def delegated():
    """A group of version 2 that is the user's, with the controllers that there are, and one in it for the shell."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    top = next((Path(line.split()[4]) for line in mounts if " - cgroup2 " in line), None)
    need(top, "cgroup2 is not mounted")
    group, shell = top / f"user-{os.getpid()}", top / f"user-{os.getpid()}/shell"
    for one in (group, shell):
        one.mkdir()
        for path in (one, one / "cgroup.procs", one / "cgroup.subtree_control"):
            os.chown(path, UID, UID)
        if one == group and (usable := {*(top / "cgroup.subtree_control").read_text().split()} & {"memory", "pids"}):
            (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in usable))
    yield shell
    for one in (shell, group / "minidocker", group):
        wait_until(lambda one=one: not one.is_dir() or not (one / "cgroup.procs").read_text())
        if one.is_dir():
            one.rmdir()


def test_a_group_that_is_delegated_is_used(someone, delegated):
    """Where version 2 has no controllers, as on a hybrid machine, the container is in a group all the same."""
    memory = "memory" in (delegated.parent / "cgroup.controllers").read_text().split()
    group = delegated.parent / "minidocker/fenced"
    limit, file = ("-m 64m", "memory.max") if memory else ("", "cgroup.type")
    there = until(f"grep -q . {group}/cgroup.procs 2>/dev/null")
    run = f"minidocker run --rm --network none {limit} --name fenced busybox sleep 60"
    script = f"{run} & {there}; cat {group}/{file}; kill $!; wait"
    done = someone.sh(script, preexec_fn=lambda: (delegated / "cgroup.procs").write_text(str(os.getpid())))
    assert words(done) == [f"{64 << 20}" if memory else "domain"]


DOCKERFILE = """
FROM debian
RUN echo built > /built && chown www-data /built && rm -r /etc/apt && mkdir /etc/apt && rm /etc/motd
COPY --chown=www-data:33 file /copied
USER www-data
CMD stat -c %U /built /copied /etc/shadow; ls /etc/apt /etc/motd 2>&1 || true
"""


def test_build_save_and_load(someone):
    (someone.home / "context").mkdir()
    (someone.home / "context/Dockerfile").write_text(DOCKERFILE)
    (someone.home / "context/file").write_text("text")
    script = "minidocker build -t site context >&2; minidocker save site -o site.tar; minidocker rmi site >&2"
    done = someone.sh(f"set -e; {script}; minidocker load -i site.tar >&2; minidocker run site")
    assert words(done)[:3] == ["www-data", "www-data", "root"]
    assert "No such file" in done.stdout and done.stdout.count("\n") == 5, done.stdout  # an opaque /etc/apt is empty


def processes():
    """Those of the user that still run."""
    command = ["ps", "-o", "stat=,args=", "-u", f"{UID},{RANGE + WWW_DATA - 1}"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if line[0] != "Z"]


def test_nothing_outlives_the_owner(someone):
    assert wait_until(lambda: not processes()), processes()  # of the test before
    script = "minidocker run --rm -p 8081:80 -u www-data debian sleep 61 & PS; kill -KILL $!"
    began = "ps -e -o args= | grep -q '^sleep 61'"  # the container's, of which the command's own line speaks, too
    script = script.replace("PS", until(f"{began} && ps x | grep '[s]lirp4netns'"))
    assert "slirp4netns" in someone.sh(script).stdout
    assert wait_until(lambda: not processes()), processes()
    # The kernel lets go of what the dead held a moment later
    assert wait_until(lambda: "removed" in someone.sh("minidocker prune").stdout)
    assert someone.sh("minidocker prune; ls ~/.local/share/minidocker/containers").stdout == ""


REFUSED = """
import sys
from minidocker import namespaces
from minidocker.cli import main
from minidocker.security import rootless
from minidocker.syscalls import error
def refuse(*_):
    raise error("unshare", int(sys.argv[2]))
setattr(*{"unshare": (rootless, "call"), "prctl": (namespaces.syscalls, "prctl")}[sys.argv[1]], refuse)
namespaces.APPARMOR = "/proc/self"
sys.exit(main(["images"]))
"""


@pytest.mark.parametrize(
    "call, number, text",
    [
        ("unshare", 28, "sysctl -w user.max_user_namespaces"),
        ("unshare", 1, "kernel.unprivileged_userns_clone=1"),
        ("prctl", 1, "AppArmor does that: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ],
)
def test_a_machine_that_gives_no_user_namespace(call, number, text, someone):
    (someone.place / "refused.py").write_text(REFUSED)
    done = someone.sh(f"{sys.executable} ../refused.py {call} {number}")
    assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("ranges", ["", "other:100000:65536\n# a comment\n"])
def test_without_numbers_for_other_users_there_is_a_line(ranges):
    user = Someone(ranges)
    done = user.sh("minidocker images")
    user.remove()
    assert done.returncode == 1 and "subuid has no numbers for someone" in done.stderr and "usermod -v" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_needs_nothing(someone):
    assert "usage: minidocker run" in someone.sh("minidocker run --help").stdout
