"""Chapter 0: a terminal for a container, and how it is connected with the user's own: `docker run -it`.

    with start(["sh"], Terminal(size(0)), env={"TERM": "linux"}) as process:
        interact(process)

The container writes to a pseudo-terminal of its own. This side copies bytes in both directions, with the user's
terminal in raw mode: Ctrl-C is one of those bytes, and becomes a signal only at the container's end.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty
from _collections_abc import Iterator
from contextlib import contextmanager

from minidocker.process import Isolator, Process, Result
from minidocker.syscalls import MS_BIND, call, mount, read

TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441  # ioctl_tty(2): unlock, open the other end
PATIENCE = 1000  # ms, from one look at a screen that takes nothing to the next


class Terminal(Isolator):
    """A pseudo-terminal, pty(7), on the devpts that is at /dev/pts then: of the host, or behind a new root its own.

    The command has it as descriptors 0 to 2; the host side as `Process.terminal`. `window`: see `size`. With `console`
    it is /dev/console, too, as the OCI specification has it.
    """

    def __init__(self, window: bytes = bytes(8), console: bool = False) -> None:
        self.window, self.console = window, console

    def inside(self) -> None:
        """Its other end becomes the controlling terminal of this session."""
        ours = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        call("ioctl", ours, TIOCSPTLCK, bytes(4))
        theirs = call("ioctl", ours, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        call("ioctl", ours, termios.TIOCSWINSZ, self.window)
        os.login_tty(theirs)
        if self.console and not os.path.lexists("/dev/console"):  # a volume may have been first
            console = os.open("/dev/console", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            mount("/proc/self/fd/0", f"/proc/self/fd/{console}", flags=MS_BIND)  # no path (CVE-2025-52565)
            os.close(console)
        self.terminal = (ours,)


def size(terminal: int) -> bytes:
    """The rows and columns of the user's terminal, as `Terminal` takes them; nothing that counts if it is none."""
    return fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)) if os.isatty(terminal) else bytes(8)


def interact(process: Process, keyboard: int = 0, screen: int = 1) -> Result:
    """Copy `keyboard` to the process's terminal and that to `screen`, until the process ends; return its result.

    Where `keyboard` is no terminal, its bytes are copied as they are; where it is -1, none are.
    """
    output = _unblocked(screen) if os.isatty(screen) else os.dup(screen)
    try:
        with raw(keyboard, screen, process.terminal):
            _copy(process, keyboard, output)
    finally:
        os.close(output)
    return process.wait()


@contextmanager
def raw(keyboard: int, screen: int, target: int) -> Iterator[None]:
    """The user's terminal is raw, and `target` has its size, also when that changes (SIGWINCH: the main thread's).

    It is put back whatever happens.
    """
    before = termios.tcgetattr(keyboard) if keyboard >= 0 and os.isatty(keyboard) else None
    window = screen if before is None else keyboard
    resize = signal.signal(signal.SIGWINCH, lambda *_: copy_size(window, target))
    try:
        copy_size(window, target)
        if before is not None:
            tty.setraw(keyboard, termios.TCSADRAIN)  # not TCSAFLUSH, which would drop what was typed ahead
        yield
    finally:
        signal.signal(signal.SIGWINCH, resize)
        try:
            if before is not None:
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        except termios.error:
            pass  # it is gone: somebody closed the window


def copy_size(source: int, target: int) -> None:
    """Give terminal `target` the rows and columns of `source`; its kernel side sends SIGWINCH to whom it concerns."""
    if os.isatty(source):
        fcntl.ioctl(target, termios.TIOCSWINSZ, size(source))


def _copy(process: Process, keyboard: int, screen: int) -> None:
    """Both directions in one loop, which waits in poll(2) only: who does not read must not stop the other direction.

    What cannot be written yet is kept, and no more is read for that side meanwhile. The keyboard's end is Ctrl-D for
    the container. The container's end ends the loop, as soon as the screen has all of its output; who sent a signal
    wants an end, and does not wait for a screen that nobody reads.
    """
    os.set_blocking(process.terminal, False)
    targets = {process.terminal: screen, keyboard: process.terminal}
    kept, ends = dict.fromkeys(targets.values(), b""), [process.pidfd]
    while True:
        events = dict.fromkeys(ends, select.POLLIN)
        for source, target in targets.items():
            place, event = (target, select.POLLOUT) if kept[target] else (source, select.POLLIN)
            events[place] = events.get(place, 0) | event
        poll = select.poll()
        for descriptor in events.keys() - {-1}:
            poll.register(descriptor, events[descriptor])
        ready = dict(poll.poll(None if ends else PATIENCE if kept[screen] else 0))
        if process.pidfd in ready:
            targets, ends = {process.terminal: screen}, []
        for source, target in [*targets.items()]:
            if kept[target] and ready.get(target, 0) & ~select.POLLIN:
                kept[target] = _rest(target, kept[target], final=target == screen)
            elif not kept[target] and ready.get(source, 0) & ~select.POLLOUT:
                kept[target] = read(source)
                if not kept[target] and source == keyboard:
                    targets[-1], kept[target] = targets.pop(keyboard), b"\x04"
                elif not kept[target]:
                    return
        if not ready and (process.asked or not kept[screen]):
            return


def _rest(target: int, data: bytes, final: bool) -> bytes:
    """Write what can be written now; a pipe that is ready takes PIPE_BUF bytes. Nobody reads at the container's end?"""
    try:
        return data[os.write(target, data[: select.PIPE_BUF]) :]
    except BlockingIOError:
        return data
    except OSError:
        if final:
            raise
        return b""


def _unblocked(screen: int) -> int:
    """The user's terminal, opened once more: to write without waiting is then said of this one, not of the shell's."""
    try:
        return os.open(f"/proc/self/fd/{screen}", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return os.dup(screen)  # it is somebody else's
