"""Chapter 3: each limit is enforced, by whichever version of cgroups this machine has; and nothing is left."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from minidocker.cgroups import Cgroup, prune
from minidocker.cgroups.hierarchy import PARENT, Hierarchy, hierarchies, parse, read, write
from minidocker.cgroups.limits import Limits, device, size
from minidocker.namespaces import Namespaces
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from tests.helpers import BARE, GUEST, HOME, REPO, both_ways, need, python, until

pytestmark = pytest.mark.chapter(3)
ROOT = HOME / "roots" / "busybox"
DISK = "/run/disk" if GUEST else "/var/tmp"  # on a disk of its own
SPIN = "while :; do :; done"
MEMORY_HOG = "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done"


def walls(fence):
    """The list of stage 3."""
    return [Namespaces("pid mount uts ipc net"), fence, Namespaces("cgroup"), PivotRoot(ROOT)]


def groups(name):
    """The directories of a container in all hierarchies."""
    paths = [pathlib.Path(hierarchy.path, PARENT, name) for hierarchy in hierarchies()]
    return [path for path in paths if path.is_dir()]


@both_ways
def test_the_process_and_its_children_are_in_the_group():
    fence = Cgroup()
    with start(["sh", "-c", "sleep 60 & echo started; wait"], *walls(fence), name="children") as process:
        assert next(process.lines()) == "started"
        assert process.pid in fence.processes()
        assert len(fence.processes()) == 2
        assert fence.statistics().pids == 2
        assert groups("children")
    assert not groups("children")


@both_ways
def test_the_cgroup_namespace_shows_the_group_as_the_root():
    listed = run(["cat", "/proc/self/cgroup"], *walls(Cgroup())).stdout.splitlines()
    ours = [line for line in listed if {*line.split(":")[1].split(","), ""} & {"cpu", "memory", "pids", ""}]
    assert ours
    assert all(line.endswith(":/") for line in ours)


def shares(*fences, seconds=2):
    """What share of a CPU each group gets for a while."""
    before, begin = [fence.statistics().cpu_seconds for fence in fences], time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begin
    return [(fence.statistics().cpu_seconds - start) / passed for fence, start in zip(fences, before, strict=True)]


def fenced(measure, low, high):
    """Never more than the fence, and as much at least once: what others do here spoils a try, or too many to tell."""
    for _ in range(5):
        value = measure()
        assert GUEST or value <= high
        if GUEST or value >= low:
            return
    assert os.getloadavg()[0] > os.cpu_count(), value


@both_ways
def test_cpu_quota_is_enforced():
    fence = Cgroup(cpus=0.2)
    with start(["sh", "-c", SPIN], *walls(fence)):
        assert until(lambda: fence.statistics().throttled_periods > 0)
        fenced(lambda: shares(fence)[0], 0.18, 0.22)


@both_ways
def test_cpu_quota_counts_all_processes_together():
    fence = Cgroup(cpus=0.3)
    with start(["sh", "-c", f"({SPIN}) & ({SPIN}) & {SPIN}"], *walls(fence)):
        assert until(lambda: fence.statistics().throttled_periods > 0)
        fenced(lambda: shares(fence)[0], 0.27, 0.33)


@both_ways
def test_cpu_weight_divides_a_busy_cpu():
    cpu = str(min(os.sched_getaffinity(0)))
    heavy, light = Cgroup(cpu_weight=300), Cgroup(cpu_weight=100)
    pinned = ["taskset", "-c", cpu, "sh", "-c", SPIN]
    with start(pinned, heavy), start(pinned, light):
        time.sleep(0.3)
        ratios = []
        while not ratios or not 2.4 < ratios[-1] < 3.6:
            assert len(ratios) < 5, ratios
            used = shares(heavy, light, seconds=3)
            ratios.append(used[0] / used[1])


@both_ways
def test_a_memory_hog_is_killed_and_reported():
    fence, other = Cgroup(memory="32m"), Cgroup(memory="32m")
    with start(["sh", "-c", "echo ready; sleep 60"], *walls(other)) as bystander:
        assert next(bystander.lines()) == "ready"
        result = run(["sh", "-c", MEMORY_HOG], *walls(fence), timeout=60)
        assert bystander.alive()
    assert result.exit_code == 137
    assert result.signal == signal.SIGKILL
    assert fence.oom_killed
    assert fence.statistics().oom_kills == 1
    assert not other.oom_killed
    peak = fence.statistics().memory_peak_bytes
    assert peak is None or 0.9 * (32 << 20) < peak <= 32 << 20


def test_a_program_within_its_limit_lives():
    fence = Cgroup(memory="64m")
    code = "bytes(16 << 20); print('fits')"
    assert run([sys.executable, "-S", "-c", code], fence).stdout == "fits\n"
    assert not fence.oom_killed


@both_ways
def test_a_fork_bomb_stops_at_the_limit_and_the_host_goes_on():
    fence = Cgroup(pids=20)
    bomb = "b() { b | b & }; b; sleep 1; echo over"
    with start(["sh", "-c", bomb], *walls(fence)) as process:
        for _ in range(10):
            assert subprocess.run(["true"], timeout=10).returncode == 0
            assert (fence.statistics().pids or 0) <= 20
            time.sleep(0.05)
        process.kill()
    assert fence.statistics().pids_refused > 0


def test_bytes_per_second_from_a_disk():
    file = pathlib.Path(DISK) / f"bytes-{os.getpid()}"
    rate, amount = (1 << 20, 3 << 20) if GUEST else (2 << 20, 4 << 20)
    try:
        with file.open("wb") as out:
            out.write(os.urandom(1 << 20) * (amount >> 20))
            os.fsync(out.fileno())
        read = ["dd", f"if={file}", "of=/dev/null", "bs=64k", "iflag=direct"]
        fence = Cgroup(io={str(file): {"rbps": rate}})

        def speed():
            begin = time.monotonic()
            result = run(read, fence, timeout=60)
            assert result.exit_code == 0, result.stderr
            assert fence.statistics().read_bytes >= amount
            measured = amount / (time.monotonic() - begin)
            assert measured <= 1.1 * rate  # in a guest, too
            return measured

        fenced(speed, 0.9 * rate, 1.1 * rate)
    finally:
        file.unlink(missing_ok=True)


@pytest.fixture(params=[hierarchy.version for hierarchy in hierarchies() if "freezer" in hierarchy.controllers])
def freezer(request, monkeypatch):
    """Each version that can freeze here; where both can, version 2 does it, and this hides it."""
    there = [h for h in hierarchies() if "freezer" not in h.controllers or h.version == request.param]
    monkeypatch.setattr("minidocker.cgroups.hierarchy._found", there)
    return request.param


@pytest.mark.usefixtures("freezer")
def test_frozen_processes_stand_still():
    fence = Cgroup()
    with start(["sh", "-c", SPIN], *walls(fence)) as process:
        until(lambda: fence.statistics().cpu_seconds > 0.05)
        fence.freeze()
        time.sleep(0.1)  # the kernel adds the last moments up a little later
        before = fence.statistics().cpu_seconds
        time.sleep(0.3)
        assert fence.statistics().cpu_seconds - before < 0.02
        assert process.alive()
        fence.thaw()
        assert until(lambda: fence.statistics().cpu_seconds > before + 0.05)


@pytest.mark.usefixtures("freezer")
def test_a_frozen_container_can_be_ended():
    fence = Cgroup()
    with start(["sleep", "60"], *walls(fence)) as process:
        fence.freeze()
        fence.kill()
        assert process.wait(10).exit_code == 137


def test_leaving_the_block_ends_a_frozen_container(freezer):
    fence = Cgroup()
    with start(["sleep", "60"], *walls(fence)) as process:
        fence.freeze()
        if freezer == 1:
            fence.thaw()
    assert process.result.exit_code == 137


@pytest.mark.usefixtures("freezer")
def test_kill_ends_all_however_fast_they_fork():
    fence = Cgroup(pids=200)
    with start(["sh", "-c", "f() { (f &) ; }; while :; do (sleep 0.01 &) ; done"], fence) as process:
        time.sleep(0.3)
        fence.kill()
        assert process.wait(10).exit_code == 137
    assert not fence.processes()


def test_what_left_the_process_group_dies_with_the_group():
    with start(["sh", "-c", "setsid sleep 1000 & echo $!"], Cgroup()) as process:
        pid = int(next(process.lines()))
        process.wait(10)
    assert until(lambda: not pathlib.Path(f"/proc/{pid}/cmdline").exists() or not read_command(pid))


def read_command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_limits_change_while_it_runs():
    fence = Cgroup(memory="32m", pids=10)
    with start(["sleep", "60"], *walls(fence)):
        for memory in ("64m", "16m", "128m"):
            fence.update(memory=memory)
            group = fence.groups["memory"]
            file = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
            assert int(pathlib.Path(group.path, file).read_text()) == size(memory)


def test_statistics_survive_the_container():
    fence = Cgroup()
    run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"], *walls(fence))
    assert fence.statistics().cpu_seconds > 0
    assert "cpu_seconds" in repr(fence.statistics())


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory": "lots"}, "no size"),
        ({"memory": "1q"}, "no size"),
        ({"memory": 0}, "no size"),
        ({"memory": "²m"}, "no size"),
        ({"memory": "nan"}, "no size"),
        ({"memory": "inf"}, "no size"),
        ({"memory": "1e9"}, "no size"),
        ({"memory": "1.m"}, "no size"),
        ({"memory": ".5m"}, "no size"),
        ({"memory": "-1"}, "no size"),
        ({"memory": "9" * 5000}, "no size"),
        ({"memory": "9999999999t"}, "no size"),
        ({"memory": "4k"}, "minimum memory limit allowed is 6MB"),
        ({"memory": (6 << 20) - 1}, "minimum memory limit allowed is 6MB"),
        ({"memory": "64m", "memory_swap": "-2"}, "no size"),
        ({"cpus": float("nan")}, "cpus=nan"),
        ({"cpus": float("inf")}, "cpus=inf"),
        ({"cpu_weight": float("nan")}, "between"),
        ({"pids": float("nan")}, "itself"),
        ({"pids": -2}, "itself"),
        ({"io": {DISK: {"rbps": "²m"}}}, "no size"),
        ({"memory": "64m", "memory_swap": "32m"}, "includes memory"),
        ({"memory_swap": "64m"}, "needs memory"),
        ({"cpus": 0}, "smallest"),
        ({"cpu_weight": 0}, "between"),
        ({"pids": 0}, "itself"),
        ({"io": {"/not/there": {"rbps": 1}}}, "no such file"),
        ({"io": {"/proc/uptime": {"rbps": 1}}}, "not on a disk"),
        ({"io": {DISK: {"speed": 1}}}, "it takes rbps"),
    ],
)
def test_bad_values_are_refused_before_anything_is_made(limits, words):
    with pytest.raises(ContainerError, match=words):
        Cgroup(**limits)


def test_sizes():
    """Docker's spellings."""
    assert [size(text) for text in ("1", 7, "2k", "3M", "1g", "64m", "5KiB")] == [
        1, 7, 2048, 3 << 20, 1 << 30, 64 << 20, 5120,
    ]  # fmt: skip
    assert [size(text) for text in ("64MB", "64mb", "0.5g", "1.25kb", "8b", "64 MiB", "2t")] == [
        64 << 20, 64 << 20, 1 << 29, 1280, 8, 64 << 20, 2 << 40,
    ]  # fmt: skip


