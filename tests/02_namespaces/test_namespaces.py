"""Chapter 2: what each of the eight namespaces changes and what it does not; both ways of starting."""

import contextlib
import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from minidocker import child, namespaces, syscalls
from minidocker import process as engine
from minidocker.namespaces import KINDS, Init, Join, Namespaces, namespace_of
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from minidocker.terminal import Terminal
from tests.helpers import HOME, REPO, both_ways, need, python, until
from tests.helpers.joining import InGroup, TooLate
from tools.learner.nobody import PYTHON, as_nobody

pytestmark = pytest.mark.chapter(2)
CHAPTER = REPO / "chapters/02_namespaces"
ROOT = HOME / "roots/busybox"
MAPPED = {"uid_map": "0 100000 65536", "gid_map": "0 100000 65536"}


def walls(kinds="pid mount uts ipc net", **options):
    """The list of stage 2."""
    return [Namespaces(kinds, **options), PivotRoot(ROOT)]


@pytest.mark.parametrize("kind", KINDS)
@both_ways
def test_each_kind_is_one_of_its_own_and_changes_no_other(kind):
    with start(["sleep", "60"], Namespaces(kind)) as process:
        own = [other for other in KINDS if namespace_of(process.pid, other) != namespace_of("self", other)]
    assert own == [kind]


@both_ways
def test_all_eight_at_once():
    with start(["sleep", "60"], *walls(" ".join(KINDS))) as process:
        assert all(namespace_of(process.pid, kind) != namespace_of("self", kind) for kind in KINDS)


def test_an_unknown_kind_is_refused():
    for make in (lambda: Namespaces("pid network"), lambda: Join(1, "users")):
        with pytest.raises(ContainerError, match="no namespace is called"):
            make()


@both_ways
def test_uts_the_name_is_its_own():
    before = os.uname().nodename
    assert run(["hostname"], Namespaces("uts", hostname="box")).stdout == "box\n"
    assert run(["hostname"], Namespaces("uts"), name="by-default").stdout == "by-default\n"
    assert os.uname().nodename == before


@both_ways
def test_mount_what_is_mounted_inside_is_seen_inside_only(tmp_path):
    script = f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/inside && ls {tmp_path}"
    assert run(["sh", "-c", script], Namespaces("mount")).stdout == "inside\n"
    assert not [*tmp_path.iterdir()]


SHARED = """
    import pathlib, sys
    from minidocker import syscalls
    from minidocker.namespaces import Namespaces
    from minidocker.process import run
    from minidocker.rootfs import PivotRoot
    syscalls.call("unshare", syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", flags=syscalls.MS_REC | (1 << 20))  # MS_SHARED, as systemd has it
    run(["mount", "-t", "tmpfs", "none", sys.argv[1]], Namespaces("mount"))
    run(["mount", "--bind", "/etc", sys.argv[1]], Namespaces("mount"))
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    run(["mount", "-t", "tmpfs", "none", "/tmp"], Namespaces("mount pid"), PivotRoot(sys.argv[2]))
    assert pathlib.Path("/proc/self/mountinfo").read_text() == before
    assert sys.argv[1] not in pathlib.Path("/proc/self/mountinfo").read_text()
    print("unharmed")
"""


def test_mount_nothing_propagates_to_a_host_with_shared_mounts(tmp_path):
    assert python(SHARED, str(tmp_path), str(ROOT)).stdout == "unharmed\n"


@both_ways
def test_pid_numbers_begin_at_one():
    result = run(["sh", "-c", "echo $$; ls -d /proc/[0-9]*"], *walls())
    assert result.stdout.split()[:2] == ["1", "/proc/1"]
    assert len(result.stdout.split()) <= 4


@both_ways
def test_pid_one_process_has_two_numbers():
    with start(["sleep", "60"], *walls()) as process:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        assert f"NSpid:\t{process.pid}\t1\n" in status
        assert run(["kill", "-0", str(os.getpid())], Join(process.pid)).exit_code == 1


@both_ways
def test_pid_when_the_first_ends_all_end():
    with start(["sh", "-c", "sleep 1000 & sleep 1000 & echo started; wait"], *walls()) as process:
        next(process.lines())
        inside = namespace_of(process.pid, "pid")
        process.kill()
        process.wait()
    assert until(lambda: inside not in [pid_namespace(path) for path in pathlib.Path("/proc").glob("[0-9]*")])


