"""Exercise 3: the surprise of unshare."""

import subprocess


def surprise():
    """unshare changes where *children* are born. The first is process 1; when it ends, no other can be born there."""
    script = "sh -c 'echo $$'; ls > /dev/null"
    done = subprocess.run(["unshare", "--pid", "sh", "-c", script], capture_output=True, text=True)
    return int(done.stdout.split()[0]), done.stderr
