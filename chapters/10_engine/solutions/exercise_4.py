"""Exercise 4, destructive: the monitor is killed, and nobody can write down what became of its container."""

import json
import os
import select
import signal
import subprocess
import sys

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")


def orphan(name):
    """The file is wrong until somebody asks: then the lock is free, and the one who asks writes 137."""
    with open(f"/proc/{state(name)['pid']}/status") as file:
        monitor = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
    ended = select.poll()
    ended.register(os.pidfd_open(monitor), select.POLLIN)
    os.kill(monitor, signal.SIGKILL)
    ended.poll()
    before = state(name)["status"]
    asked = subprocess.run([sys.executable, "-m", "minidocker", "wait", name], stdout=subprocess.PIPE, text=True)
    return before, int(asked.stdout), state(name)["status"]


def state(name):
    """What the file says, true or not."""
    with open(f"{HOME}/names/{name}/state.json") as file:
        return json.load(file)
