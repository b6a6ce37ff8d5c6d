"""Chapter 10: a web site of four services that live on: PostgreSQL, redis, nginx and an application in Python."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.helpers import BARE, HOME, need, until

HERE = Path(__file__).with_name("services")
BASE = (HOME / "made/image-services").exists()
pytestmark = [
    pytest.mark.chapter(10),
    pytest.mark.xfail(bool(BARE) and not BASE, reason="the guest has no room for servers", run=False),
]
START = {
    "db": ["-v", "rows:/var/lib/postgresql/data", "--shm-size", "64m"],
    "cache": ["-v", "visits:/data", "--read-only"],
    "app": ["-m", "128m"],
    "web": ["-p", "127.0.0.1:8080:80", "--tmpfs", "/var/lib/nginx"],
}


@pytest.fixture
def do(host, own_home):
    """The command, on a host of its own whose store has the image of the servers: what it printed."""
    need(BASE, "needs the image of the servers: MINIDOCKER_MUST_WORK=1 sh vagrant/provision.sh")
    command = [sys.executable, "-m", "minidocker"]
    theirs = dict(os.environ, MINIDOCKER_HOME=str(HOME))
    with subprocess.Popen([*command, "save", "services"], stdout=subprocess.PIPE, env=theirs) as saved:
        subprocess.run([*command, "load", "-q"], stdin=saved.stdout, check=True)

    def do(line, *more, fails=0):
        done = subprocess.run([*command, *line.split(), *more], capture_output=True, text=True, timeout=60, cwd=HERE)
        assert done.returncode == fails, (line, done.stdout, done.stderr)
        return done.stdout.strip()

    for target in START:
        do(f"build -q --network none -t {target} --target {target} app")
    do("network create site")
    yield do
    do("rm -f", *do("ps -aq").split())


def up(do, name, image=""):
    do(f"run -d --restart unless-stopped --name {name} --network site", *START[name], image or name)


def visit():
    """What the site says once it answers: (version, visit, rows)."""

    def ask():
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=5) as answer:
                return re.fullmatch(r"version (\d+): visit (\d+), (\d+) rows\n", answer.read().decode())
        except OSError:
            return None

    answer = until(ask, 20)
    assert answer, "the site does not answer"
    return tuple(map(int, answer.groups()))


def kill(do, name):
    """SIGKILL of its first process, as the kernel does when memory is short; it is back when another one runs."""
    pid, template = do(f"inspect -f {{{{.State.Pid}}}} {name}"), "{{.State.Pid}} {{.State.Running}}"
    os.kill(int(pid), signal.SIGKILL)
    assert until(lambda: re.fullmatch(rf"(?!{pid} )[1-9]\d* true", do("inspect", "-f", template, name)), 20)


def test_a_site_of_four_services_lives_through_kills_upgrades_and_a_restore(do, tmp_path):
    for name in ("web", "app", "cache", "db"):  # nginx does not know `app` yet: it ends, and is started again
        up(do, name)
    assert visit() == (1, 1, 1)
    assert int(do("inspect", "-f", "{{.RestartCount}}", "web")) >= 1
    assert do("exec db psql -tA -c", "SELECT number FROM visits") == "1"
    assert do("exec -u 0 cache redis-cli get visits") == "1"
    assert do("port web") == "80/tcp -> 127.0.0.1:8080"

    # Killed, each alone and two at once: nothing that was written is gone
    for number, names in enumerate((["db"], ["cache"], ["app"], ["web"], ["db", "cache"]), 2):
        for name in names:
            kill(do, name)
        if names == ["app"]:
            do("exec web nginx -s reload")  # who starts again has a new address, and nginx asks for it once
        assert visit() == (1, number, number), names
    assert do("logs app").splitlines() == ["ready", "ready"]

    # Upgraded: by a commit of what was changed in the one that runs, then by a build; the others go on
    (tmp_path / "version").write_text("2\n")
    do(f"cp {tmp_path}/version app:/srv")
    do("commit -m second app app:2")
    do("build -q --network none --build-arg VERSION=3 -t app:3 --target app app")
    for version in (2, 3):
        do("stop -t 1 app")
        do(f"rename app app-{version - 1}")
        up(do, "app", f"app:{version}")
        do("exec web nginx -s reload")
        assert visit() == (version, number + version - 1, number + version - 1)
    assert "C /srv/version" in do("diff app-1").splitlines()
    assert do("history app:2").splitlines()[1].endswith("second")
    assert do("exec db psql -tA -c", "SELECT count(*), max(number) FROM visits") == "8|8"

    # Backed up, and restored on a volume of its own; what came after the backup is not in it
    do("stop db")
    assert do("inspect -f {{.State.ExitCode}} db") == "0"
    do(f"cp -a db:/var/lib/postgresql/data {tmp_path}/backup")
    do("start db")
    rows = visit()[2]
    do("rm -f db")
    do("create --name db --network site -v other:/var/lib/postgresql/data db")
    do(f"cp -a {tmp_path}/backup/. db:/var/lib/postgresql/data")
    do("start db")
    assert visit()[2] == rows
