"""Two hosts on a cable, for the lab and the tests: network namespaces with an address and a state directory each.

with Cluster(directory) as (one, other):
    one.run("-v", "shared:/shared", "sh", "-c", "echo hello > /shared/file")        # stage 6, as on that host
    other.run("-v", "shared:/shared", "cat", "/shared/file").stdout

The first has the files, and an SSH server with keys of its own. The second mounts them with sshfs: sshfs(1). No packet
leaves the two namespaces, and all of it ends with the block.
"""

import contextlib
import os
import shutil
import sys
import time

from minidocker.namespaces import Join, Namespaces
from minidocker.process import run, start

HERE = os.path.dirname(os.path.abspath(__file__))
ROOTS = f"{os.environ.get('MINIDOCKER_HOME', '/var/lib/minidocker')}/roots"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SSHD = """Port 22
ListenAddress 10.6.0.1
HostKey {0}/host_key
AuthorizedKeysFile {0}/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""

# reconnect: go on when the line is back. ServerAlive: after 3 seconds without an answer it is dead, and calls get EIO
SSHFS = (
    "reconnect,ServerAliveInterval=1,ServerAliveCountMax=3,ConnectTimeout=2,IdentityFile={0}/key,"
    "UserKnownHostsFile={0}/known_hosts,BatchMode=yes,dir_cache=no,attr_timeout=0,entry_timeout=0"
)

# Appends numbers to a file, one fsync(2) each, and says of each whether it is safe. For the Debian root, whose dd can do it
APPENDS = r"""
number=0
while :; do
    number=$((number + 1))
    if problem=$(echo $number | dd of=/shared/log oflag=append conv=notrunc,fsync status=none 2>&1); then
        echo acknowledged $number
    else
        echo refused $number: $problem
        sleep 0.2
    fi
done
"""


class Host:
    """A network namespace, kept by a process that sleeps, and a state directory."""

    def __init__(self, stack, address, home):
        self.keeper = stack.enter_context(start(["sleep", "infinity"], Namespaces("net")))
        self.address, self.home = address, home
        os.makedirs(home)
        os.symlink(ROOTS, f"{home}/roots")
        self.env = {"PATH": PATH, "MINIDOCKER_HOME": home, "PYTHONPATH": os.pathsep.join(sys.path)}

    def here(self):
        """The isolator that brings a process of the real host to this one."""
        return Join(self.keeper.pid, "net")

    def command(self, *argv):
        """Any program, on this host."""
        return run(argv, self.here(), env=self.env)

    def volume(self, name, **options):
        """minidocker volume create."""
        code = f"from minidocker.volumes import store; store.create({name!r}, {options!r})"
        done = self.command(sys.executable, "-c", code)
        assert done.exit_code == 0, done.stderr

    def start(self, *arguments, **options):
        """A container: stage 6 with these arguments. Its own host side lives in this namespace."""
        return start([sys.executable, f"{HERE}/stage.py", *arguments], self.here(), env=self.env, **options)

    def run(self, *arguments):
        """The same, and wait for its end."""
        with self.start(*arguments) as process:
            return process.wait(120)

    def link(self, state):
        """Pull the cable ("down"), or put it back ("up")."""
        assert self.command("ip", "link", "set", "cable", state).exit_code == 0


@contextlib.contextmanager
def Cluster(directory):
    """Both hosts, with a volume `shared` on each: a directory of the first, which the other mounts over the net."""
    os.makedirs(f"{directory}/files")
    with contextlib.ExitStack() as stack:
        one = Host(stack, "10.6.0.1", f"{directory}/one")
        other = Host(stack, "10.6.0.2", f"{directory}/other")
        ends = ["name", "cable", "netns", str(one.keeper.pid)], ["name", "cable", "netns", str(other.keeper.pid)]
        assert run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], env={"PATH": PATH}).exit_code == 0
        for host in (one, other):
            host.command("ip", "address", "add", f"{host.address}/24", "dev", "cable")
            host.link("up")
        stack.enter_context(ssh_server(one, directory))
        one.volume("shared", type="none", o="bind", device=f"{directory}/files")
        other.volume("shared", type="fuse.sshfs", o=SSHFS.format(directory), device=f"root@10.6.0.1:{directory}/files")
        yield one, other


@contextlib.contextmanager
def ssh_server(host, directory):
    """sshd, in a mount namespace with a /run of its own, where it wants a directory."""
    for name in ("key", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/{name}"])
    with open(f"{directory}/host_key.pub") as public, open(f"{directory}/known_hosts", "w") as known:
        known.write(f"{host.address} {public.read()}")
    with open(f"{directory}/sshd.conf", "w") as config:
        config.write(SSHD.format(directory))
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    script = f"mount -t tmpfs none /run && mkdir /run/sshd && exec {sshd} -D -e -f {directory}/sshd.conf"
    with start(["sh", "-c", script], host.here(), Namespaces("mount pid"), env={"PATH": PATH}) as server:
        deadline = time.monotonic() + 30
        listening = ["sh", "-c", "ss -Hltn | grep -q 10.6.0.1:22"]
        while host.command(*listening).exit_code:
            if not server.alive() or time.monotonic() > deadline:
                server.kill()
                raise ConnectionError(f"sshd does not listen: {server.wait().stderr}")
            time.sleep(0.05)
        yield
