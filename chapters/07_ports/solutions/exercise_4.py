"""Exercise 4, destructive: flush the firewall. In a network namespace only; on a real host you cut yourself off."""

import subprocess

from minidocker.namespaces import Join
from minidocker.process import run


def after_a_flush(container, other, port):
    """The bridge is a switch and needs no rules. The published port was one, and with its rule it is gone."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    address = container.addresses[0]
    curl = ["curl", "-s", "--noproxy", "*", "-m", "2", "-o", "/dev/null"]
    tries = {
        "published": lambda: subprocess.run([*curl, f"http://127.0.0.1:{port}/hostname"]).returncode,
        "direct": lambda: subprocess.run([*curl, f"http://{address}/hostname"]).returncode,
        "neighbour": lambda: run([*curl, f"http://{address}/hostname"], Join(other, "net")).exit_code,
    }
    return {name for name, attempt in tries.items() if attempt() == 0}
