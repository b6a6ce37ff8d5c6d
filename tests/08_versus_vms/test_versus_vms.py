"""Chapter 8: the measuring instruments. They are tested on what is known; no time is asserted, and no ratio of times
but where it cannot be otherwise. Virtual machines really boot, one at a time."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import demand, laps, machine, memory, sharing, storage
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from tests.helpers import GUEST, HOME, REPO, need

pytestmark = pytest.mark.chapter(8)

BUSYBOX = str(HOME / "roots/busybox")
WAIT = 120  # seconds for an emulated machine that shares its processor


@pytest.fixture
def guests():
    """Virtual machines can be started here."""
    if GUEST:
        pytest.xfail("a machine in a machine")
    need(not machine.missing(), machine.missing())


# Virtual machines


def test_the_smallest_guest_runs_a_command_under_a_kernel_of_its_own(guests):
    with machine.boot("minimal", "echo up; uname -r; cat /proc/mounts | head -n 1; ls -d /sys/class") as guest:
        lines = guest.wait(WAIT).stdout.split("\r\n")
    assert lines[0] == "up"
    assert lines[1] != os.uname().release
    assert lines[2].startswith("rootfs / rootfs")
    assert guest.result.exit_code == 0


def test_the_usual_guest_is_debian_with_systemd_on_a_disk_and_forgets(guests):
    image = Path(storage.original())
    before = image.stat().st_mtime_ns
    with machine.boot(
        "usual", "cat /proc/1/comm /etc/hostname; grep /dev/root /proc/mounts; echo x >/root/x; sync"
    ) as guest:
        lines = guest.wait(WAIT).stdout.split("\r\n")
    assert lines[:2] == ["systemd", "guest"]
    assert " / ext4 rw" in guest.result.stdout
    assert image.stat().st_mtime_ns == before


def test_what_a_guest_writes_to_a_disk_of_its_own_is_there_when_it_boots_again(guests, tmp_path):
    disk = str(tmp_path / "disk.qcow2")
    machine.link(storage.original(), disk)
    assert os.path.getsize(disk) < 1 << 20
    for command, expected in (("echo kept >/root/file", ""), ("cat /root/file", "kept")):
        with machine.boot("usual", command, disk=disk) as guest:
            assert expected in guest.wait(WAIT).stdout.split("\r\n")
    assert 1 << 20 < os.path.getsize(disk) < 100 << 20


def test_the_accelerator_is_one_with_which_a_guest_boots(guests):
    assert machine.accelerator() in ("kvm", "tcg")
    with machine.boot("minimal", "echo up", accelerate=machine.accelerator()) as guest:
        assert guest.wait(WAIT).stdout.startswith("up")


def test_a_guest_dies_with_its_caller(guests):
    code = "from bench import machine; import sys\n"
    code += "guest = machine.boot('minimal', 'echo up; sleep 1000')\nprint(guest.pid, flush=True); guest.wait()"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with caller:
        pid = int(caller.stdout.readline())
        assert "qemu" in Path(f"/proc/{pid}/comm").read_text()
        caller.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (path := Path(f"/proc/{pid}/stat")).exists() and path.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("guest", "command", "message"),
    [
        ("small", "true", "no guest is called 'small': there are minimal usual"),
        ("minimal", 'echo "x"', "the guest's command stands in the kernel's arguments"),
        ("minimal", "x" * 1001, "at most 1000 letters"),
    ],
)
def test_a_command_that_the_kernel_would_not_hand_on_is_refused(guest, command, message):
    with pytest.raises(ContainerError, match=message):
        machine.command(guest, command, accelerate="tcg")


def test_without_guests_it_says_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(tmp_path))
    assert machine.missing().endswith("run sh vagrant/provision.sh")
    with pytest.raises(ContainerError, match="no virtual machine here: .*: run sh vagrant/provision.sh"):
        machine.boot("minimal", "true")


def test_an_image_that_is_not_there_is_one_line(tmp_path, guests):
    with pytest.raises(ContainerError, match="qemu-img: .*No such file"):
        machine.link(str(tmp_path / "none"), str(tmp_path / "disk.qcow2"))


# Laps


def walls():
    return {
        "Namespaces": Namespaces("pid mount uts ipc net"),
        "Cgroup": Cgroup(memory="64m"),
        "PivotRoot": PivotRoot(BUSYBOX),
    }


def check_laps(steps):
    names = ["Namespaces", "Cgroup", "PivotRoot"]
    assert [label for label, _ in steps] == [
        "call",
        *(f"{name}: prepare" for name in names),
        "birth",
        *(f"{name}: attach" for name in names),
        "gate",
        *(f"{name}: inside" for name in names),
        "exec, run, end",
        *(f"{name}: clean up" for name in reversed(names)),
        "return",
    ]
    assert all(seconds >= 0 for _, seconds in steps)


def test_laps_name_every_step_and_their_sum_is_the_whole():
    begin = time.monotonic()
    steps = laps.laps(["true"], walls())
    whole = time.monotonic() - begin
    check_laps(steps)
    assert 0.5 * whole < sum(seconds for _, seconds in steps) <= whole


def test_laps_work_through_the_launcher_too():
    found = []
    thread = threading.Thread(target=lambda: found.extend(laps.laps(["true"], walls())))
    thread.start()
    thread.join()
    check_laps(found)


def test_a_lap_sees_which_isolator_is_slow():
    class Slow(PivotRoot):
        def inside(self):
            time.sleep(0.3)
            super().inside()

    steps = dict(laps.laps(["true"], {"a": Namespaces("pid mount"), "slow": Slow(BUSYBOX)}))
    assert max(steps, key=steps.get) == "slow: inside"


# Memory


def test_pss_counts_what_a_process_touches():
    code = "import sys; block = bytearray(64 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert 64 << 20 < memory.pss(process.pid) < 128 << 20
        process.communicate()
    assert memory.pss(process.pid) == 0


def test_a_page_that_two_processes_share_is_counted_once_in_their_sum():
    code = "import os, sys; block = bytearray(64 << 20); pid = os.fork(); print(pid, flush=True) if pid else None"
    code += "; sys.stdin.read() if pid else __import__('time').sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        both = [memory.pss(pid) for pid in (process.pid, child)]
        os.kill(child, signal.SIGKILL)
        process.communicate()
    assert all(32 << 20 < one < 64 << 20 for one in both)


def sleeper(fence):
    return start(["sleep", "1000"], Namespaces("pid mount"), fence, PivotRoot(BUSYBOX))


def test_a_fleet_grows_is_counted_and_ends():
    with memory.Fleet(sleeper) as fleet:
        fleet.grow(3)
        pids = [process.pid for process, _ in fleet.members]
        fleet.grow(5)
        assert [process.pid for process, _ in fleet.members][:3] == pids
        sizes = fleet.memory()
        assert len(sizes) == 5 and all(10_000 < size < 20_000_000 for size in sizes)
        assert fleet.cpu(0.2) < 0.5
        members = list(fleet.members)
    assert all(process.result.signal == signal.SIGKILL for process, _ in members)


def test_the_kernels_part_grows_with_what_the_kernel_does_for_a_group():
    fence = Cgroup()
    loop = "echo one; read x; i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; echo two; read x"
    ours, theirs = socket.socketpair()
    with start(
        ["sh", "-c", loop], fence, Namespaces("pid mount"), PivotRoot(BUSYBOX), stdin=theirs.fileno()
    ) as process:
        lines = process.lines()
        next(lines)
        before = memory.kernel_memory(fence)
        ours.sendall(b"\n")
        next(lines)
        assert memory.kernel_memory(fence) > before + 60 * 16_384  # a stack for each
        process.kill()
    ours.close()
    theirs.close()


def test_the_limit_of_open_files_is_raised_and_the_hard_one_by_whoever_may():
    code = "import os, resource; from bench.memory import open_files; resource.setrlimit(7, (500, 2000))\n"
    code += "for n in (100, 1500, 2001, 1500): open_files(n); print(*resource.getrlimit(7))\n"
    code += "os.setuid(65534)\nopen_files(3000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    effective = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[1]
    raised = int(effective, 16) >> 24 & 1  # CAP_SYS_RESOURCE
    assert done.stdout == "500 2000\n1500 2000\n" + "2001 2001\n" * 2 * raised
    wanted = 3000 if raised else 2001
    assert re.search(rf"{wanted} open files: .*raised with CAP_SYS_RESOURCE, up to fs.nr_open\n$", done.stderr)


def test_the_machine_uses_less_than_it_has():
    table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < memory.used() < int(table["MemTotal"].split()[0]) * 1024


# On demand


def ask(port, request=demand.REQUEST):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_each_request_is_answered_by_a_container_that_is_gone_afterwards():
    with demand.Front(demand.in_container) as front:
        answer = ask(front.port)
        assert b" 200 OK\r\n" in answer and answer.endswith(b"busybox\n")
        assert b" 404 " in ask(front.port, b"GET /nothing HTTP/1.0\r\n\r\n")
        assert all(seconds > 0 for seconds in demand.latencies(front.port, 5))


def test_requests_at_the_same_time_are_served_by_several_workers():
    with demand.Front(demand.in_container, workers=3) as front:
        assert demand.rate(front.port, 0.5, clients=3) > 0


def test_the_front_is_gone_when_it_is_left():
    with demand.Front(demand.in_container) as front:
        port = front.port
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    assert not any(thread.is_alive() for thread in front.threads)


def test_a_bad_answer_is_no_latency():
    bad = demand.Front(lambda end: end.recv(4096) and end.sendall(b"HTTP/1.0 500 no\r\n\r\n"))
    with bad as front, pytest.raises(AssertionError, match="answered b'HTTP/1.0 500"):
        demand.latency(front.port)


def test_the_standing_server_answers_and_ends():
    with demand.standing() as port:
        assert ask(port).endswith(b"busybox\n")
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_a_request_is_answered_by_a_machine_that_is_booted_for_it(guests):
    with demand.Front(demand.in_machine, workers=1) as front:
        answer = ask(front.port)
    assert b" 200 OK\r\n" in answer and answer.endswith(b"busybox\n")


# Sharing


def test_hard_halves_hold_back_what_nobody_else_wants_and_shares_do_not():
    halves, shares = (sharing.together(kind) for kind in ("halves", "shares"))
    assert all(work > 0 for work, _ in (*halves, *shares))
    assert all(held > 0 for _, held in halves)
    assert all(held == 0 for _, held in shares)


def host_of(cpus):
    host = Cgroup(cpus=cpus)
    host.container = f"host-{os.getpid()}"
    return host


def test_a_tenant_is_in_a_group_below_its_host_and_gets_no_more_than_that():
    with host_of(0.1) as host:
        tenant = sharing.Tenant(host, cpu_weight=100)
        with start(["sh", "-c", "while :; do :; done"], tenant) as process:
            group = tenant.groups["cpu"].path
            assert group.startswith(host.groups["cpu"].path + "/")
            assert str(process.pid) in Path(group, "cgroup.procs").read_text().split()
            deadline = time.monotonic() + 30
            while (host.statistics().throttled_periods or 0) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert tenant.statistics().throttled_periods == 0
        assert not os.path.exists(group)
    assert host.statistics().throttled_periods >= 3


def test_a_tenant_whose_limit_is_refused_leaves_nothing():
    with host_of(0.5) as host:
        tenant = sharing.Tenant(host, cpus=1)  # version 1 refuses more than the host has; 2 takes the smaller one
        try:
            run(["true"], tenant)
        except ContainerError as error:
            assert "cfs_quota_us" in str(error)
        assert not [*Path(host.groups["cpu"].path, "minidocker").glob("*/")]


def test_pinned_is_on_one_cpu():
    cpu = max(os.sched_getaffinity(0))
    status = run(["grep", "Cpus_allowed_list", "/proc/self/status"], sharing.Pinned(cpu)).stdout
    assert status.split() == ["Cpus_allowed_list:", str(cpu)]
    assert len(os.sched_getaffinity(0)) >= 1


# Storage


def du(*paths):
    done = subprocess.run(["du", "-sc", "--block-size=1", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def test_usage_is_what_du_counts(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one byte").write_bytes(b"x")
    (tmp_path / "a/b/large").write_bytes(bytes(300_000))
    os.link(tmp_path / "a/b/large", tmp_path / "a/again")
    (tmp_path / "a/link").symlink_to("/usr")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert storage.usage(str(tmp_path)) == du(str(tmp_path)) < 2_000_000
    assert storage.usage(str(tmp_path / "a"), str(tmp_path / "a/b")) == storage.usage(str(tmp_path / "a"))
    assert storage.usage(BUSYBOX) == du(BUSYBOX)


def test_a_sparse_copy_is_the_same_and_keeps_the_holes(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for place, text in ((0, b"begin"), (5 << 20, b"middle" * 300_000), (64 << 20, b"end")):
            file.seek(place)
            file.write(text)
        file.truncate(100 << 20)
    storage.copy_sparse(str(source), str(target))
    assert subprocess.run(["cmp", source, target]).returncode == 0
    assert storage.usage(str(target)) <= storage.usage(str(source)) + 65536 < 10 << 20


def test_containers_share_their_layers_and_copies_do_not():
    with storage.Ground([storage.in_root(BUSYBOX)]) as ground:
        once = storage.usage(BUSYBOX)
        assert ground.layers(10) <= once + 10 * 200_000
        first = ground.copies(1)
        assert first >= 0.9 * once
        assert ground.copies(3) == pytest.approx(3 * first, rel=0.01)
        log = Path(ground.path, "Union-9/var/log/access.log").read_text()
        assert log.count("\n") == 100
        assert ground.layers(10) == ground.layers(10)
        place = ground.path
    assert not os.path.exists(place)


def test_servers_take_turns_with_their_layers(tmp_path):
    for name in ("web", "mail"):
        (tmp_path / name / "srv").mkdir(parents=True)
        (tmp_path / name / "srv" / name).write_bytes(bytes(1_000_000))
    web, mail, command = str(tmp_path / "web"), str(tmp_path / "mail"), storage.in_root(BUSYBOX)[1]
    with storage.Ground([([web, BUSYBOX], command), ([mail, BUSYBOX], command)]) as ground:
        assert ground.layers(1) < storage.usage(web, BUSYBOX) + 200_000
        assert storage.usage(web, mail, BUSYBOX) < ground.layers(4) < storage.usage(web, mail, BUSYBOX) + 800_000


def test_real_web_and_mail_servers_answer_and_write_their_logs():
    kinds = [storage.in_image("web"), storage.in_image("mail")]
    layers = storage.usage(*{layer for above, _ in kinds for layer in above})
    with storage.Ground(kinds) as ground:
        assert layers < ground.layers(4) < layers + 4 * 200_000
        for count in (0, 2):
            assert '"GET / HTTP/1.0" 200' in Path(ground.path, f"Union-{count}/var/log/nginx/access.log").read_text()
        for count in (1, 3):
            assert Path(ground.path, f"Union-{count}/var/log/exim4/mainlog").stat().st_size > 0


def test_images_without_a_common_layer_share_the_files_of_their_base():
    layers = [layer for name in ("web", "mail") for layer in storage.in_image(name)[0]]
    common, twice = storage.usage(*layers), sum(map(storage.usage, layers))
    with storage.Ground([]) as ground:
        alone, shared = storage.squashed(ground.path, "web", "mail")
    assert twice * 0.97 < alone < twice * 1.03
    assert common < shared < common + (twice - common) * 0.5  # small files are not shared


def test_a_server_that_does_not_serve_is_an_error_that_names_it():
    ground = storage.Ground([([BUSYBOX], ["sh", "-c", "exit 3"])])
    with pytest.raises(ContainerError, match="server 0 did not serve: .*exit_code=3"), ground:
        ground.layers(1)
    assert not os.path.exists(ground.path)


def test_disks_of_machines_that_have_run_and_linked_clones(guests):
    image = storage.usage(storage.original())
    with storage.Ground([storage.in_root(BUSYBOX)]) as ground:
        assert ground.disks(1) > 0.8 * image
        clone = ground.clones(1) - image
        assert 100_000 < clone < 0.2 * image


def test_the_ground_is_gone_when_a_server_fails(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ContainerError), storage.Ground([storage.in_root(str(tmp_path / "empty"))]) as ground:
        ground.layers(1)
    assert not os.path.exists(ground.path)


# The stage


def test_the_stage_shows_something_and_passes_the_exit_code_on():
    stage = REPO / "chapters/08_versus_vms/stage.py"
    done = subprocess.run([sys.executable, stage], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, stage, "sh", "-c", "exit 7"], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 7
