"""Exercise 4, destructive: the process is killed while it waits for its start."""

import json
import os
import signal
import subprocess
import time


def killed(runtime, bundle, name):
    """The file says "created"; whether that is true, the kernel says: there is no process with this number any more."""

    def do(*words):
        return subprocess.run([*runtime, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def state():
        return json.loads(do("state", name).stdout)

    subprocess.run([*runtime, "create", "--bundle", bundle, name], check=True)
    pid = state()["pid"]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    after, started = state(), do("start", name).returncode
    do("delete", "--force", name)
    return pid, after["status"], started, do("state", name).returncode