def test_minus_one_is_no_limit():
    """As with Docker; also where there was one before."""
    fence = Cgroup(memory="64m", memory_swap=-1, pids=-1)
    with start(["sleep", "60"], fence, name="unlimited"):
        shown = {path.name: path.read_text().strip() for place in groups("unlimited") for path in place.iterdir()
                 if path.name in ("pids.max", "memory.swap.max", "memory.memsw.limit_in_bytes")}  # fmt: skip
        assert shown.pop("pids.max") == "max"
        assert all(text == "max" or int(text) > 1 << 60 for text in shown.values())
        fence.update(pids=5)
        fence.update(pids=-1)
        limits = [place / "pids.max" for place in groups("unlimited")]
        assert [path.read_text() for path in limits if path.exists()] == ["max\n"]
    assert Limits(memory_swap="-1").settings({}) == []


def test_the_disk_of_a_partition():
    places = pathlib.Path("/sys/class/block").glob("*/partition")
    for place in places:
        disk = place.resolve().parent.parent / "dev"
        assert device(f"/dev/{place.parent.name}") == disk.read_text().strip()
    assert ":" in device(DISK)


@pytest.mark.parametrize("limit", [{"memory": "64m"}, {"cpus": 0.5}, {"pids": 9}])
def test_a_missing_controller_is_an_error_that_names_it(monkeypatch, limit):
    missing = {"memory": "memory", "cpus": "cpu", "pids": "pids"}[next(iter(limit))]
    poorer = [Hierarchy(h.version, h.path, h.controllers - {missing}) for h in hierarchies()]
    monkeypatch.setattr("minidocker.cgroups.hierarchy._found", poorer)
    with pytest.raises(ContainerError, match=f"controller {missing}: missing here, looked for it in /sys/fs/cgroup"):
        run(["true"], Cgroup(**limit), name="poor")
    assert not groups("poor")


