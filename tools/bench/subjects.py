"""What `make bench` measures, each as a function that returns (seconds to the first line, seconds to the end).

The program is the same everywhere, `echo up`. The first line is when `up` can be read by whoever asked for it; the end,
when the exit status is known. Callers are a Python that calls posix_spawn and waitpid, which costs a plain process
1 ms, and for `library` a cell of a real Jupyter kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import machine
from minidocker import state
from tools import REPO
from tools.bench.sandbox import COMMAND, CPUS, MEMORY, PATH, PIDS, ROOT

STAGE = REPO / "chapters/03_cgroups/stage.py"
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
from tools import REPO

def measured(root):
    begin = time.perf_counter()
    with start(
        {COMMAND!r},
        Namespaces("pid mount uts ipc net"),
        Cgroup(memory={MEMORY}, cpus={CPUS}, pids={PIDS}),
        Namespaces("cgroup"),
        PivotRoot(root),
    ) as process:
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
        pid = os.posix_spawn(program, argv, environment, file_actions=actions)
        os.close(theirs)
        text, first = b"", 0.0
        while data := os.read(ours, 65536):
            text += data
            if not first and line in text.decode(errors="replace").split():
                first = time.perf_counter() - begin
        os.close(ours)
        status = os.waitpid(pid, 0)[1]
        end = time.perf_counter() - begin
        if status or not first:
            code = os.waitstatus_to_exitcode(status)
            raise SystemExit(f"bench: {' '.join(argv)}: exit status {code}, wrote {text[-200:]!r}")
        return first, end

    return measured


def stage() -> Timed:
    """The whole command of chapter 3's stage, from the start of Python to its end."""
    return command([sys.executable, "-I", "-S", str(STAGE), *COMMAND], MINIDOCKER_HOME=state.home())


def run_command() -> Timed | None:
    """`minidocker run` as it is typed, by the same few lines as the installed command; None without its image.

    The first run finds the image's layers and writes them down, for all later ones.
    """
    limits = [f"--memory={MEMORY}", f"--cpus={CPUS}", f"--pids-limit={PIDS}"]
    words = ["run", "--rm", "--network=none", *limits, "--pull=never", "busybox", *COMMAND]
    first = subprocess.run([sys.executable, "-m", "minidocker", *words], capture_output=True, text=True, cwd=REPO)
    if first.stdout != "up\n":
        print(f"bench: no figure of minidocker run: {(first.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
        return None
    places = [str(REPO), sysconfig.get_paths()["purelib"]]
    code = f"import sys; sys.path += {places!r}\nfrom minidocker.cli import command; command()"
    return command([sys.executable, "-I", "-S", "-c", code, *words], MINIDOCKER_HOME=state.home())


def guest(name: str) -> Timed:
    """A virtual machine. Its end is not waited for: it is switched off."""

    def measured() -> tuple[float, float]:
        begin = time.perf_counter()
        with machine.boot(name, " ".join(COMMAND)) as process:
            for line in process.lines():
                if line.strip() == "up":
                    return (time.perf_counter() - begin,) * 2
            raise SystemExit(f"bench: {name} guest: no line came; {process.wait()}")

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
def kernel(scratch: Path) -> Iterator[Callable[[Path], Timed]]:
    """The function `measured` of CELLS, called with a root by a cell of a real Jupyter kernel."""
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

    def library(root: Path) -> Timed:
        def measured() -> tuple[float, float]:
            first, end = cell(f"seconds = measured({str(root)!r})", "seconds").strip("()").split(",")
            return float(first), float(end)

        return measured

    try:
        client.wait_for_ready(timeout=60)
        cell(CELLS, "0")
        yield library
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


__all__ = ["ROOT", "Timed", "command", "guest", "kernel", "run_command", "stage", "user_mode_linux"]
