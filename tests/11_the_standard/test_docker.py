"""Chapter 11: Docker over our runtime: what its commands do and print, and what is left when its daemon is killed."""

import json
import os
import signal
import time

import pytest
from machines import Machine, docker, until, write

from tests.helpers.standard import Client, needs, needs_room, runtime

pytestmark = [pytest.mark.chapter(11), needs_room]
SLEEP = ["busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"]


@pytest.fixture(scope="module")
def engine():
    """A Docker whose default runtime is ours."""
    needs("dockerd", "docker")
    with Machine("engine") as host, docker(host, runtime(host)) as words:
        client = Client(host, words)
        client.ask("run", "--rm", "busybox", "true")  # it makes directories that stay as long as the daemon
        yield client


@pytest.fixture
def box(engine):
    """A container that ends with 3 when it is asked to; its name."""
    name = f"box-{os.urandom(4).hex()}"
    engine.ask("run", "-d", "--name", name, "--memory=64m", "--cpus=0.5", "--pids-limit=50", "-p", "8080:80", *SLEEP)
    assert until(lambda: engine.ask("logs", name) == "up")
    yield name
    engine.removed(name)


def inspected(engine, name, form):
    return engine.ask("inspect", "--format", form, name)


def test_it_is_the_default_runtime_and_answers_for_its_version(engine):
    assert engine.ask("info", "--format", "{{.DefaultRuntime}}") == "ours"
    assert "N/A" not in engine.ask("info", "--format", "{{.RuncCommit.ID}}")


