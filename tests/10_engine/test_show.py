"""Chapter 10, the verbs that show containers: alone, and beside Docker and Podman, which show the same."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from minidocker.cli.lists import duration
from minidocker.engine import watch
from tests.helpers import BARE, REPO, python, until
from tests.helpers.images import minidocker

pytestmark = pytest.mark.chapter(10)
MADE = [  # in this order: what is compared needs one of each kind
    "run -d --name web -m 64m --cpus 0.5 -v data:/data -v /tmp:/x:ro -l tier=front -l a=b -e A=1 bench sleep 99",
    "run --name dead --entrypoint sh --cap-add NET_ADMIN --cap-drop chown bench -c 'exit 3'",
    "create --name made --restart on-failure:3 --read-only --tmpfs /run bench echo a long command with 'some words'",
]


@pytest.fixture(scope="module")
def shown(home):
    """The three of them, and what asks for them."""

    def ask(*words, fails=0):
        done = minidocker(home, *words)
        assert done.returncode == fails, done.stderr + done.stdout
        return done.stderr if fails else done.stdout

    minidocker(home, "tag", "busybox", "bench")
    for line in MADE:
        words = line.replace("'exit 3'", "exit_3").replace("'some words'", "some_words").split()
        words = [word.replace("_", " ") if word in ("exit_3", "some_words") else word for word in words]
        minidocker(home, words[0], "--network", "none", *words[1:])
    yield ask
    minidocker(home, "rm", "-f", "web", "dead", "made")


def plain(text):
    """Without what differs each time: IDs, ages, process numbers, figures."""
    text = re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"(Less than a second|About a minute|\d+ (second|minute)s?)( ago)?", "AGE", text)
    return re.sub(r" {2,}", "  ", text)


# Alone


def test_ps_shows_those_that_run_and_with_a_all(shown):
    assert plain(shown("ps")) == (
        'CONTAINER ID  IMAGE  COMMAND  CREATED  STATUS  PORTS  NAMES\nID  bench  "sleep 99"  AGE  Up AGE  web\n'
    )
    lines = plain(shown("ps", "-a")).splitlines()[1:]
    assert lines == [
        'ID  bench  "echo a long command…"  AGE  Created  made',
        "ID  bench  \"sh -c 'exit 3'\"  AGE  Exited (3) AGE  dead",
        'ID  bench  "sleep 99"  AGE  Up AGE  web',
    ]
    assert len(shown("ps", "-aq").split()) == 3 and len(shown("ps", "-q", "--no-trunc").strip()) == 64
    assert "with 'some words'" in shown("ps", "-a", "--no-trunc")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("-l", "made"),
        ("-n 2", "made dead"),
        ("-f name=^de -a", "dead"),
        ("-f label=tier", "web"),
        ("-f label=tier=back", ""),
        ("-f status=exited", "dead"),
        ("-f status=exited -f status=created", "made dead"),
        ("-a -f exited=3", "dead"),
        ("-a -f exited=0", ""),
        ("-a -f ancestor=busybox", "made dead web"),
        ("-a -f ancestor=nothing", ""),
        ("-a -f since=web", "made dead"),
        ("-a -f before=dead", "web"),
        ("-a -f volume=data", "web"),
        ("-a -f volume=/x", "web"),
        ("-a -f network=bridge", ""),
    ],
)
def test_ps_takes_filters(shown, options, names):
    assert shown("ps", *options.split(), "--format", "{{.Names}}").split() == names.split()


def test_a_pause_is_seen_and_whether_a_start_is_tried_again(shown, home):
    shown("pause", "web")
    assert "(Paused)" in shown("ps") and json.loads(shown("inspect", "web"))[0]["State"]["Paused"]
    shown("unpause", "web")
    shown("run", "-d", "--network", "none", "--name", "again", "--restart", "always", "bench", "sh", "-c", "exit 4")
    assert until(lambda: "Restarting (4)" in shown("ps", "-f", "name=again"))
    assert until(lambda: shown("inspect", "-f", "{{.State.Restarting}}", "again") == "true\n")  # it starts in between
    assert shown("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "again") == "always\n"
    shown("rm", "-f", "again")


def test_an_image_that_was_called_by_its_id_is_shown_short(shown):
    full = shown("inspect", "-f", "{{.Id}}", "bench").strip()
    plain = full.removeprefix("sha256:")
    for word, says in ((full, plain[:12]), (plain[:20], plain[:12]), (plain[:8], plain[:8])):
        shown("create", "--name", "it", "--network", "none", word)
        assert shown("ps", "-l", "--format", "{{.Image}}").strip() == says
        assert shown("ps", "-l", "--no-trunc", "--format", "{{.Image}}").strip() == word
        shown("rm", "it")


def test_inspect_takes_containers_images_and_volumes_together(shown):
    web, image, volume = json.loads(shown("inspect", "web", "bench", "data"))
    assert (web["Name"], web["Image"], web["Config"]["Image"]) == ("/web", image["Id"], "bench")
    assert web["Mounts"][0]["Source"] == volume["Mountpoint"] and web["HostConfig"]["Memory"] == 64 << 20
    assert web["State"]["Pid"] and os.path.exists(web["LogPath"])
    assert shown("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "dead", "made").split() == [
        "exited",
        "3",
        "created",
        "0",
    ]
    assert "SizeRw" in json.loads(shown("inspect", "-s", "web"))[0] and "SizeRw" not in web
    assert "no such" in shown("inspect", "nobody", "web", fails=1)
    assert "no such" in shown("inspect", "--type", "container", "bench", fails=1)


def test_top_shows_the_processes_with_the_options_of_ps(shown):
    titles, line = shown("top", "web").splitlines()
    assert titles.split()[0] == "UID" and line.endswith("sleep 99")
    assert shown("top", "web", "-o", "pid,comm").split()[::3] == ["PID", "sleep"]
    shown("exec", "-d", "web", "sleep", "55")
    assert until(lambda: "sleep 55" in shown("top", "web")), shown("top", "web")
    assert "no column PID" in shown("top", "web", "-o", "comm", fails=1)
    assert "not running" in shown("top", "dead", fails=1)


def test_stats_show_what_is_used_and_of_how_much(shown):
    row = json.loads(shown("stats", "--no-stream", "--format", "{{json .}}", "web"))
    assert row["MemUsage"].endswith("/ 64MiB") and 0 < float(row["MemPerc"][:-1]) < 50
    assert row["NetIO"] == "0B / 0B" and int(row["PIDs"]) >= 1
    rows = shown("stats", "--no-stream", "-a", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
    assert [row.split()[0] for row in rows] == ["made", "dead", "web"] and rows[1] == "dead 0B / 0B"


def test_a_hog_uses_the_share_that_it_may(shown):
    shown(
        "run", "-d", "--network", "none", "--name", "hog", "--cpus", "0.2", "bench", "sh", "-c", "while :; do :; done"
    )
    share = float(shown("stats", "--no-stream", "--format", "{{.CPUPerc}}", "hog").strip("%\n"))
    shown("rm", "-f", "hog")
    assert 5 < share < 40


def test_events_are_told_and_followed(shown, home):
    began = watch.now()
    command = [sys.executable, "-m", "minidocker", "events", "--format", "{{.Action}} {{.Actor.Attributes.name}}"]
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [*command, "-f", "container=short"], env=environment, stdout=subprocess.PIPE, text=True
    ) as follower:
        time.sleep(0.5)
        shown("run", "--network", "none", "--name", "short", "-l", "tier=back", "bench", "true")
        shown("rm", "short")
        seen = [follower.stdout.readline().split() for _ in range(4)]
        follower.send_signal(signal.SIGINT)
    assert [words[0] for words in seen] == ["create", "start", "die", "destroy"]
    lines = shown("events", "--since", began, "--until", "0s").splitlines()
    assert re.fullmatch(r"\S+Z container die [0-9a-f]{64} \(exitCode=0, image=bench, name=short, tier=back\)", lines[2])
    dead = json.loads(
        shown(
            "events", "--since", began, "--until", "0s", "-f", "event=die", "-f", "label=tier", "--format", "{{json .}}"
        )
    )
    assert dead["from"] == "bench" and dead["timeNano"] // 10**9 == dead["time"]


def test_the_disk_and_the_counts_know_them(shown):
    assert "Containers 3" in shown("system", "df", "--format", "{{.Type}} {{.TotalCount}}")
    assert shown("info", "-f", "{{.ContainersRunning}} {{.ContainersStopped}}") == "1 2\n"


def test_half_an_event_that_a_power_cut_left_is_passed_over(own_home):
    own_home.mkdir()
    (own_home / "events").write_text('{"time": "2\n')
    watch.tell("start", {"id": "1", "name": "one"})
    assert [event["action"] for event in watch.told(watch.now())] == ["start"]


def test_events_have_a_bound_and_who_follows_misses_none(own_home, monkeypatch):
    """Several that tell at once, many files long: a follower hears each once, and the last thousands are kept."""
    monkeypatch.setattr(watch, "EVENTS", 100_000)
    own_home.mkdir()
    watch.tell("begin", {})
    following = watch.told(watch.now(time.time_ns() + 30 * 10**9))
    assert next(following)["action"] == "begin"
    heard, clients = [], [start_telling(str(number)) for number in range(3)]
    while len(heard) < 3 * 1000:
        heard.append(next(following)["action"])
        with contextlib.suppress(FileNotFoundError):  # it is just put aside
            assert sum(path.stat().st_size for path in own_home.glob("events*")) < 2 * 100_000 + 3 * 1000
    for client in clients:
        assert os.waitstatus_to_exitcode(os.waitpid(client, 0)[1]) == 0
    assert sorted(heard) == sorted(f"{who}-{number}" for who in "012" for number in range(1000))
    kept = [event["action"] for event in watch.told(watch.now())]
    assert len(kept) > 500 and [one for one in kept if one.startswith("1-")][-1:] in (["1-999"], [])


def start_telling(who):
    """A process that tells of much, slowly enough for a follower to be less than a file late."""
    if (pid := os.fork()) == 0:
        for number in range(1000):
            watch.tell(f"{who}-{number}", {})
            time.sleep(0.001)
        os._exit(0)
    return pid


def test_a_damaged_record_does_not_keep_the_others_from_being_shown(shown, home):
    path = home / "records" / ("ab" * 32)
    path.mkdir()
    (path / "config.json").write_text('{"id": ')
    try:
        assert shown("ps", "-a", "--format", "{{.Names}}").split() == ["made", "dead", "web"]
    finally:
        (path / "config.json").unlink()
        path.rmdir()


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (0.5, "Less than a second"),
        (1.5, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (150, "2 minutes"),
        (3700, "About an hour"),
        (5500, "2 hours"),
        (47 * 3600, "47 hours"),
        (49 * 3600, "2 days"),
        (20 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (900 * 86400, "2 years"),
    ],
)
def test_a_duration_is_in_dockers_words(ago, words):
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - ago))
    assert duration(f"{stamp}.{int((time.time() - ago) % 1 * 1e6):06}Z") == words


# Beside the others


PEER = """
import json, os, subprocess, sys
from contextlib import nullcontext
from tools.bench.engines import archive, docker_client, on_disk, podman_client
from tools.bench.sandbox import GROUP, ROOT, checked, lab

