"""Chapter 10: a signal of the user's, passed on to a container so that it has an effect."""

from __future__ import annotations

from minidocker.process import Process
from minidocker.syscalls import signal


def pass_on(process: Process, number: int) -> None:
    """Give it the signal; and kill it if that cannot have an effect, since who sent this one to us wants an end. The
    kernel drops a signal for which the first process of a PID namespace has no handler. `Init` takes each for its
    command, of which the kernel drops none; and while it waits in sigwait(3), none looks blocked."""
    process.send_signal(number)
    heeds = ("SigBlk", "SigCgt") if number in (signal.SIGTERM, signal.SIGQUIT) else ("SigBlk", "SigCgt", "SigIgn")
    try:
        with open(f"/proc/{process.pid}/status") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(heeds)]
    except OSError:
        return  # it has ended
    if not any(mask >> number - 1 & 1 for mask in masks):
        process.kill()
