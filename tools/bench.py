"""`make bench`: how long a start takes, beside other runtimes. Writes build/bench.json and build/bench.csv.

    make bench                    all ids, 41 rounds
    make bench ONLY=start         the ids that begin so
    make bench QUICK=1            11 rounds: a first look, with a wide interval
    make bench RUNS=101           more rounds, a narrower interval
    make bench RECORD=1           also into tools/recorded.json, and from there into the README's table

    start.library   `run(["true"], ...)` as a cell of a notebook calls it: in a Jupyter kernel with numpy and matplotlib
    start.stage     chapters/03_cgroups/stage.py true: a whole command, from the start of Python to its end

What is equal. Everybody runs the `true` of the same busybox root, in new mount, PID, UTS, IPC, network and cgroup
namespaces, with the root pivoted to, /proc mounted, and (crun, runc, minidocker) limits on memory, CPU and PIDs. The
bundle of crun and runc asks for no more than that: no seccomp filter, no capabilities, no masked path, no other mount,
no terminal. Time runs from the call to the moment when the caller knows the exit status; the callers are a Python that
calls posix_spawn and waitpid, which costs a plain process 1 ms, and for `start.library` the cell. `run` captures stdout
and stderr meanwhile; the others write to /dev/null. What is not equal is done by their own choice: runc makes
the device nodes and links it always makes, crun and runc join every cgroup hierarchy there is; unshare and bubblewrap
set no limits, and unshare does not pivot. A plain process has no walls at all: it is the floor.

Each start stands alone: between two runs are 50 ms, in which the network namespace of the one before ends. Without the
pause, who starts just after somebody else who wrote to cgroup.procs does not have to wait for a grace period of RCU, as
one does on a machine at rest; then crun and runc are two to three times as fast in half of their runs.

Where. Everything happens in a lab: a mount namespace and a network namespace of its own, entered once, with a copy of
the root in memory. So the runtimes change nothing on the host, and their state, root and cgroups see the same kernel
objects as ours. In the lab a hybrid host has no /sys/fs/cgroup/unified, since crun refuses hybrid hosts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure

from minidocker import syscalls
from minidocker.rootfs import make_mounts_private

REPO = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"))
ROOT = HOME / "roots/busybox"
STAGE = REPO / "chapters/03_cgroups/stage.py"
README, RECORDED = REPO / "README.md", REPO / "tools/recorded.json"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEMORY, CPUS, PIDS = 64 << 20, 1, 64  # a start stays far below each of them
PAUSE = 0.05  # seconds: see "What is equal"

SUBJECT = "minidocker"
OURS = ("start.library", "start.stage")

# What a notebook does before it starts a container, and the cell that is measured
CELLS = f"""
import time
import matplotlib.pyplot
import numpy
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot

def measured():
    begin = time.perf_counter()
    result = run(
        ["true"],
        Namespaces("pid mount uts ipc net"),
        Cgroup(memory={MEMORY}, cpus={CPUS}, pids={PIDS}),
        Namespaces("cgroup"),
        PivotRoot({str(ROOT)!r}),
    )
    seconds = time.perf_counter() - begin
    assert result.exit_code == 0 and not result.stderr, result
    return seconds
"""


def enter_lab(scratch: Path) -> None:
    """Leave the host's mounts and network for good. This process has one thread so far, and stays the lab's owner."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    make_mounts_private()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        syscalls.umount("/sys/fs/cgroup/unified", syscalls.MNT_DETACH)
    syscalls.mount("tmpfs", str(scratch), "tmpfs")
    subprocess.run(["cp", "-a", str(ROOT), str(scratch / "rootfs")], check=True)
    syscalls.mount(str(scratch / "rootfs"), str(ROOT), flags=syscalls.MS_BIND)


def bundle(name: str) -> dict[str, Any]:
    """The config.json of an OCI bundle that asks for what CELLS asks for; without a list of capabilities: for none."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "env": [f"PATH={PATH}"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(ROOT)},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup")],
            "cgroupsPath": f"/minidocker-bench-{name}",
            "resources": {
                "memory": {"limit": MEMORY},
                "cpu": {"quota": 100_000 * CPUS, "period": 100_000},
                "pids": {"limit": PIDS},
            },
        },
    }


def peers(scratch: Path) -> dict[str, list[str]]:
    """The other subjects' commands. One whose program is not installed is said to be missing, and left out."""
    commands = {}
    for name in ("crun", "runc"):
        folder = scratch / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(bundle(name)))
        commands[name] = [name, "--root", str(scratch / f"state-{name}"), "run", "--bundle", str(folder), "bench"]
    walls = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup"]
    commands["unshare"] = ["unshare", *walls, f"--root={ROOT}", "--mount-proc=/proc", "true"]
    walls = [f"--unshare-{kind}" for kind in ("pid", "uts", "ipc", "net", "cgroup")]
    commands["bwrap"] = ["bwrap", *walls, "--bind", str(ROOT), "/", "--proc", "/proc", "true"]
    commands["process"] = [str(ROOT / "bin/busybox"), "true"]
    for name in [name for name, command in commands.items() if not shutil.which(command[0], path=PATH)]:
        print(f"bench: no figure against {name}: it is not installed (make run installs the peers that Debian has)")
        del commands[name]
    return commands


