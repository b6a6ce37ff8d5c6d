"""Chapter 0: connect the user's own terminal with that of a container: `docker run -it`.

    with start(["sh"], *isolators, terminal=True, env={"TERM": "linux"}) as process:
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

from minidocker.process import Process, Result


def interact(process: Process, keyboard: int = 0, screen: int = 1) -> Result:
    """Copy `keyboard` to the process's terminal and that to `screen`, until the process ends; return its result.

    Follows changes of the window's size (SIGWINCH), so it wants the main thread. The user's terminal is put back
    whatever happens; where `keyboard` is no terminal, its bytes are copied as they are.
    """
    before = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
    resize = signal.signal(signal.SIGWINCH, lambda *_: copy_size(keyboard, process.terminal))
    try:
        copy_size(keyboard, process.terminal)
        if before is not None:
            tty.setraw(keyboard, termios.TCSADRAIN)  # not TCSAFLUSH, which would drop what was typed ahead
        _copy(process, keyboard, screen)
    finally:
        signal.signal(signal.SIGWINCH, resize)
        if before is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return process.wait()


def copy_size(source: int, target: int) -> None:
    """Give terminal `target` the rows and columns of `source`; its kernel side sends SIGWINCH to whom it concerns."""
    if os.isatty(source):
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8)))


def _copy(process: Process, keyboard: int, screen: int) -> None:
    """Both directions in one loop. The keyboard's end is Ctrl-D for the container; the process's end ends the loop."""
    waiting = [keyboard, process.terminal, process.pidfd]
    while True:
        ready = select.select(waiting, [], [])[0]
        if process.terminal in ready and not _forward(process.terminal, screen):
            return
        if ready == [process.pidfd]:
            return
        if keyboard in ready and not _forward(keyboard, process.terminal):
            os.write(process.terminal, b"\x04")
            waiting.remove(keyboard)


def _forward(source: int, target: int) -> bool:
    """Copy what is there; False at the end, which a terminal without a process behind it reports as EIO."""
    try:
        data = os.read(source, 65536)
    except OSError:
        return False
    while data:
        written = os.write(target, data)
        data = data[written:]
        if not data:
            return True
    return False