def pid_namespace(path):
    try:
        return namespace_of(path.name, "pid")
    except OSError:
        return None


@both_ways
def test_ipc_a_queue_made_inside_is_not_outside():
    count = "ipcs -q | grep -c 0x"
    outside = run(["sh", "-c", count]).stdout
    assert run(["sh", "-c", f"ipcmk -Q > /dev/null; {count}"], Namespaces("ipc")).stdout == "1\n"
    assert run(["sh", "-c", count]).stdout == outside


@both_ways
def test_ipc_a_queue_of_the_host_is_not_inside():
    made = subprocess.run(["ipcmk", "-Q"], capture_output=True, text=True, check=True).stdout.split()[-1]
    try:
        look = ["sh", "-c", f"ipcs -q -i {made}"]
        assert f"msqid={made}" in run(look).stdout
        assert f"msqid={made}" not in run(look, Namespaces("ipc")).stdout
    finally:
        subprocess.run(["ipcrm", "-q", made], check=True)


@both_ways
def test_net_there_is_loopback_and_it_is_up():
    links = run(["ip", "-o", "link"], Namespaces("net")).stdout.splitlines()
    assert len(links) == 1
    assert "lo" in links[0]
    assert ",UP" in links[0]


@both_ways
def test_net_interfaces_and_servers_of_the_host_are_out_of_sight():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        look = ["sh", "-c", f"grep -ic :{port:04X} /proc/net/tcp; ls /proc/sys/net/ipv4/conf"]
        outside, inside = run(look).stdout.split(), run(look, Namespaces("net")).stdout.split()
        ask = ["busybox", "nc", "-w", "2", "127.0.0.1", str(port)]
        assert run(ask, Namespaces("net")).exit_code != 0
    assert outside[0] == "1"
    assert inside == ["0", "all", "default", "lo"]
    assert set(outside[1:]) == {"all", "default", *(name for _, name in socket.if_nameindex())}


def test_net_two_servers_have_the_same_port():
    serve = "while :; do echo I am $(hostname) | nc -l -p 8080; done"
    ask = ["sh", "-c", "until nc 127.0.0.1 8080; do :; done"]
    with (
        start(["sh", "-c", serve], *walls(hostname="first")) as first,
        start(["sh", "-c", serve], *walls(hostname="second")) as second,
    ):
        answers = [run(ask, Join(server.pid), timeout=20).stdout for server in (first, second)]
    assert answers == ["I am first\n", "I am second\n"]


@both_ways
def test_user_root_inside_and_nobody_outside(tmp_path):
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    user = Namespaces("user", **MAPPED)
    with start(["sh", "-c", f"id -u; touch {tmp_path}/file; echo made; sleep 60"], user) as process:
        lines = process.lines()
        assert (next(lines), next(lines)) == ("0", "made")
        assert os.stat(f"/proc/{process.pid}").st_uid == 100000
    assert (tmp_path / "file").stat().st_uid == 100000
    assert run(["cat", "/etc/shadow"], user).exit_code == 1
    assert run(["hostname", "mine"], user).exit_code != 0


WITHOUT_ROOT = """
    import sys, threading, time
    from minidocker.namespaces import Namespaces
    from minidocker.process import ContainerError, run
    from minidocker.rootfs import PivotRoot
    if sys.argv[1] == "launcher":
        threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
    walls = Namespaces("user pid mount uts ipc net", hostname="mine"), PivotRoot(sys.argv[2])
    print(run(["sh", "-c", "id -u; hostname; echo $$; cat /proc/self/uid_map /proc/self/setgroups"], *walls).stdout)
    try:
        run(["true"], Namespaces("uts"))
    except ContainerError as error:
        print(error)
"""


@pytest.mark.parametrize("path", ["fork", "launcher"])
def test_user_without_being_root(path):
    with as_nobody() as options:
        command = [PYTHON, "-c", textwrap.dedent(WITHOUT_ROOT), path, str(ROOT)]
        words = subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.split("\n", 6)
    assert words[:3] == ["0", "mine", "1"]
    assert words[3].split() == ["0", "65534", "1"]
    assert words[4] == "deny"
    assert "need root, or a user namespace" in words[6]