@pytest.mark.parametrize("there", [[], [Hierarchy(2, "/sys/fs/cgroup", set())]], ids=["none", "no controllers"])
def test_no_cgroups_at_all(monkeypatch, there):
    monkeypatch.setattr("minidocker.cgroups.hierarchy._found", there)
    with pytest.raises(ContainerError, match="no control groups here"):
        run(["true"], Cgroup())


def test_a_limit_that_the_kernel_refuses_leaves_nothing():
    with pytest.raises(ContainerError, match="pids.max"):
        run(["true"], Cgroup(pids=10**12), name="refused")
    assert not groups("refused")


def test_the_same_object_fences_one_container_at_a_time():
    fence = Cgroup()
    with start(["sleep", "60"], fence), pytest.raises(ContainerError, match="make one for each"):
        run(["true"], fence)
    assert run(["true"], fence).exit_code == 0


def test_the_name_of_a_living_container_is_taken():
    with start(["sleep", "60"], Cgroup(), name="twice") as process:
        with pytest.raises(ContainerError, match="of this name is running"):
            run(["true"], Cgroup(), name="twice")
        assert process.alive()
        assert groups("twice")


@pytest.mark.parametrize("action", ["freeze", "thaw", "kill", "update", "processes"])
def test_nothing_to_act_on(action):
    fence = Cgroup()
    if action == "processes":
        assert fence.processes() == []
        return
    with pytest.raises(ContainerError, match="no container runs behind it"):
        getattr(fence, action)(**({"pids": 9} if action == "update" else {}))


