"""Chapter 10: what is known of a container, its name, and who may have it. Half of a record stops nobody."""

import json
import os
import subprocess
import sys
import time

import pytest

from minidocker import state
from minidocker.engine import records
from minidocker.engine.records import Record
from minidocker.outcome import ContainerError
from tests.helpers import REPO, until
from tests.helpers.images import minidocker, refused

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")]
HOSTILE = ["../x", "a/b", ".", "..", "-x", "_x", "x y", "ü", "x\n", "a" * 300, "$(id)", "x\0y"]


@pytest.fixture
def layer(own_home):
    (own_home / "layer").mkdir(parents=True)
    return str(own_home / "layer")


def made(layer, name="", **config):
    """A record that was never started."""
    return records.create({"options": {"rm": False}, "image_id": "sha256:" + "0" * 64, **config}, layer, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_and_leaves_nothing(name, layer, own_home):
    refused(made, layer, name)
    record = made(layer, "good")
    refused(records.rename, record, name)
    with pytest.raises(records.NoSuchContainer):
        records.find(name)
    assert os.listdir(own_home / "names") == ["good"]
    assert os.listdir(own_home / "records") == [record.id]


@pytest.mark.parametrize("word", ["", *HOSTILE, "zz", "0" * 65])
def test_a_hostile_word_finds_nothing(word, layer):
    made(layer, "one")
    with pytest.raises(records.NoSuchContainer):
        records.find(word)


def test_a_name_belongs_to_one(layer):
    first, second = made(layer, "web"), made(layer, "db")
    assert "in use" in refused(made, layer, "web")
    assert "in use" in refused(records.rename, second, "web")
    records.rename(first, "old")
    records.rename(second, "web")
    assert records.find("web").id == second.id and records.find("old").id == first.id
    assert records.find(first.short).id == first.id == records.find(first.id).id


def test_an_id_that_means_two_is_no_id(layer, monkeypatch):
    same = iter(["aa" + "0" * 62, "aa" + "1" * 62])
    monkeypatch.setattr(records.os, "urandom", lambda size: bytes.fromhex(next(same)) if size == 32 else bytes(size))
    made(layer)
    made(layer)
    assert "2 containers" in refused(records.find, "aa")


def test_a_name_whose_record_is_gone_is_free(layer, own_home):
    """Its maker was killed before the record was there, or its remover after."""
    os.makedirs(own_home / "names")
    os.symlink("../records/" + "0" * 64, own_home / "names/web")
    with pytest.raises(records.NoSuchContainer):
        records.find("web")
    assert made(layer, "web").id == records.find("web").id


def test_a_rename_that_was_cut_off_leaves_one_name(layer, own_home):
    """Before config.json says so, the new name is free; after, the old one."""
    record = made(layer, "old")
    os.symlink(f"../records/{record.id}", own_home / "names/new")
    with pytest.raises(records.NoSuchContainer):
        records.find("new")
    other = made(layer, "new")
    record.write("config", record.config | {"name": "third"})
    os.symlink(f"../records/{record.id}", own_home / "names/third")
    assert records.find("third").id == record.id and records.find("new").id == other.id
    assert made(layer, "old").id == records.find("old").id


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"status": "run'])
def test_half_a_state_is_no_state(text, layer):
    record = made(layer)
    with open(f"{record.path}/state.json", "w") as file:
        file.write(text)
    assert record.state()["status"] == "created"


@pytest.mark.parametrize("text", ["", "{", "null", "[]", None])
def test_a_record_that_cannot_be_read_does_not_hide_the_others(text, layer):
    bad, good = made(layer, "bad"), made(layer, "good")
    if text is None:
        os.unlink(f"{bad.path}/config.json")
    else:
        with open(f"{bad.path}/config.json", "w") as file:
            file.write(text)
    assert [record.id for record in records.records()] == [good.id]
    records.prune()
    assert os.path.isdir(bad.path), "what a person may mend stays"
    assert "config.json" in refused(lambda: Record(bad.id).config)


def test_prune_removes_what_leads_nowhere(layer, own_home):
    record = made(layer, "kept", volumes=["pages"])
    for path in ("records/" + "1" * 64 + ".new", "records/" + "2" * 64 + ".removed/upper/x"):
        os.makedirs(own_home / path)
    os.symlink("nowhere", own_home / "names/gone")
    os.makedirs(own_home / "uses/volume")
    os.symlink("nowhere", own_home / "uses/volume/x")
    removing = own_home / ("records/" + "3" * 64 + ".removed")
    removing.mkdir()
    lock = state.hold(str(removing))
    try:
        records.prune()
    finally:
        os.close(lock)
    assert sorted(os.listdir(own_home / "records")) == sorted([record.id, removing.name])
    assert os.listdir(own_home / "names") == ["kept"]
    assert sorted(os.listdir(own_home / "uses")) == ["0" * 64, "pages"]
    assert state.wanted("pages") == [record.id]
    records.prune()
    records.delete(record, records.lock(record))
    assert [os.listdir(own_home / place) for place in ("records", "names", "uses")] == [[], [], []]


def test_a_state_is_written_on_a_full_disk(layer, monkeypatch):
    record = made(layer)
    record.write("state", {"status": "running", "pid": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.state, "replace", full)
    record.write("state", {"status": "exited"})
    assert record.state()["status"] == "exited"
    with pytest.raises(OSError):
        record.write("config", {})


def test_who_looks_at_a_thousand_takes_no_lock_of_one_that_does_not_run(layer, monkeypatch):
    for _ in range(50):
        made(layer)
    locked, read = [], []
    monkeypatch.setattr(records.state, "hold", lambda path, **_: locked.append(path))
    original = records._read
    monkeypatch.setattr(records, "_read", lambda path: read.append(path) or original(path))
    found = records.records()
    assert len(found) == 50 and len(read) == 50
    assert {record.name for record in found} and {record.state()["status"] for record in found} == {"created"}
    assert len(read) == 100 and not locked


def test_many_at_once_get_one_name(home, tmp_path):
    """Of twelve that want it, one has it, and eleven are told."""
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    words = [sys.executable, "-m", "minidocker", "create", "--name", "wanted", "busybox", "true"]
    several = [subprocess.Popen(words, env=env, stdout=-1, stderr=-1, text=True) for _ in range(12)]
    answers = [(one.communicate(), one.returncode) for one in several]
    assert sorted(code for _, code in answers) == [0] + [1] * 11
    assert all("in use" in errors for (_, errors), code in answers if code)
    assert minidocker(home, "rm", "wanted").stdout == "wanted\n"
    assert not any(os.listdir(home / place) for place in ("records", "names", "uses"))


def test_a_container_in_the_foreground_is_seen(home):
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    words = [sys.executable, "-m", "minidocker", "run", "--rm", "--name", "front", "busybox", "sh", "-c"]
    with subprocess.Popen([*words, "echo ready; sleep 60"], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert until(lambda: minidocker(home, "exec", "front", "hostname").stdout == "front\n")
        for verb in ("run", "create"):
            assert "in use" in minidocker(home, verb, "--name", "front", "busybox", "true").stderr
        assert minidocker(home, "pause", "front").returncode == 0
        assert minidocker(home, "exec", "front", "true").returncode == 125
        assert minidocker(home, "unpause", "fro").stdout == "fro\n"
        for verb, *more in (("rename", "other"), ("wait",), ("attach",), ("rm",)):
            answer = minidocker(home, verb, "front", *more)
            assert answer.returncode == 1 and answer.stderr.count("\n") == 1 and not answer.stdout, verb
        assert minidocker(home, "stop", "-t", "0", "front").stdout == "front\n"
        assert process.wait(10) == 137
    assert minidocker(home, "stop", "front").returncode == 1
    assert not os.listdir(home / "containers")
    minidocker(home, "prune")
    assert os.listdir(home / "names") == []


def test_the_name_of_a_container_that_stays_is_not_given_away(home):
    minidocker(home, "create", "--name", "stays", "busybox", "true")
    answer = minidocker(home, "run", "--rm", "--name", "stays", "busybox", "true")
    assert answer.returncode == 125 and "in use" in answer.stderr
    assert os.listdir(home / "containers") == []
    minidocker(home, "rm", "stays")
    assert minidocker(home, "run", "--rm", "--name", "stays", "busybox", "echo", "hi").stdout == "hi\n"


def test_a_killed_foreground_command_is_not_seen(home):
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    words = [sys.executable, "-m", "minidocker", "run", "--rm", "--name", "victim", "busybox", "sleep", "60"]
    with subprocess.Popen(words, env=env) as process:
        assert until(lambda: os.path.exists(home / "containers/victim/running"))
        process.kill()
    assert "no such container" in minidocker(home, "stop", "victim").stderr
    started = time.time()
    made = minidocker(home, "create", "--name", "victim", "busybox", "true")
    assert made.returncode == 0, made.stderr
    assert json.loads((home / "records" / made.stdout.strip() / "config.json").read_text())["name"] == "victim"
    assert time.time() - started < 10
    minidocker(home, "rm", "victim")
    minidocker(home, "prune")


def test_an_error_names_what_was_asked(home):
    for verb in ("start", "stop", "rm", "kill", "logs", "exec", "wait", "pause", "attach"):
        answer = minidocker(home, verb, "nobody", *(["true"] if verb == "exec" else []))
        assert "nobody" in answer.stderr and answer.stderr.count("\n") == 1, verb
    with pytest.raises(ContainerError):
        records.find("nobody")
