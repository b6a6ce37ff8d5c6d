"""Chapter 8: a virtual machine. The smallest and fastest that a stock kernel makes, and a usual one.

    with boot("minimal", "echo up") as machine:      # the busybox root as an initial RAM disk
        next(machine.lines())                        # "up", from a kernel of its own
    boot("usual", "echo up")                         # the Debian root on a disk image, with systemd

QEMU is an ordinary program, so the engine of chapter 0 starts it: its serial console is its standard input and output,
and it dies with its caller. Both guests run the distribution's own kernel and end when the command ends. Set-up makes
them from the trees of the containers' roots; see `guests` in vagrant/provision.sh.
"""

import functools
import os
import platform
import shutil
import time
from typing import Any

from minidocker import state
from minidocker.outcome import ContainerError
from minidocker.process import PIPE, Isolator, Process, run, start

# By architecture: QEMU's program, its machine and (emulated) processor, the name of its first serial line
HARDWARE = {
    "x86_64": ("qemu-system-x86_64", ["-M", "q35"], [], "ttyS0"),
    "aarch64": ("qemu-system-aarch64", ["-M", "virt"], ["-cpu", "cortex-a57"], "ttyAMA0"),
}
# No device that nobody asked for, no display; a guest that would restart ends QEMU
PLAIN = ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]
# Each of the last four saves a boot some time, mostly where the processor is emulated
ARGUMENTS = "quiet loglevel=0 TERM=dumb mitigations=off no_timer_check cryptomgr.notests random.trust_cpu=on"
MEMORY = {"minimal": 128, "usual": 256}  # MiB; the smallest guest does not boot in 64
PROBE = 5.0  # seconds that a processor without emulation gets: it needs one, and some never begin
ENVIRONMENT = {"PATH": os.defpath, "TMPDIR": "/var/tmp"}  # there QEMU keeps what a guest writes and nobody wants


def directory() -> str:
    """Where set-up has put the guests."""
    return os.path.join(state.home(), "guest")


def missing() -> str:
    """What it takes to start a virtual machine and is not here, with the remedy; empty if all is."""
    if platform.machine() not in HARDWARE:
        return f"no guest is known for a {platform.machine()}"
    program = HARDWARE[platform.machine()][0]
    if not shutil.which(program):
        return f"{program} is not installed: run sh vagrant/provision.sh"
    for name in ("kernel/vmlinux", "minimal.cpio", "debian.ext4"):
        if not os.path.exists(os.path.join(directory(), name)):
            return f"there is no {os.path.join(directory(), name)}: run sh vagrant/provision.sh"
    return ""


@functools.cache
def accelerator() -> str:
    """ "kvm" if a guest really boots with it, else "tcg", QEMU's emulation of a processor: chosen by a timed boot.

    That /dev/kvm exists says little: inside some virtual machines a guest hangs before its first line.
    """
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        machine = boot("minimal", "echo up", accelerate="kvm")
        with machine:
            try:
                return "kvm" if "up" in machine.wait(PROBE).stdout else "tcg"
            except TimeoutError:
                machine.kill()
    return "tcg"


def command(
    guest: str, run: str, *, memory: int | None = None, accelerate: str | None = None, disk: str | None = None
) -> list[str]:
    """QEMU's command line for "minimal" or "usual", which runs the shell command `run` and ends with it.

    `memory` in MiB. `disk` is a file in the usual guest's place, raw or qcow2, that keeps what the guest writes; by
    default it starts from the image that set-up made, and what it writes is thrown away.
    """
    if guest not in MEMORY:
        raise ContainerError(f"no guest is called {guest!r}: there are {' '.join(MEMORY)}")
    if '"' in run or len(run) > 1000:
        raise ContainerError("the guest's command stands in the kernel's arguments: at most 1000 letters, and no \"")
    accelerate = accelerate or accelerator()
    program, machine, emulated, console = HARDWARE[platform.machine()]
    processor = ["-cpu", "host"] if accelerate == "kvm" else [*emulated]
    arguments = f'{ARGUMENTS} console={console} run="{run}"'
    argv = [program, *machine, "-accel", accelerate, *processor, *PLAIN, "-m", str(memory or MEMORY[guest])]
    argv += ["-kernel", os.path.join(directory(), "kernel/vmlinux")]
    if guest == "minimal":
        return [*argv, "-initrd", os.path.join(directory(), "minimal.cpio"), "-append", arguments]
    kind = "qcow2" if disk and disk.endswith(".qcow2") else "raw"
    drive = f"file={disk or os.path.join(directory(), 'debian.ext4')},format={kind},if=none,id=disk"
    argv += ["-drive", drive + ("" if disk else ",snapshot=on"), "-device", "nvme,drive=disk,serial=disk"]
    return [*argv, "-append", f"{arguments} root=/dev/nvme0n1 rw systemd.show_status=0"]


def boot(
    guest: str, run: str, *isolators: Isolator, stdin: int | bytes = b"", stdout: int = PIPE, **options: Any
) -> Process:
    """Start a guest, and return at once; use it as a context manager. Options as for `command`.

    Standard input and output are the guest's serial console: a terminal, unless `run` says otherwise with stty. QEMU
    needs no rights; isolators such as a `Cgroup` are for QEMU.
    """
    if problem := missing():
        raise ContainerError(f"no virtual machine here: {problem}")
    return start(command(guest, run, **options), *isolators, env=ENVIRONMENT, stdin=stdin, stdout=stdout)


def slowdown(rounds: int = 20_000) -> float:
    """How many times longer a shell in the smallest guest takes for the same work than one here; 1 if not emulated."""
    work = f"echo a; i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done; echo b"

    def between(process: Process) -> float:
        lines = process.lines()
        next(lines)
        begin = time.perf_counter()
        next(lines)
        return time.perf_counter() - begin

    with start(["busybox", "sh", "-c", work]) as here:
        own = between(here)
    with boot("minimal", work) as there:
        return between(there) / own


def link(target: str, disk: str) -> None:
    """Make `disk` a qcow2 file that holds only what differs from the raw image `target`: a linked clone."""
    made = run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", os.path.abspath(target), disk])
    if made.exit_code:
        raise ContainerError(f"qemu-img: {made.stderr.strip()}", path=disk)