def test_run_returns_the_exit_code_and_both_streams(engine):
    done = engine.code("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done == (7, "out\n", "err\n")


def test_what_is_not_there_is_127_and_what_does_not_execute_126(engine):
    missing, folder = (engine.code("run", "--rm", "busybox", word) for word in ("/nothing", "/etc"))
    assert missing[0] == 127 and "/nothing" in missing[2]
    assert folder[0] == 126 and "denied" in folder[2]


def test_input_goes_in_and_ends(engine):
    assert engine.code("run", "--rm", "-i", "busybox", "wc", "-c", stdin=b"12345")[:2] == (0, "5\n")


def test_a_terminal_is_one(engine):
    said = engine.ask("run", "--rm", "-t", "busybox", "sh", "-c", "tty; stty size; test -t 0 && test -t 1 && echo yes")
    assert said.split()[0].startswith("/dev/") and said.split()[-1] == "yes"


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        (["--hostname=web"], "hostname", "web"),
        (["--user=1000:100"], "id -u; id -g", "1000 100"),
        (["--workdir=/srv/deep"], "pwd", "/srv/deep"),
        (["--env=A=b c"], "echo $A", "b c"),
        (["--read-only"], "touch /x 2>/dev/null || echo no", "no"),
        (["--read-only", "--tmpfs=/t:size=1m"], "touch /t/x; df -k /t | tail -n1 | awk '{print $2}'", "1024"),
        (["--cap-drop=ALL"], "grep CapEff /proc/self/status", "CapEff: 0000000000000000"),
        (["--cap-drop=ALL", "--cap-add=CHOWN"], "grep CapEff /proc/self/status", "CapEff: 0000000000000001"),
        (["--security-opt=no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs: 1"),
        ([], "grep Seccomp: /proc/self/status", "Seccomp: 2"),
        (["--security-opt=seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp: 0"),
        (
            ["--sysctl=net.ipv4.ip_unprivileged_port_start=80"],
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            "80",
        ),
        (["--ulimit=nofile=99:100"], "ulimit -n; ulimit -Hn", "99 100"),
        (["--init"], "cat /proc/1/comm", "docker-init"),
        (["--pid=host"], "cat /proc/1/comm", "init"),  # of the machine
        (["--network=none"], "ls /sys/class/net", "lo"),
        (["--shm-size=2m"], "df -k /dev/shm | tail -n1 | awk '{print $2}'", "2048"),
        (["--device=/dev/fuse"], "test -c /dev/fuse && echo there", "there"),
        ([], "echo x 2>/dev/null >/proc/sys/kernel/hostname || echo no; cat /proc/kcore | wc -c", "no 0"),
        (["--volume=/etc:/host:ro"], "touch /host/x 2>/dev/null || cat /host/hostname >/dev/null && echo ro", "ro"),
        (["--volume=data:/data"], "echo kept >/data/x; cat /data/x", "kept"),
    ],
)
def test_an_option_of_run_is_a_part_of_config_json(engine, options, script, said):
    assert engine.ask("run", "--rm", *options, "busybox", "sh", "-c", script).split() == said.split()
    if "--volume=data:/data" in options:
        engine.ask("volume", "rm", "data")


def test_limits_are_files_of_control_groups(engine, box):
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert engine.code("exec", box, "sh", "-c", read)[1].split() == [str(64 << 20)]
    read = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
    assert engine.code("exec", box, "sh", "-c", read)[1].split() == ["50"]


def test_update_changes_them_while_it_runs(engine, box):
    engine.ask("update", "--memory=48m", "--memory-swap=48m", box)
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert engine.code("exec", box, "sh", "-c", read)[1].split() == [str(48 << 20)]


def test_exec_is_one_more_process_with_its_own_exit_code(engine, box):
    assert engine.code("exec", box, "sh", "-c", "echo in; exit 5") == (5, "in\n", "")
    assert engine.code("exec", "-i", box, "cat", stdin=b"typed")[1] == "typed"
    assert engine.ask("exec", "-t", box, "sh", "-c", "test -t 1 && echo yes") == "yes"
    assert engine.ask(
        "exec", "-u", "1000", "-w", "/tmp", "-e", "A=1", box, "sh", "-c", "id -u; pwd; echo $A"
    ).split() == [
        "1000",
        "/tmp",
        "1",
    ]
    assert engine.code("exec", box, "/nothing")[0] in (126, 127)
    assert engine.ask("exec", box, "cat", "/proc/1/comm") == "sh"


def test_logs_stop_start_and_the_exit_code(engine, box):
    engine.ask("stop", "-t", "5", box)
    assert inspected(engine, box, "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"
    engine.ask("start", box)
    assert until(lambda: engine.ask("logs", box).split() == ["up", "up"])
    engine.ask("kill", box)
    assert engine.ask("wait", box) == "137"


def test_pause_stops_all_of_it_and_unpause_lets_it_go_on(engine, box):
    engine.ask("pause", box)
    assert inspected(engine, box, "{{.State.Status}}") == "paused"
    engine.ask("unpause", box)
    assert engine.ask("exec", box, "echo", "alive") == "alive"


def test_top_stats_and_a_published_port(engine, box):
    assert "sleep" in engine.ask("top", box)
    used = json.loads(engine.ask("stats", "--no-stream", "--format", "{{json .}}", box))
    assert used["MemUsage"].endswith("/ 64MiB") and int(used["PIDs"]) >= 1
    engine.ask("exec", "-d", box, "httpd", "-f", "-h", "/etc")
    get = ["curl", "-s", "--noproxy", "*", "-m", "2", "http://127.0.0.1:8080/hostname"]
    assert until(lambda: engine.host.command(*get).stdout.strip() == engine.ask("exec", box, "hostname"))


def test_build_runs_each_step_in_a_container(engine):
    context = "/run/context"
    engine.host.do("mkdir", "-p", context)
    write(engine.host, f"{context}/Dockerfile", "FROM busybox\nRUN echo made >/file && chown 5 /file\nCMD cat /file\n")
    engine.ask("build", "--network=none", "-t", "made", context)
    assert engine.ask("run", "--rm", "made") == "made"
    assert engine.ask("run", "--rm", "made", "stat", "-c", "%u", "/file") == "5"
    engine.ask("rmi", "made")


def test_a_restart_policy_starts_it_again(engine):
    engine.ask("run", "-d", "--name=again", "--restart=on-failure:2", "busybox", "sh", "-c", "echo try; exit 9")
    assert until(lambda: inspected(engine, "again", "{{.RestartCount}} {{.State.Status}}") == "2 exited")
    assert engine.ask("logs", "again").split() == ["try"] * 3
    engine.removed("again")


def test_out_of_memory_is_told_up_to_docker(engine):
    fill = ["busybox", "sh", "-c", "tail /dev/zero"]
    done = engine.code("run", "--name=hungry", "--memory=8m", "--memory-swap=8m", *fill)
    assert done[0] == 137
    assert until(lambda: inspected(engine, "hungry", "{{.State.OOMKilled}}") == "true")
    engine.removed("hungry")


def test_two_containers_find_each_other_by_name(engine):
    engine.ask("network", "create", "shop")
    engine.ask("run", "-d", "--name=web", "--network=shop", "busybox", "httpd", "-f", "-h", "/etc")
    name = engine.ask("inspect", "-f", "{{.Config.Hostname}}", "web")
    assert engine.ask("run", "--rm", "--network=shop", "busybox", "wget", "-qO-", "http://web/hostname") == name
    engine.removed("web")
    engine.ask("network", "rm", "shop")


def test_one_container_in_the_namespaces_of_another(engine, box):
    shared = [f"--network=container:{box}", f"--pid=container:{box}", f"--ipc=container:{box}"]
    shared[2:] = []  # another container's memory is shared only if that one was started with --ipc=shareable
    assert "trap" in engine.ask("run", "--rm", *shared, "busybox", "ps", "-o", "args")


def test_a_daemon_that_is_killed_leaves_containers_and_a_machine_that_is_off_leaves_nothing():
    needs("dockerd", "docker")
    with Machine("short") as host, docker(host, runtime(host)) as words:
        host.do(*words, "run", "-d", "--name=box", "busybox", "sleep", "600")
        daemons = host.do("pidof", "dockerd", "containerd").split()
        host.do("kill", "-9", *daemons)
        time.sleep(0.2)
        assert "sleep 600" in host.do("ps", "-eo", "args")
        assert until(lambda: not host.running[0].alive())
        begin = time.monotonic()
        host.off()
        assert time.monotonic() - begin < 10
    assert not host.keeper.alive()


def test_a_machine_whose_power_is_cut_in_a_start_leaves_nothing():
    needs("dockerd", "docker")
    with Machine("short") as host, docker(host, runtime(host)) as words:
        host.spawn(*words, "run", "-d", "busybox", "sleep", "600")
        time.sleep(0.3)
        host.keeper.send_signal(signal.SIGKILL)
        host.off()
