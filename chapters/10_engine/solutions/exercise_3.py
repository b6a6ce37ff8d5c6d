"""Exercise 3: what exec joins."""

import os
import subprocess

OPTIONS = {"mnt": "mount"}  # all others are called by nsenter as by /proc


def joined(pid):
    """A namespace is one file, whatever leads to it. The two names with _for_children are of those to come."""
    kinds = [kind for kind in os.listdir(f"/proc/{pid}/ns") if not kind.endswith("_for_children")]
    return {kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")}


def one_more(pid, argv):
    """It is in the namespaces, but in our control group, and with all our capabilities: half of `exec` is missing."""
    flags = [f"--{OPTIONS.get(kind, kind)}=/proc/{pid}/ns/{kind}" for kind in joined(pid)]
    return subprocess.run(
        ["nsenter", *flags, f"--root=/proc/{pid}/root", *argv], stdout=subprocess.PIPE, text=True
    ).stdout
