"""Boot a virtual machine with QEMU: its console comes here and into a log, its status over a serial port of its own.

KVM is used where a trial boot shows that it works; elsewhere the processor is emulated. The disks stay as they are:
what the machine writes goes to copies that vanish with it. Without a status a run has failed, whatever was printed.
"""

from __future__ import annotations

import os
import platform
import re
import selectors
import subprocess
import sys
from pathlib import Path

from bench import machine
from tools.machines.disk import ARCHITECTURE, REPO, fail

LOG = REPO / "build" / "guest.log"
SILENCE = 3000  # seconds without a word from the guest, after which it hangs
PROGRAM, KIND, _, CONSOLE = machine.HARDWARE[platform.machine()]
# A second serial port: the device, and what it is called in the guest.
STATUS_DEVICE, STATUS_PORT = {"amd64": ("isa-serial", "ttyS1"), "arm64": ("pci-serial", "ttyS0")}[ARCHITECTURE]
COMMAND_LINE = (
    "root=/dev/nvme0n1 rw quiet loglevel=2 systemd.show_status=0 systemd.getty_auto=0 mitigations=off no_timer_check "
    "cryptomgr.notests random.trust_cpu=on panic=-1"
)


def boot(kernel: Path, disks: list[Path], place: Path, network: bool = False) -> tuple[int, str]:
    """Boot on throw-away copies of the disks; the status that the job sent, or 1, and how it ended, in a word."""
    if problem := machine.missing():
        fail(problem)
    accel = machine.accelerator()
    print(f"booting the guest: {'KVM' if accel == 'kvm' else 'emulated, which is slow'}", flush=True)
    status = place / "status"
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        PROGRAM,
        *KIND,
        "-accel",
        accel,
        *machine.PLAIN,
        "-smp",
        "2",
        "-m",
        "2048",
    ]
    command += ["-cpu", "host" if accel == "kvm" else "max", "-chardev", f"file,id=status,path={status}"]
    command += ["-device", f"{STATUS_DEVICE},chardev=status", "-device", "nvme,id=nvme,serial=1"]
    for number, image in enumerate(disks, 1):
        command += ["-drive", f"file={image},format=raw,if=none,id=disk{number},snapshot=on"]
        command += ["-device", f"nvme-ns,drive=disk{number},bus=nvme,nsid={number}"]
    if network:
        command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    command += ["-kernel", str(kernel), "-append", f"{COMMAND_LINE} console={CONSOLE}"]
    ended = watch(command, place)
    sent = re.search(r"STATUS (\d+)", status.read_text() if status.exists() else "")
    return (int(sent[1]) if sent else 1), (ended if sent else f"{ended}, without a status")


def watch(command: list[str], place: Path) -> str:
    """Pass on what the machine prints, until it ends or falls silent."""
    LOG.parent.mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(place)}  # where the throw-away copies go
    with (
        LOG.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env) as qemu,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(qemu.stdout, selectors.EVENT_READ)
        try:
            while selector.select(SILENCE):
                if not (data := os.read(qemu.stdout.fileno(), 65536)):
                    return "the guest is off"
                data = data.replace(b"\r", b"")
                log.write(data)
                log.flush()
                sys.stdout.write(data.decode(errors="replace"))
                sys.stdout.flush()
            return f"the guest said nothing for {SILENCE} s"
        finally:
            qemu.kill()
