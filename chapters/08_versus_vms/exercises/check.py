"""Check an exercise of chapter 8: python chapters/08_versus_vms/exercises/check.py NUMBER [FILE]."""

import os
import random
import resource
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../.."), os.path.join(HERE, "..")]

import exercise

from bench.demand import REQUEST, Front
from minidocker.process import run


def check_1(module):
    """A machine that gets ten times as slow on the way, and hiccups; ours needs half of what theirs needs."""
    calls = []

    def subject(name, seconds):
        def measured():
            calls.append(name)
            number = calls.count(name)
            hiccup = 50 if number == 1 or number % 7 == 0 else 1
            return seconds * hiccup * (10 if len(calls) > 40 else 1)

        return measured

    ratio = module.compare(subject("ours", 1.0), subject("theirs", 2.0), 31)
    assert calls.count("ours") == calls.count("theirs") >= 31, "call each of them `rounds` times"
    assert 0.45 < ratio < 0.55, f"the ratio is {ratio:.2f}, and is 0.50: do both runs of a ratio see the same machine?"


def check_2(module):
    """Two trees with one large file in common, one that is a hard link already, and a symbolic link."""
    times = random.randint(20_000, 60_000)
    with tempfile.TemporaryDirectory() as place:
        for name in ("monday", "friday"):
            os.makedirs(f"{place}/{name}/lib")
            with open(f"{place}/{name}/lib/large", "wb") as file:
                file.write(b"the same on both days" * times)
            with open(f"{place}/{name}/lib/version", "w") as file:
                file.write(name)
        os.link(f"{place}/monday/lib/large", f"{place}/monday/large")
        os.symlink("lib/large", f"{place}/friday/link")
        expected = os.stat(f"{place}/friday/lib/large").st_blocks * 512
        found = module.twice([f"{place}/monday", f"{place}/friday"])
        assert found == expected, f"{found} bytes, and one copy of the large file is {expected}"
        assert module.twice([f"{place}/monday"]) == 0, "a hard link is no second copy"


def ask(port):
    """The body of the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST)
        return b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")[2].decode().split()


def check_3(module):
    """Each answer comes from a container in which nobody was before."""
    with Front(module.serve) as front:
        for _ in range(3):
            body = ask(front.port)
            assert body[:1] == ["demand"], f"its host is called {body[:1]}: Namespaces has a hostname"
            assert body[1] == "1", f"{body[1]} files in /tmp: is it above an upper directory of its own, made for it?"
            assert int(body[2]) < 10, f"its shell is process {body[2]}: give it a PID namespace"


def check_4(module):
    """Within a process that may have few files open, so that nothing else gives way. A shell looks on."""
    run(["true"])  # from the first start on, the engine has a watcher, and a socket to it
    children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    before = {*open(children).read().split()}
    with tempfile.TemporaryFile() as seen:
        looker = subprocess.Popen(["sh", "-c", f"while cat {children}; do echo; sleep 0.01; done"], stdout=seen)
        files = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        try:
            number, text = module.until_it_breaks()
        finally:
            looker.kill()
            looker.wait()
        seen.seek(0)
        most = max(len(line.split()) for line in seen) - len(before) - 1
        assert len(os.listdir("/proc/self/fd")) == files, "something is still open: wait for each that you killed"
    assert number > 3 and text, "start more of them, and say what stopped you"
    assert number - 3 <= most, f"you say that {number} ran at once, and there were never more than {most}"
    left = {*open(children).read().split()} - before
    assert not left, f"{len(left)} are still running"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
