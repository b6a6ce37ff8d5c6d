"""Exercise 3: a shim."""

import ctypes
import os
import subprocess
import tempfile

PR_SET_CHILD_SUBREAPER = 36


def shim(runtime, bundle, name):
    """The runtime ends, and its child becomes ours: so we are the one who can wait for it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.NamedTemporaryFile("r") as file:
        subprocess.run([*runtime, "create", "--bundle", bundle, "--pid-file", file.name, name], check=True)
        with open(file.name) as written:
            pid = int(written.read())
    subprocess.run([*runtime, "start", name], check=True)
    _, status = os.waitpid(pid, 0)
    subprocess.run([*runtime, "delete", name], check=True)
    return os.waitstatus_to_exitcode(status)
