"""Check an exercise of chapter 2: python3 chapters/02_namespaces/exercises/check.py NUMBER [FILE]."""

import os
import random
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.namespaces import Join, Namespaces
from minidocker.process import Process, run, start
from minidocker.rootfs import PivotRoot

ROOT = os.path.join(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"), "roots/busybox")
ASK = ["busybox", "sh", "-c", "until busybox nc 127.0.0.1 8080; do sleep 0.1; done"]


def check_1(module):
    """Two servers on one port, each with its own answer, which nobody could know before."""
    words = [os.urandom(4).hex() for _ in range(2)]
    servers = [module.server(word) for word in words]
    assert all(isinstance(server, Process) for server in servers), "return the Process that `start` returns"
    try:
        for word, server in zip(words, servers, strict=True):
            answer = run(ASK, Join(server.pid, "net"), timeout=10).stdout.strip()
            assert answer == word, f"the server for {word} answers {answer!r}: is it alone in its network namespace?"
    finally:
        for server in servers:
            server.kill()
            server.wait()


def check_2(module):
    """The owner outside of a file that root made inside."""
    first = random.randint(100_000, 900_000)
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        inside = module.make_file(f"{place}/file", first)
        assert os.path.exists(f"{place}/file"), "there is no file"
        owner = os.stat(f"{place}/file").st_uid
        assert owner == first, f"outside its owner is {owner}, and should be {first}: who is root inside?"
    assert inside == 0, f"inside the owner is {inside}: look from inside, too"


def check_3(module):
    """All of a script runs, and its shell is process 1 of a namespace of its own."""
    word = os.urandom(4).hex()
    script = f"echo $$; ls / >/dev/null && ls / >/dev/null && echo {word}"
    done = subprocess.run(module.mended(script), capture_output=True, text=True)
    assert done.stdout.endswith(f"{word}\n"), f"the shell says: {done.stderr.strip()!r}. Who is the first child?"
    assert done.stdout.startswith("1\n"), f"the shell is process {done.stdout.split()[0]}, not 1"


def check_4(module):
    """From inside, process 1 is protected from signals that it has no handler for; from outside it is not."""
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    cases = random.sample([(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGUSR1, False)], 3)
    for number, lives in cases:
        with start(["sh", "-c", script], Namespaces("pid mount"), PivotRoot(ROOT)) as process:
            next(process.lines())
            found = module.from_inside(process, int(number))
            assert found is lives, f"{number.name}, from inside: does it live? You say {found}, and it is {lives}"
            assert process.alive() is lives, f"{number.name}: it {'lives' if process.alive() else 'does not live'}"
            if not lives:
                assert process.wait().exit_code == 7, "it ended, but not by the signal that you were to send"
                continue
            code = module.from_outside(process)
            assert code == 137, f"from outside it ended with {code}: a signal is 128 and its number"
            assert not process.alive(), "it still lives"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
