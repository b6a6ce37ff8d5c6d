"""Exercise 1: a union by hand, with mount(8)."""

import subprocess


def union_by_hand(lowers, upper, work, merged, argv):
    """unshare(1) makes the mounts of the new namespace private, so nothing gets out, and they end with the command."""
    options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}"
    script = 'mount -t overlay -o "$1" overlay "$2" && cd "$2" && shift 2 && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", options, merged, *argv]
    return subprocess.run(command, capture_output=True, text=True)