def command(argv: list[str], **variables: str) -> Callable[[], float]:
    """A subject that is a whole command: the seconds from posix_spawn(3) to the end of waitpid(2)."""
    program = shutil.which(argv[0], path=PATH) or argv[0]
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1)]
    environment = {"PATH": PATH, **variables}

    def measured() -> float:
        begin = time.perf_counter()
        pid = os.posix_spawn(program, argv, environment, file_actions=null)
        status = os.waitpid(pid, 0)[1]
        seconds = time.perf_counter() - begin
        if status:
            raise SystemExit(f"bench: {' '.join(argv)}: exit status {os.waitstatus_to_exitcode(status)}")
        return seconds

    return measured


@contextmanager
def kernel(scratch: Path) -> Iterator[Callable[[], float]]:
    """A subject that is the function `measured` of CELLS, called by a cell of a real Jupyter kernel."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(scratch / "kernel"))
    manager.start_kernel(env={**os.environ, "PYTHONPATH": str(REPO)}, cwd=str(REPO / "notebooks"))
    client = manager.blocking_client()
    client.start_channels()

    def cell(code: str, value: str) -> str:
        content = client.execute(code, silent=True, user_expressions={"value": value}, reply=True, timeout=60)[
            "content"
        ]
        answer = content if content["status"] != "ok" else content["user_expressions"]["value"]
        if answer["status"] != "ok":
            raise SystemExit("bench: in the kernel: " + "\n".join(answer["traceback"]))
        return str(answer["data"]["text/plain"])

    try:
        client.wait_for_ready(timeout=60)
        cell(CELLS, "0")
        yield lambda: float(cell("seconds = measured()", "seconds"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def versions(commands: dict[str, list[str]]) -> dict[str, str]:
    """What the peers say they are."""
    answers = {}
    for argv in commands.values():
        if argv[0] in ("crun", "runc", "unshare", "bwrap"):
            answer = subprocess.run([argv[0], "--version"], capture_output=True, text=True).stdout
            answers[argv[0]] = answer.splitlines()[0].split()[-1]
    return answers


def start(ids: list[str], runs: int, scratch: Path) -> tuple[list[dict[str, Any]], dict[str, measure.Samples]]:
    """The ids that begin with "start.": all in the same rounds."""
    commands = peers(scratch)
    with kernel(scratch) as library:
        subjects = {name: command(argv) for name, argv in commands.items()}
        if "start.library" in ids:
            subjects["start.library"] = library
        if "start.stage" in ids:
            subjects["start.stage"] = command([sys.executable, str(STAGE), "true"], MINIDOCKER_HOME=str(HOME))
        samples = measure.interleaved(subjects, runs, pause=PAUSE, progress=lambda number: progress(number, runs))
    machine = measure.machine(**versions(commands))
    records, raw = [], {}
    for name in ids:
        raw[name] = {SUBJECT: samples[name], **{peer: samples[peer] for peer in commands}}
        records += [measure.record(name, SUBJECT, peer, raw[name], unit="s", machine=machine) for peer in commands]
    return records, raw


def recorded(text: str, records: list[dict[str, Any]]) -> str:
    """A text with the records between its markers, in place of what stood there."""
    head, begin, rest = text.partition("<!-- recorded -->\n")
    _, end, tail = rest.partition("\n<!-- /recorded -->")
    if not end:
        raise SystemExit(
            "bench: the README has no markers <!-- recorded --> and <!-- /recorded --> on lines of their own"
        )
    return f"{head}{begin}{measure.table(records)}\n\nMeasured on: {measure.summary(records[0]['machine'])}.{end}{tail}"


def progress(number: int, runs: int) -> None:
    """One line on a terminal, rewritten; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\rround {max(number, 0)} of {runs}", end="\n" if number == runs else "", file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    """Words such as ONLY=start, from the command line or else from the environment, as make passes them."""
    options = {**os.environ, **dict(word.split("=", 1) for word in words)}
    runs = int(options.get("RUNS") or (11 if options.get("QUICK") else 41))
    ids = [name for name in OURS if name.startswith(options.get("ONLY", ""))]
    if not ids:
        print(f"bench: no id begins with {options['ONLY']}: there are {' '.join(OURS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="minidocker-bench-") as folder:
        scratch = Path(folder)
        enter_lab(scratch)
        try:
            records, raw = start(ids, runs, scratch)
        finally:
            syscalls.umount(str(ROOT), syscalls.MNT_DETACH)
            syscalls.umount(folder, syscalls.MNT_DETACH)
    build = Path(options.get("BUILD", REPO / "build"))
    measure.write(build, records, raw)
    if options.get("RECORD"):
        shutil.copy(build / "bench.json", RECORDED)
        README.write_text(recorded(README.read_text(), records))
    print(measure.table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