engine, made, asked = sys.argv[1], *map(json.loads, sys.argv[2:])
clients = {"docker": docker_client, "podman": lambda *places: nullcontext(podman_client(*places))}
with lab() as scratch, on_disk() as data, clients[engine](scratch, data) as client:
    checked([*client, "import", str(archive(scratch, ROOT)), "bench"])
    environment = {**os.environ, "M": " ".join(client), "MORE": f"--network=none --cgroup-parent=/{GROUP}-show"}
    for line in made:
        verb, rest = line.split(" ", 1)
        subprocess.run(["sh", "-c", f"$M {verb} $MORE {rest}"], env=environment, capture_output=True)
    answers = [subprocess.run([*client, *words], capture_output=True, text=True).stdout for words in asked]
    checked([*client, "kill", "web"])
    checked([*client, "rm", "-f", "web", "dead", "made"])
    print(json.dumps(answers))
"""
FORM = r"{{.Names}}\t{{.Command}}\t{{.Status}}\t{{.State}}\t{{.Labels}}\t{{.LocalVolumes}}\t{{.Networks}}"
TABLES = [
    "ps",
    "ps -a",
    "ps -l",
    "ps -n 2",
    "ps -a --no-trunc",
    "ps -a -s",
    "ps -f status=exited",
    "stats --no-stream -a",
]
KEYS = {  # what is compared of `inspect`
    "": "Path Args Name RestartCount",
    "State": "Status Running Paused Restarting OOMKilled Dead ExitCode Error FinishedAt",
    "Config": "User Tty OpenStdin Cmd Image WorkingDir Entrypoint Labels Volumes",
    "HostConfig": "Binds NetworkMode PortBindings RestartPolicy AutoRemove Privileged CapAdd CapDrop Memory NanoCpus"
    " ReadonlyRootfs PublishAllPorts LogConfig ExtraHosts SecurityOpt ContainerIDFile PidsLimit",
}


def facts(document):
    """Of what `inspect` says, what is compared."""
    found = {
        f"{part}.{key}": (document[part] if part else document)[key]
        for part, keys in KEYS.items()
        for key in keys.split()
    }
    found["Mounts"] = sorted((one["Type"], one["Destination"], one["RW"]) for one in document["Mounts"])
    found["Hostname"] = document["Config"]["Hostname"] == document["Id"][:12]
    found["Networks"] = [*document["NetworkSettings"]["Networks"]]
    found["HostConfig.Binds"] = sorted(found["HostConfig.Binds"] or [])
    found["State.FinishedAt"] = found["State.FinishedAt"][:5] == "0001-"
    return found


@pytest.mark.xfail(bool(BARE), reason="the guest has no Docker", run=False)
def test_docker_shows_the_same(shown):
    asked = [["ps", "-a", "--format", FORM], ["inspect", "web", "dead", "made"], ["top", "web", "-o", "pid,user,comm"]]
    asked += [line.split() for line in TABLES]
    rows, documents, top, *tables = json.loads(python(PEER, "docker", json.dumps(MADE), json.dumps(asked)).stdout)
    assert plain(shown(*asked[0])) == plain(rows)
    for ours, theirs in zip(json.loads(shown(*asked[1])), json.loads(documents), strict=True):
        assert facts(ours) == facts(theirs)
        for part in ("State", "Config", "HostConfig", "NetworkSettings"):
            assert {*ours[part]} - {*theirs[part]} <= {"StopSignal", "Init", "Tmpfs", "ExposedPorts"}
        assert {*ours} <= {*theirs}
    titles, *lines = [re.sub(r"\d+", "N", line).split() for line in shown(*asked[2]).splitlines()]
    assert [re.sub(r"\d+", "N", line).split() for line in top.splitlines()] == [
        titles,
        next(line for line in lines if "sleep" in line),
    ]
    for line, theirs in zip(TABLES, tables, strict=True):
        if line.startswith("stats"):
            figure = re.compile(r"[\d.]+(e\+03)?(%|[kMGKTi]*B)|\d+$", re.MULTILINE)
            assert figure.sub("N", plain(shown(*line.split()))) == figure.sub("N", plain(theirs))
        else:
            sizes = r"\d\S* \(virtual \S+\)"  # the images are packed in another way
            assert re.sub(sizes, "SIZE", plain(shown(*line.split()))) == re.sub(sizes, "SIZE", plain(theirs)), line


@pytest.mark.xfail(bool(BARE), reason="the guest has no room for Podman", run=False)
def test_podman_shows_the_same(shown):
    """Where it has Docker's words: it quotes no command, and calls images by other names."""
    form = "{{.Names}}"
    inspect = ["inspect", "--format", "{{json .State.Status}} {{.State.ExitCode}} {{json .Args}} {{json .Config.Cmd}}"]
    asked = [["ps", "-a", "--format", form], [*inspect, "web", "dead", "made"], ["ps", "-q"], ["ps", "-aq"]]
    asked += [["ps", "-a", "-f", "label=tier", "--format", "{{.Names}}"], ["ps", "-f", "status=exited", "-q"]]
    answers = json.loads(python(PEER, "podman", json.dumps(MADE), json.dumps(asked)).stdout)
    for words, theirs in zip(asked, answers, strict=True):
        assert sorted(plain(shown(*words)).splitlines()) == sorted(plain(theirs).splitlines()), words
