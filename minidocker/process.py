"""Chapter 0: the engine. It starts one process and walks a list of isolators; it never changes after this chapter.

    run(["echo", "hello"])                                     # a process
    run(["sh"], Namespaces("pid mount"), PivotRoot(root))      # the same process, behind walls

Each isolator has its say at four moments. The order of the list is the order in which walls go up:

    moment                                             who runs it                    method
    before the process exists                          the host side                  __enter__
    the process exists, and waits at the gate          the host side                  attach(pid)
    it is released, and has not executed the command   the new process, inside        inside()
    after it ended, in reverse order                   the host side                  __exit__

`run` waits for the end and returns a `Result`; `start` returns a `Process` that runs meanwhile. What the process
writes comes back through pipes. The host side may be killed at any moment: its processes die with it.
"""

from __future__ import annotations

import os

from minidocker import child
from minidocker.outcome import ContainerError, ContainerTimeout, Result
from minidocker.running import PIPE, Process

__all__ = ["PIPE", "ContainerError", "ContainerTimeout", "Isolator", "Process", "Result", "run", "start"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any


class Isolator:
    """One wall around a process. Override what you need; the default of each moment does nothing.

    An isolator is pickled when the caller has several threads (see `launcher`), so it holds plain values. What
    `inside` needs is imported at the top of its module, since nothing can be imported inside.
    """

    clone_flags = 0
    """CLONE_NEW* of <linux/sched.h>: the namespaces that the process is born in."""
    cgroup: int | None = None
    """Descriptor of a cgroup v2 directory that the process is born in; `__enter__` may open it."""
    pid_namespace: int | None = None
    """Descriptor of a PID namespace, or a pidfd of one of its processes, that the process is born in."""
    descriptors: tuple[int, ...] = ()
    """Open descriptors that `inside` needs; there they have the same numbers. All others are closed before."""
    container = ""
    """The name of the container that this isolator serves; the engine sets it before `__enter__`."""

    def __enter__(self) -> Isolator:
        """Before the process exists. Host side, the caller's rights. If it raises, it must leave nothing."""
        return self

    def attach(self, pid: int) -> None:
        """The process `pid` exists and waits. Host side, the caller's rights: write its uid map, move its veth."""

    def inside(self) -> None:
        """Run by the new process, with all rights it was born with, before the command replaces it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After the process has ended, or could not be started. Host side. Remove what `__enter__` made."""


def run(argv: Sequence[str], *isolators: Isolator, timeout: float | None = None, **options: Any) -> Result:
    """Run `argv` behind the isolators and wait for its end; takes the options of `start`, and a `timeout` in seconds.

    A command that fails is a `Result`; a command that never ran is a `ContainerError`; one that had to be killed
    because its time was over is a `ContainerTimeout`.
    """
    with start(argv, *isolators, **options) as process:
        try:
            return process.wait(timeout)
        except TimeoutError:
            process.kill()
            message = f"{argv[0]}: killed, since it had not ended after {timeout} s"
            raise ContainerTimeout(message, process.wait()) from None


def start(
    argv: Sequence[str],
    *isolators: Isolator,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | bytes | int = b"",
    stdout: int = PIPE,
    stderr: int = PIPE,
    terminal: bool = False,
    name: str | None = None,
) -> Process:
    """Start `argv` behind the isolators, and return once it executes; use it as a context manager.

    `env` is the whole environment (default: a PATH). `stdin` is what it reads, or a descriptor. `stdout` and `stderr`:
    PIPE captures, a descriptor streams to it. With `terminal` the three are one pseudo-terminal instead, whose other
    end is `Process.terminal`. `name` names everything that is made for it on the host (default: 12 random hex digits).
    Needs the rights that its isolators need; with none of them, those of any user. Raises `ContainerError`.
    """
    environment = {"PATH": child.DEFAULT_PATH} if env is None else dict(env)
    order = child.Order(_checked(argv, environment), environment, cwd, isolators, terminal)
    process = Process(name or os.urandom(6).hex(), order)
    try:
        process._enter()
        process._give_birth(stdin, stdout, stderr)
    except BaseException:
        process._abandon()
        raise
    return process


def _checked(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The command as a list of words; refused if the kernel could not take it, before anything is made."""
    if isinstance(argv, str | bytes):
        raise ContainerError(f"the command must be a list of words, not {argv!r}: write {argv.split()!r}")
    words = [os.fsdecode(word) if isinstance(word, bytes | os.PathLike) else word for word in argv]
    if not words or not words[0]:
        raise ContainerError("the command is empty: give at least the name of a program")
    for text in (*words, *env.keys(), *env.values()):
        if not isinstance(text, str):
            raise ContainerError(f"{text!r} is no text: the words of a command and its environment are")
        if "\0" in text:
            raise ContainerError(f"a NUL byte in {text!r}: the kernel would end the text there")
    return words