@pytest.mark.parametrize(
    ("mapping", "who", "shown"),
    [
        ("0 0 4294967295", "0", ["0", "0", "4294967295"]),
        ("0 65534 1", "0", ["0", "65534", "1"]),
        ("1000 0 1", "1000", ["1000", "0", "1"]),
        ("0 65534 1\n1 100000 10", "0", ["0", "65534", "1", "1", "100000", "10"]),
    ],
    ids=["everybody", "one", "not-root", "two-lines"],
)
@both_ways
def test_user_maps(mapping, who, shown):
    script = "id -u; id -g; cat /proc/self/uid_map"
    words = run(["sh", "-c", script], Namespaces("user", uid_map=mapping, gid_map=mapping)).stdout.split()
    assert words == [who, who, *shown]


def test_user_a_map_that_may_not_be_is_a_clear_error():
    with pytest.raises(ContainerError, match=r"Namespaces: write\(/proc/[0-9]+/uid_map\)"):
        run(["true"], Namespaces("user", uid_map="nonsense"))


def test_user_a_machine_that_gives_no_rights_is_named_with_the_remedy(monkeypatch, tmp_path):
    def prctl(option, *arguments):
        if option == namespaces.PR_CAPBSET_DROP:
            raise syscalls.error("prctl", errno.EPERM)
        return real(option, *arguments)

    real = syscalls.prctl
    monkeypatch.setattr(engine, "_parent", child.Forked)  # the launcher would not know of our prctl
    monkeypatch.setattr(syscalls, "prctl", prctl)
    for switch, remedy in (("/no-such", "gives no rights"), (str(tmp_path), "sysctl -w kernel.apparmor_restrict")):
        monkeypatch.setattr(namespaces, "APPARMOR", switch)
        with pytest.raises(ContainerError, match=remedy):
            run(["true"], Namespaces("user"))


def group_directory():
    """A hierarchy in which a group can be made by hand; any will do."""
    found = [
        path
        for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids")
        if os.path.exists(f"{path}/cgroup.procs")
    ]
    need(found, "needs a cgroup hierarchy: mount -t cgroup2 none /sys/fs/cgroup")
    return found[0]


@both_ways
def test_cgroup_a_group_made_by_hand_is_the_root_inside_only():
    group = InGroup(group_directory())
    ends = []
    for walls_ in ([group], [group, Namespaces("cgroup")]):
        with start(["sh", "-c", "cat /proc/self/cgroup; echo; exec sleep 60"], *walls_, name="seen") as process:
            lines = [*iter(process.lines().__next__, "")]
            outside = pathlib.Path(f"/proc/{process.pid}/cgroup").read_text()
        ends.append(any(line.endswith("/minidocker-by-hand-seen") for line in lines))
        assert "/minidocker-by-hand-seen\n" in outside
    assert ends == [True, False]


@both_ways
def test_cgroup_the_group_of_its_maker_is_the_root():
    seen = run(["cat", "/proc/self/cgroup"], Namespaces("cgroup")).stdout.splitlines()
    assert all(line.endswith(":/") for line in seen)


@both_ways
def test_time_the_clock_since_boot_is_shifted_and_the_time_of_day_is_not():
    year = 365 * 86400
    shifted = Namespaces("time", boottime=year, monotonic=year)
    assert float(run(["cat", "/proc/uptime"], shifted).stdout.split()[0]) > year
    assert abs(int(run(["date", "+%s"], shifted).stdout) - time.time()) < 5


@both_ways
def test_time_a_clock_before_the_start_is_refused():
    with pytest.raises(ContainerError, match="timens_offsets"):
        run(["true"], Namespaces("time", boottime=-(10**9)))


