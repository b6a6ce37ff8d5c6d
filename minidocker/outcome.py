"""Chapter 0: how it can end. A command that ran is a `Result`, also if it failed; one that did not, a `ContainerError`.

Exit codes are Docker's: the command's own; 128+N if signal N killed it; 125 if the engine failed before the command
executed, 126 if the kernel refused to execute it, 127 if it was not found.
"""

from __future__ import annotations

import errno
import os
import sys

ENGINE_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
REMEDIES = {  # what usually is behind a refusal, for the reader who meets it first here
    ("clone3", errno.EPERM): "new namespaces need root, or a user namespace beside them",
    ("clone3", errno.EACCES): "AppArmor may forbid user namespaces here: see minidocker doctor",
    ("clone3", errno.ENOSPC): "a limit in /proc/sys/user/max_*_namespaces is reached",
    ("clone3", errno.EAGAIN): "a limit on processes is reached: ulimit -u, or pids.max of a cgroup",
    ("clone3", errno.EINVAL): "this kernel does not know one of the namespaces: see minidocker doctor",
    ("", errno.EROFS): "it is mounted read-only, as in a container: mount -o remount,rw",
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

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message, exit_code=result.exit_code)
        self.result = result


def warn(text: str) -> None:
    """A line for a person, where nothing can be raised any more. (There is no stderr if descriptor 2 was closed.)"""
    if sys.stderr is not None:
        print(f"minidocker: {text}", file=sys.stderr)


def failure(
    isolator: str | None, syscall: str | None, number: int | None, path: str | None, text: str
) -> ContainerError:
    """One line for a person: what failed, on what, and the remedy where one is known."""
    code = ENGINE_FAILED
    if syscall == "execve" and number == errno.ENOENT:
        message, code = f"{path}: command not found in this root", NOT_FOUND
    elif syscall == "execve" and number == errno.ELIBBAD:
        message, code = f"{path}: it is there, but its interpreter or dynamic loader is not in this root", NOT_FOUND
    elif syscall == "execve":
        message, code = f"{path}: cannot be executed: {text.lower()}", NOT_EXECUTABLE
    else:
        place = f"{syscall}({path})" if syscall and path else syscall or path
        remedy = REMEDIES.get((syscall or "", number or 0))
        message = ": ".join(filter(None, ["engine" if isolator is None else isolator, place, text])) + (
            f" ({remedy})" if remedy else ""
        )
    return ContainerError(message, isolator=isolator, syscall=syscall, errno=number, path=path, exit_code=code)


def on_the_host(isolator: object, moment: str, *arguments: object) -> None:
    """Run one moment of an isolator; if the kernel refuses it something, say whose moment it was."""
    try:
        getattr(isolator, moment)(*arguments)
    except OSError as refused:
        name, syscall = type(isolator).__name__, getattr(refused, "syscall", None)
        raise failure(name, syscall, refused.errno, refused.filename, str(refused.strerror)) from refused
