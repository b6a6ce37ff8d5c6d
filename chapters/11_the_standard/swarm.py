"""Two hosts, a swarm of Docker engines on them, and files for both: the cluster of chapter 11's lab.

    with Cluster(runtime) as cluster:       # runtime(machine) is the path of the runtime there
        cluster.serve(replicas=6)
        with cluster.visited():             # somebody asks the service again and again
            cluster.pass_time(5)
            cluster.hosts[1].off()          # a power cut
            cluster.until(lambda: cluster.replicas()[0] == 6)
        cluster.requests, cluster.samples   # for the plot

A third machine is the switch between them, and has the files, by chapter 6's network file system. The first host is the
swarm's manager. Each answer of the service names the host, the replica, its version, and the page in the volume.
"""

import contextlib
import tempfile
import time

from cluster import SSHD, SSHFS
from machines import ENV, Machine, docker, until, write

from minidocker import process

KEYS, SHARED = "/run/keys", "/run/shared"
ANSWER = "#!/bin/sh\necho; echo $(hostname) $VERSION $(cat /shared/page)"
SERVE = f"mkdir -p /www/cgi-bin; cd /www/cgi-bin; echo '{ANSWER}' >ask; chmod +x ask; exec httpd -f -h /www"
# What asks: when, and what came, or nothing within a second
ASK = r"""
while :; do
    at=$(cut -d' ' -f1 /proc/uptime)
    echo $at $(timeout 1 wget -qO- http://web/cgi-bin/ask 2>/dev/null || echo lost)
    sleep 0.05
done
"""


def now():
    """The clock of /proc/uptime."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Cluster:
    """`hosts`, the `clients` of their engines, `files`: the third machine; `samples` and `requests` for the plot."""

    def __init__(self, runtime):
        self.runtime, self.samples, self.requests, self.visitor = runtime, [], [], None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.files = stack.enter_context(Machine("files"))
            self.hosts = [stack.enter_context(Machine(f"host{number}")) for number in (1, 2)]
            self._wire()
            self._share()
            self.clients = [stack.enter_context(docker(host, self.runtime(host))) for host in self.hosts]
            self._join()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        for machine in (*self.hosts, self.files):  # no daemon is asked to end in order
            machine.off()
        self.stack.close()

    def _wire(self):
        """A bridge, and a cable from it to each host."""
        files = str(self.files.pid)
        self.files.do("sh", "-c", "ip link add lan type bridge; ip link set lan up; ip addr add 10.6.0.1/24 dev lan")
        for number, host in enumerate(self.hosts, 1):
            cable = ["ip", "link", "add", "eth0", "netns", str(host.pid), "type", "veth"]
            process.run([*cable, "peer", f"host{number}", "netns", files], env=ENV)
            self.files.do("ip", "link", "set", f"host{number}", "master", "lan", "up")
            host.do("sh", "-c", f"ip addr add 10.6.0.1{number}/24 dev eth0; ip link set eth0 up")

    def _share(self):
        """sshd on the one, sshfs on the others, with keys for this: chapter 6."""
        self.files.do("mkdir", "/run/sshd", KEYS, SHARED)
        for name in ("key", "host_key"):
            self.files.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{KEYS}/{name}")
        self.page("the page in the volume")
        config = write(self.files, "/run/sshd.conf", SSHD.format(KEYS))
        self.files.spawn("/usr/sbin/sshd", "-D", "-e", "-f", config)
        until(lambda: self.files.command("sh", "-c", "ss -Hltn | grep -q 10.6.0.1:22").exit_code == 0)
        key, public = (self.files.do("cat", f"{KEYS}/{name}") for name in ("key", "host_key.pub"))
        for host in self.hosts:
            host.do("mkdir", "-m", "700", KEYS, SHARED)
            write(host, f"{KEYS}/key", f"{key}\n")
            host.do("chmod", "600", f"{KEYS}/key")
            write(host, f"{KEYS}/known_hosts", f"10.6.0.1 {public}\n")
            host.spawn("sshfs", "-f", "-o", SSHFS.format(KEYS), f"root@10.6.0.1:{SHARED}", SHARED)
            until(lambda host=host: host.command("mountpoint", "-q", SHARED).exit_code == 0)

    def page(self, text):
        """Write the page: on the machine that has the files."""
        write(self.files, f"{SHARED}/page", f"{text}\n")

    def _join(self):
        """The swarm, which notices a dead host after three heartbeats; and a network over both hosts."""
        self.docker("swarm", "init", "--advertise-addr=10.6.0.11", "--dispatcher-heartbeat=2s")
        token = self.docker("swarm", "join-token", "-q", "worker")
        self.docker("swarm", "join", "--token", token, "10.6.0.11:2377", host=1)
        self.docker("network", "create", "-d", "overlay", "--attachable", "shop")

    def docker(self, *words, host=0):
        """What a command of Docker prints."""
        return self.hosts[host].do(*self.clients[host], *words)

    def serve(self, replicas=6):
        """The service. This kernel may have no IPVS, and so no virtual address: DNS names each replica in turn."""
        words = ["--name=web", f"--replicas={replicas}", "--network=shop", "--endpoint-mode=dnsrr", "--env=VERSION=1"]
        words += [f"--mount=type=bind,source={SHARED},target=/shared", "--hostname={{.Node.Hostname}}-{{.Task.Slot}}"]
        words += ["--no-resolve-image", "--detach", "--stop-grace-period=1s", "--update-order=start-first"]
        self.docker("service", "create", *words, "--update-delay=1s", "busybox", "sh", "-c", SERVE)
        return self.until(lambda: sum(self.replicas()) == replicas)

    def update(self, parallelism=2, **environment):
        """Replace the replicas, so many at a time, by some with another environment; whether it came to an end."""
        words = [f"--env-add={name}={value}" for name, value in environment.items()]
        self.docker("service", "update", "--detach", f"--update-parallelism={parallelism}", *words, "web")
        state = ["service", "inspect", "--format={{.UpdateStatus.State}}", "web"]
        return self.until(lambda: self.docker(*state) == "completed")

    def replicas(self):
        """How many run on each host: a machine without power has none."""
        ps = ["ps", "-q", "--filter=label=com.docker.swarm.service.name=web"]
        alive = [host.keeper.alive() for host in self.hosts]
        return [len(self.docker(*ps, host=n).split()) if alive[n] else 0 for n in range(len(alive))]

    def until(self, condition, seconds=110):
        """Wait, and note meanwhile how many replicas there are."""
        deadline = now() + seconds
        while not (answer := condition()) and now() < deadline:
            self.pass_time(0.5)
        return answer

    def pass_time(self, seconds):
        """Note how many replicas there are, now and at the end."""
        deadline = now() + seconds
        while True:
            self.samples.append((now(), *self.replicas()))
            if now() > deadline:
                return
            time.sleep(0.2)

    @contextlib.contextmanager
    def visited(self):
        """A container on the first host asks the service all the time; `requests` are (when, what came)."""
        words = ["run", "--rm", "--name=visitor", "--network=shop", "busybox", "sh", "-c", ASK]
        with tempfile.TemporaryFile("w+") as answers:
            self.hosts[0].spawn(*self.clients[0], *words, stdout=answers.fileno())
            try:
                yield
            finally:
                self.docker("rm", "-f", "visitor")
            answers.seek(0)
            lines = answers.read().splitlines()
            self.requests += [(float(at), what) for at, _, what in (line.partition(" ") for line in lines)]