def test_a_name_leads_nowhere_else():
    with pytest.raises(ContainerError, match="cannot be called .* it is the name of a directory"):
        run(["true"], Cgroup(), name="../elsewhere")
    with pytest.raises(ContainerError, match="cannot be called"):
        run(["true"], Cgroup(), name="..")


def test_without_rights_it_is_an_error():
    code = """
        import os
        from minidocker.cgroups import Cgroup
        from minidocker.process import ContainerError, run
        os.setresuid(65534, 65534, 65534)
        try:
            run(["true"], Cgroup(memory="64m"))
        except ContainerError as error:
            print(error.isolator, error)
    """
    assert "Cgroup" in python(code).stdout


def test_an_inner_group_with_processes_is_explained(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "write", busy)
    file = tmp_path / "cgroup.subtree_control"
    file.touch()
    with pytest.raises(ContainerError, match="an inner group may hold no process"):
        write(str(file), "+memory")


KILLED = """
    import os, signal, sys
    from minidocker.cgroups import Cgroup, hierarchy
    from minidocker.process import start
    if len(sys.argv) > 2:
        hidden = [h for h in hierarchy.hierarchies() if "freezer" in h.controllers and h.version != int(sys.argv[2])]
        hierarchy._found[:] = [h for h in hierarchy.hierarchies() if h not in hidden]
    fence = Cgroup(memory="64m")
    process = start(["sleep", "1000"], fence, name=sys.argv[1])
    if len(sys.argv) > 2:
        fence.freeze()
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_groups_of_a_killed_owner_are_pruned():
    with start(["sleep", "60"], Cgroup(), name="alive") as process:
        python(KILLED, "orphan", check=False)
        left = groups("orphan")
        assert left
        assert {*map(str, left)} <= {*prune()}
        assert process.alive()
        assert groups("alive")
    assert not groups("orphan")
    assert prune() == []


# Its first process dies with the owner, and what left its process group before does not: there is no PID namespace here
SURVIVED = """
    import os, signal, sys
    from minidocker.cgroups import Cgroup, hierarchy
    from minidocker.process import start
    hidden = [h for h in hierarchy.hierarchies() if "freezer" in h.controllers and h.version != int(sys.argv[2])]
    hierarchy._found[:] = [h for h in hierarchy.hierarchies() if h not in hidden]
    process = start(["sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait"], Cgroup(), name=sys.argv[1])
    print(next(process.lines()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("by", ["prune", "the next start", "the next start of this name"])
def test_what_survived_its_owner_is_ended(by, freezer):
    """Else it would write to volumes that count as free."""
    pid = int(python(SURVIVED, "survivor", str(freezer), check=False).stdout)
    assert os.path.exists(f"/proc/{pid}")
    if by == "prune":
        prune()
    else:
        assert run(["true"], Cgroup(), name="survivor" if "name" in by else "another").exit_code == 0
    assert until(lambda: not os.path.exists(f"/proc/{pid}"))
    prune()
    assert not groups("survivor")


def test_the_frozen_groups_of_a_killed_owner_are_pruned(freezer):
    python(KILLED, "icy", str(freezer), check=False)
    assert groups("icy")
    prune()
    assert not groups("icy")


def test_starts_and_prunes_at_the_same_time():
    """Between mkdir and flock a new group looks like litter: the start must notice that it was taken for it."""
    over, problems = threading.Event(), []

    def sweep():
        try:
            while not over.is_set():
                prune()
        except OSError as failed:
            problems.append(failed)

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    try:
        for _ in range(20 if GUEST else 60):
            assert run(["true"], Cgroup(pids=9)).exit_code == 0
    finally:
        over.set()
        for thread in sweepers:
            thread.join()
    assert problems == []


def test_the_name_of_a_killed_owner_is_free():
    python(KILLED, "again", check=False)
    assert groups("again")
    assert run(["echo", "back"], Cgroup(), name="again").stdout == "back\n"
    assert not groups("again")


def test_prune_leaves_the_groups_of_others_alone():
    foreign = [pathlib.Path(hierarchy.path, f"somebody-{os.getpid()}") for hierarchy in hierarchies()]
    try:
        for path in foreign:
            path.mkdir()
        prune()
        assert all(path.is_dir() for path in foreign)
    finally:
        for path in foreign:
            path.rmdir()


def test_groups_made_inside_are_removed_too():
    with start(["sleep", "60"], Cgroup(), name="nested"):
        for path in groups("nested"):
            (path / "deeper").mkdir()
    assert not groups("nested")


def test_twenty_at_once():
    fences = [Cgroup(memory="64m", cpus=0.5, pids=20) for _ in range(20)]
    results = {}

    def one(number):
        results[number] = run(["echo", str(number)], *walls(fences[number]))

    threads = [threading.Thread(target=one, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: result.stdout for number, result in results.items()} == {n: f"{n}\n" for n in range(20)}


V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "25 20 0:21 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "26 20 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "27 20 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "28 20 0:22 / /mnt/again rw - cgroup cgroup rw,memory\n"
)
HYBRID = V1 + "36 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
OTHER = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"


def test_mounts_of_each_kind_are_understood(monkeypatch):
    monkeypatch.setattr("minidocker.cgroups.hierarchy.read", lambda path: "hugetlb" if "unified" in path else "cpu io")
    new = [(h.version, h.path, h.controllers) for h in parse(OTHER + V2)]
    assert new == [(2, "/sys/fs/cgroup", {"cpu", "io", "freezer"})]
    old = [(h.version, h.path, h.controllers) for h in parse(OTHER + V1)]
    assert old[:2] == [
        (1, "/sys/fs/cgroup/cpu,cpuacct", {"cpu", "cpuacct"}),
        (1, "/sys/fs/cgroup/memory", {"memory"}),
    ]
    assert len(old) == 3
    assert [h.version for h in parse(HYBRID)] == [2, 1, 1, 1]


def test_the_stage():
    stage = [sys.executable, str(REPO / "chapters/03_cgroups/stage.py")]
    shown = subprocess.run(stage, capture_output=True, text=True, timeout=60)
    assert "stage3" in shown.stdout
    assert "more memory than the fence allows" in shown.stderr
    assert shown.returncode == 0
    assert subprocess.run([*stage, "sh", "-c", "exit 7"]).returncode == 7
    assert subprocess.run([*stage, "nosuch"], capture_output=True).returncode == 127


@pytest.mark.xfail(bool(BARE), reason="this is that guest; and User-Mode Linux 6.12 (Debian 13) panics", run=False)
def test_the_same_on_version_2_alone():
    need(pathlib.Path("/usr/bin/linux.uml").exists(), "needs User-Mode Linux: apt install user-mode-linux")
    same_anyway = (
        "launcher or refused_before or sizes or mounts_of or missing or nothing_to or rights or 00 or 01 or 02"
    )
    files = ["tests/03_cgroups", "tests/house/test_exercises.py"]
    command = [sys.executable, "-m", "tools.machines.uml", *files, "--chapter", "3", "-k", f"not ({same_anyway})"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="to make a group needs root")
def test_a_file_of_a_group_that_goes_while_it_is_read_is_empty():
    """Between open(2) and read(2); a path that leads to what is gone says the same, ENODEV."""
    path = f"{hierarchies()[0].path}/test-gone-{os.getpid()}"
    os.mkdir(path)
    file = os.open(f"{path}/cgroup.procs", os.O_RDONLY)
    os.rmdir(path)
    assert read(f"/proc/self/fd/{file}") == ""
    os.close(file)
