"""Exercise 1: a cable by hand, with ip(8)."""

import subprocess


def connect(pid):
    """The far end is born in the other namespace: nothing has to be moved."""
    commands = f"""
        ip link add cable0 type veth peer name eth0 netns {pid}
        ip addr add 10.1.1.1/24 dev cable0
        ip link set cable0 up
        nsenter --target {pid} --net ip addr add 10.1.1.2/24 dev eth0
        nsenter --target {pid} --net ip link set eth0 up
    """
    for command in commands.strip().splitlines():
        subprocess.run(command.split(), check=True)
    return "cable0"
