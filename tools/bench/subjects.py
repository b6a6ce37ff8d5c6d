"""What `make bench` measures, each as a function that returns (seconds to the first line, seconds to the end).

The program is the same everywhere, `echo up`. The first line is when `up` can be read by whoever asked for it; the end,
when the exit status is known. Callers are a Python that calls posix_spawn and waitpid, which costs a plain process
1 ms, and for `library` a cell of a real Jupyter kernel.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import machine
from minidocker import state
from tools import REPO
from tools.bench.measure import Missing
from tools.bench.sandbox import COMMAND, CPUS, MEMORY, PATH, PIDS, checked, minidocker

STAGE, CHAPTER = REPO / "chapters/03_cgroups/stage.py", REPO / "chapters/08_versus_vms"
DEBIAN = Path(state.home(), "roots/debian")

Timed = Callable[[], tuple[float, float]]

# What a notebook does before it starts a container, and the cell that is measured
CELLS = f"""
import time
import matplotlib.pyplot
import numpy
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.process import start
from minidocker.rootfs import PivotRoot
from bench.memory import open_files

def container(root):
    fence = Cgroup(memory={MEMORY}, cpus={CPUS}, pids={PIDS})
    return start({COMMAND!r}, Namespaces("pid mount uts ipc net"), fence, Namespaces("cgroup"), PivotRoot(root))

def crowd(root, number):
    open_files(30 * number)
    begin = time.perf_counter()
    containers = [container(root) for _ in range(number)]
    results = [process.wait() for process in containers]
    assert all(result.stdout == "up\\n" for result in results), results
    return (time.perf_counter() - begin) / number

def measured(root):
    begin = time.perf_counter()
    with container(root) as process:
        line = next(process.lines())
        first = time.perf_counter() - begin
        result = process.wait()
        end = time.perf_counter() - begin
    assert line == "up" and result.exit_code == 0 and not result.stderr, (line, result)
    return first, end
"""


def command(argv: list[str], line: str = "up", **variables: str) -> Timed:
    """A whole command, from posix_spawn(3) to the line, and to the end of waitpid(2). Lines before it are its own."""
    program = shutil.which(argv[0], path=PATH) or argv[0]
    environment = {"PATH": PATH, **variables}

    def measured() -> tuple[float, float]:
        begin = time.perf_counter()
        ours, theirs = os.pipe()
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)]
        pid = os.posix_spawn(program, argv, environment, file_actions=actions, setpgroup=0)
        os.close(theirs)
        text, first = b"", 0.0
        try:
            while data := os.read(ours, 65536):
                text += data
                if not first and line in text.decode(errors="replace").split():
                    first = time.perf_counter() - begin
            status = os.waitpid(pid, 0)[1]
        except BaseException:  # it hangs, or somebody has had enough
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(ours)
        end = time.perf_counter() - begin
        if status or not first:
            code = os.waitstatus_to_exitcode(status)
            raise Missing(f"{argv[0]}: exit status {code}, wrote {text[-200:]!r}")
        return first, end

    return measured


def at_once(commands: list[list[str]]) -> Callable[[], float]:
    """Start all of them, then wait for all: the seconds for each."""
    programs = [shutil.which(argv[0], path=PATH) or argv[0] for argv in commands]
    silent = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1)]

    def measured() -> float:
        begin, codes, pids = time.perf_counter(), [], []
        try:
            for program, argv in zip(programs, commands, strict=True):
                pids.append(os.posix_spawn(program, argv, {"PATH": PATH}, file_actions=silent, setpgroup=0))
            while pids:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
                del pids[0]
        finally:
            for pid in pids:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if any(codes):
            raise Missing(f"{sum(map(bool, codes))} of {len(codes)} containers at once failed: {set(codes)}")
        return (time.perf_counter() - begin) / len(commands)

    return measured


def stage() -> Timed:
    """The whole command of chapter 3's stage, from the start of Python to its end."""
    return command([sys.executable, "-I", "-S", str(STAGE), *COMMAND], MINIDOCKER_HOME=state.home())


def run_command() -> Timed:
    """`minidocker run` as it is typed. The first run finds the image's layers and writes them down for later ones."""
    limits = [f"--memory={MEMORY}", f"--cpus={CPUS}", f"--pids-limit={PIDS}"]
    words = ["run", "--rm", "--network=none", *limits, "--pull=never", "busybox", *COMMAND]
    checked(minidocker(words))
    _, home, *argv = minidocker(words)  # env(1) would take its time, too
    return command(argv, MINIDOCKER_HOME=home.partition("=")[2])


def guest(name: str) -> Timed:
    """A virtual machine. Its end is not waited for: it is switched off."""

    def measured() -> tuple[float, float]:
        begin = time.perf_counter()
        with machine.boot(name, " ".join(COMMAND)) as process:
            for line in process.lines():
                if line.strip() == "up":
                    return (time.perf_counter() - begin,) * 2
            raise Missing(f"no line came; {process.wait()}")

    return measured


def user_mode_linux(scratch: Path) -> Timed | None:
    """A kernel that is a program, with the smallest guest's files; None where it is not installed."""
    image = Path(machine.directory(), "minimal.cpio")
    if not shutil.which("linux.uml", path=PATH) or not image.exists():
        return None
    console = ["con=null", "con0=null,fd:1", f"uml_dir={scratch}"]
    argv = ["linux.uml", "mem=64M", f"initrd={image}", "quiet", *console, f'run="{" ".join(COMMAND)}"']
    return command(argv, TMPDIR=str(scratch), HOME=str(scratch))


@contextmanager
def kernel(scratch: Path) -> Iterator[Callable[[str], Any]]:
    """Evaluate an expression with the functions of CELLS by a cell of a real Jupyter kernel."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(scratch / "kernel"))
    manager.start_kernel(env={**os.environ, "PYTHONPATH": f"{REPO}:{CHAPTER}"}, cwd=str(REPO / "notebooks"))
    client = manager.blocking_client()
    client.start_channels()

    def cell(code: str, value: str) -> str:
        reply = client.execute(code, silent=True, user_expressions={"value": value}, reply=True, timeout=60)
        content = reply["content"]
        answer = content if content["status"] != "ok" else content["user_expressions"]["value"]
        if answer["status"] != "ok":
            raise Missing("in the kernel: " + "\n".join(answer["traceback"]))
        return str(answer["data"]["text/plain"])

    try:
        client.wait_for_ready(timeout=60)
        cell(CELLS, "0")
        yield lambda expression: ast.literal_eval(cell(f"seconds = {expression}", "seconds"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