@both_ways
def test_two_hosts_on_one_kernel():
    ask = "hostname; uname -r; cat /proc/sys/kernel/random/boot_id"
    one, two = (run(["sh", "-c", ask], *walls(hostname=name)).stdout.split() for name in ("anna", "otto"))
    assert (one[0], two[0]) == ("anna", "otto")
    assert (
        one[1:] == two[1:] == [os.uname().release, pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    )


@both_ways
def test_join_all_namespaces_of_a_container():
    with start(["sh", "-c", "echo $$; sleep 60"], *walls(hostname="there")) as process:
        assert next(process.lines()) == "1"
        result = run(["sh", "-c", "hostname; ls -d /proc/[0-9]* | wc -l; ls /; ip -o link | wc -l"], Join(process.pid))
        assert result.stdout.split()[0] == "there"
        assert int(result.stdout.split()[1]) <= 5
        assert "etc" in result.stdout


GROUPS = """
    import sys, threading, time
    from minidocker.namespaces import Join, Namespaces
    from minidocker.process import run, start
    if sys.argv[1] == "launcher":
        threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
    groups = ["grep", "Groups", "/proc/self/status"]
    user = Namespaces("user", uid_map="0 65534 1", gid_map="0 65534 1")
    with start(["sleep", "60"], user) as process:
        print(run(groups).stdout, run(groups, user).stdout, run(groups, Join(process.pid)).stdout)
"""


@pytest.mark.parametrize("path", ["fork", "launcher"])
def test_user_groups_of_the_caller_are_left_at_the_door(path):
    assert python(GROUPS, path, extra_groups=[4, 27]).stdout.split() == ["Groups:", "4", "27", "Groups:", "Groups:"]


@pytest.mark.parametrize("kind", KINDS)
@both_ways
def test_join_one_kind(kind):
    with start(["sleep", "60"], Namespaces(kind)) as process, start(["sleep", "60"], Join(process.pid, kind)) as guest:
        assert namespace_of(guest.pid, kind) == namespace_of(process.pid, kind) != namespace_of("self", kind)


def test_join_a_container_of_another_user():
    with start(["sleep", "60"], *walls("user pid mount uts", hostname="rootless", **MAPPED)) as process:
        assert run(["hostname"], Join(process.pid)).stdout == "rootless\n"


@both_ways
def test_join_what_has_ended_is_a_clear_error():
    ended = start(["true"])
    ended.wait()
    with pytest.raises(ContainerError, match=f"process {ended.pid} has ended"):
        run(["true"], Join(ended.pid))


def test_join_a_zombie_is_the_same_error():
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(ContainerError, match=f"process {zombie.pid} has ended"):
            run(["true"], Join(zombie.pid))
    finally:
        zombie.wait()


@pytest.mark.parametrize("kinds", ["uts", "pid"])
@both_ways
def test_join_what_ends_meanwhile_is_the_same_error(kinds):
    with (
        start(["sleep", "60"], *walls()) as process,
        pytest.raises(ContainerError, match="setns.*the process that was to be joined has ended"),
    ):
        run(["true"], TooLate(process.pid, kinds))


HOLD = """
    import sys, threading, time
    from minidocker.namespaces import Init, Join, Namespaces
    from minidocker.process import run, start
    from minidocker.rootfs import PivotRoot
    if sys.argv[1] == "launcher":
        threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
    walls = Namespaces("user pid mount uts ipc net", hostname="rootless"), PivotRoot(sys.argv[2])
    with start(["sleep", "60"], *walls) as process:
        print(run(["sh", "-c", "id -u; hostname; ls -d /proc/[0-9]* | head -1; exit 5"], Join(process.pid)), flush=True)
        print(process.pid, flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("path", ["fork", "launcher"])
def test_join_a_rootless_container_as_its_user_and_as_root(path):
    command = [PYTHON, "-c", textwrap.dedent(HOLD), path, ROOT]
    with (
        as_nobody() as options,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as host,
    ):
        answer, pid = host.stdout.readline(), int(host.stdout.readline())
        assert "exit_code=5" in answer
        assert r"0\nrootless\n/proc/1\n" in answer
        script = "id -u; id -G; hostname; cat /proc/1/cmdline"
        words = run(["sh", "-c", script], Join(pid)).stdout.replace("\0", " ").split()
        host.stdin.close()
    assert words[:3] == ["0", "0", "rootless"]
    assert words[3:5] == ["sleep", "60"]


@both_ways
def test_init_forwards_signals_and_the_first_process_without_it_does_not_hear_them():
    with start(["sleep", "60"], *walls()) as deaf:
        assert deaf.stop(grace=0.3).exit_code == 137
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        with start(["sleep", "60"], *walls(), Init()) as process:
            process.send_signal(number)
            assert process.wait(10).exit_code == 128 + number


@both_ways
def test_init_reaps_orphans_and_passes_the_exit_code_on():
    script = (
        "for i in 1 2 3; do sh -c 'sleep 0.1 &'; done; sleep 0.6; grep -l zombie /proc/[0-9]*/status | wc -l; exit 9"
    )
    result = run(["sh", "-c", script], *walls(), Init())
    assert (result.stdout, result.exit_code) == ("0\n", 9)


@both_ways
def test_without_init_an_orphan_stays_a_zombie():
    with start(["sh", "-c", "(sleep 0.1 &) ; exec sleep 60"], *walls()) as process:
        zombies = ["sh", "-c", "grep -l zombie /proc/[0-9]*/status | wc -l"]
        assert until(lambda: run(zombies, Join(process.pid)).stdout == "1\n")


@both_ways
def test_init_ends_like_a_command_that_was_killed():
    assert run(["sh", "-c", "kill -SEGV $$"], *walls(), Init()).exit_code == 139
    assert run(["sh", "-c", "exit 200"], *walls(), Init()).exit_code == 200


@both_ways
def test_init_takes_all_with_it():
    gate, key = os.pipe()
    with start(["sh", "-c", "sleep 1000 & read x"], *walls(), Init(), stdin=gate) as process:
        inside = namespace_of(process.pid, "pid")
        os.write(key, b"go on\n")
        assert process.wait(10).exit_code == 0
    os.close(gate), os.close(key)
    assert until(lambda: inside not in [pid_namespace(path) for path in pathlib.Path("/proc").glob("[0-9]*")])


@both_ways
def test_init_in_a_terminal_leaves_the_keys_to_the_command():
    script = "cut -d' ' -f5,8 /proc/$$/stat; trap 'echo int' INT; echo ready; sleep 0.5; sleep 0.5; echo end"
    with start(["sh", "-c", script], Terminal(), *walls(), Init()) as process:
        lines = process.lines()
        assert next(lines).strip() == "2 2"  # its group, and the terminal's foreground group, and neither is Init's
        assert next(lines).strip() == "ready"
        os.write(process.terminal, b"\x03")
        written = "".join(lines)
    assert written.count("int") == 1
    assert written.strip().endswith("end")


HIDES = """
    import sys, threading, time
    from minidocker.namespaces import Init, Namespaces
    from minidocker.process import run
    from minidocker.rootfs import PivotRoot
    if sys.argv[1] == "launcher":
        threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
    script = "cat /proc/1/environ /proc/1/cmdline /proc/1/comm | tr '\\\\0' ' '"
    for _ in range(5):  # the first process and the command run at the same time, and either may be faster
        print(run(["sh", "-c", script], Namespaces("pid mount"), PivotRoot(sys.argv[2]), Init()).stdout)
"""


@pytest.mark.parametrize("path", ["fork", "launcher"])
def test_init_does_not_tell_of_the_host(path):
    shown = python(HIDES, path, str(ROOT), "a-word-of-the-host", env={"TOKEN": "a-secret-of-the-host"}).stdout
    assert shown.split() == ["init", "init"] * 5


def test_init_reports_a_command_that_is_not_there():
    with pytest.raises(ContainerError, match="not found") as caught:
        run(["nosuch"], *walls(), Init())
    assert caught.value.exit_code == 127


def in_sight():
    """Every namespace that some process is in."""
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        for kind in KINDS:
            try:
                found.add((kind, namespace_of(path.name, kind)))
            except OSError:
                pass
    return found


@both_ways
def test_nothing_is_left_of_namespaces():
    made = set()  # others on this machine make namespaces, too
    for _ in range(5):
        with start(["sh", "-c", "sleep 1000 & wait"], *walls(" ".join(KINDS)), Init()) as process:
            made |= {(kind, namespace_of(process.pid, kind)) for kind in KINDS}
    assert until(lambda: not made & in_sight())


@both_ways
def test_twenty_at_once_in_one_thread():
    with contextlib.ExitStack() as stack:
        boxes = [
            stack.enter_context(start(["sh", "-c", "hostname; exec sleep 60"], *walls(hostname=f"box{number}")))
            for number in range(20)
        ]
        assert [next(box.lines()) for box in boxes] == [f"box{number}" for number in range(20)]
        assert len({namespace_of(box.pid, "uts") for box in boxes}) == 20


def test_twenty_at_once_each_with_its_name():
    names = {}

    def one(number):
        names[number] = run(["hostname"], *walls(hostname=f"box{number}")).stdout

    threads = [threading.Thread(target=one, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == {number: f"box{number}\n" for number in range(20)}


def test_the_stage():
    stage = [sys.executable, str(CHAPTER / "stage.py")]
    assert "process 1 on stage2" in subprocess.run(stage, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([*stage, "sh", "-c", "exit 6"]).returncode == 6
    assert subprocess.run([*stage, "nosuch"], capture_output=True).returncode == 127
