"""Chapter 0: how it can end. A command that ran is a `Result`, also if it failed; one that did not, a `ContainerError`.

Exit codes are Docker's: the command's own; 128+N if signal N killed it; 125 if the engine failed before the command
executed, 126 if the kernel refused to execute it, 127 if it was not found.
"""

from __future__ import annotations

import errno
import os
import sys

ENGINE_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
KNOWN: dict[tuple[str | None, int | None], str] = {  # what usually is behind it, for who meets it first here
    ("execve", errno.ENOENT): "command not found in this root",
    ("execve", errno.ELIBBAD): "it is there, but its interpreter or dynamic loader is not in this root",
    ("clone3", errno.EPERM): "new namespaces need root, or a user namespace beside them",
    ("clone3", errno.EACCES): "AppArmor may forbid user namespaces here: see minidocker doctor",
    ("clone3", errno.ENOSPC): "a limit in /proc/sys/user/max_*_namespaces is reached",
    ("clone3", errno.EAGAIN): "a limit on processes is reached: ulimit -u, or pids.max of a cgroup",
    ("clone3", errno.EINVAL): "this kernel does not know one of the namespaces: see minidocker doctor",
    (None, errno.EROFS): "it is mounted read-only, as in a container: mount -o remount,rw",
    ("setns", errno.ESRCH): "the process that was to be joined has ended",
}


class Result:
    """`exit_code` 0 to 255, `signal` (the one that killed it, else 0), and `stdout`, `stderr` as text."""

    def __init__(self, status: int, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """From a wait status (wait(2)) and what was captured. Bytes that are not UTF-8 become backslash escapes."""
        code = os.waitstatus_to_exitcode(status)
        self.signal, self.exit_code = max(-code, 0), code if code >= 0 else 128 - code
        self.stdout, self.stderr = (text.decode(errors="backslashreplace") for text in (stdout, stderr))

    def __repr__(self) -> str:
        return f"Result(exit_code={self.exit_code}, stdout={self.stdout!r}, stderr={self.stderr!r})"


class ContainerError(Exception):
    """The command was not executed: which isolator failed, in which syscall, with which errno, on which path."""

    isolator: str | None = None
    syscall: str | None = None
    errno: int | None = None
    path: str | None = None

    def __init__(self, message: str, *, exit_code: int = ENGINE_FAILED, **facts: object) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        vars(self).update(facts)


class ContainerTimeout(ContainerError):
    """The command did not end in time and was killed; `result` holds what it had written until then."""

    result: Result


def warn(text: str) -> None:
    """A line for a person, where nothing can be raised any more. (There is no stderr if descriptor 2 was closed.)"""
    if sys.stderr is not None:
        print(f"minidocker: {text}", file=sys.stderr)


def failure(
    isolator: str | None, syscall: str | None, number: int | None, path: str | None, text: str
) -> ContainerError:
    """One line for a person: what failed, on what, and the remedy where one is known."""
    known, code = KNOWN.get((syscall, number)), ENGINE_FAILED
    if syscall == "execve":
        code = NOT_FOUND if known else NOT_EXECUTABLE
        message = f"{path}: {known or f'cannot be executed: {text.lower()}'}"
    else:
        place = f"{syscall}({path})" if syscall and path else syscall or path
        message = ": ".join(filter(None, ["engine" if isolator is None else isolator, place, text]))
        message += f" ({known})" if known else ""
    return ContainerError(message, isolator=isolator, syscall=syscall, errno=number, path=path, exit_code=code)


def described(isolator: str | None, refused: OSError) -> tuple[str | None, str | None, int | None, str | None, str]:
    """What `failure` takes, from an `OSError`: plain values, that can be sent to another process."""
    path = os.fsdecode(refused.filename) if isinstance(refused.filename, str | bytes) else None
    return isolator, getattr(refused, "syscall", None), refused.errno, path, refused.strerror or str(refused)


def on_the_host(isolator: object, moment: str, *arguments: object) -> None:
    """Run one moment of an isolator; if the kernel refuses it something, say whose moment it was."""
    try:
        getattr(isolator, moment)(*arguments)
    except OSError as refused:
        raise failure(*described(type(isolator).__name__, refused)) from refused
