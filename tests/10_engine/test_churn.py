"""Churn: random verbs, against a model that says what each does; and from several clients at once. Nothing leaks."""

import os
import random
import subprocess
import threading
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from minidocker.engine import records
from tests.helpers import until
from tests.helpers.engine import begun, clean, left
from tests.helpers.images import minidocker

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")]
NAMES = st.sampled_from(["x", "y", "z"])  # no hexadecimal digits: "b" may be the beginning of an ID
STEPS = int(os.environ.get("MINIDOCKER_STEPS", "30"))
LOOP = "trap 'exit 3' TERM; while :; do sleep 0.02; done"


def test_a_model_and_the_engine_agree(home, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))

    class Day(RuleBasedStateMachine):
        """name -> "created", "running", "paused" or "exited"."""

        def __init__(self):
            super().__init__()
            self.known = {}

        def verb(self, *words, works):
            answer = minidocker(home, *words)
            assert (answer.returncode == 0) == works, (words, self.known, answer)
            assert answer.stderr.count("\n") == (not works), answer.stderr
            assert {record.name: record.state()["status"] for record in records.records()} == self.known | self.after
            return answer

        def does(self, name, *words, was, becomes):
            """The verb works if the container is one of these; then it becomes so, or is no more."""
            works = self.known.get(name) in was
            self.after = {}
            if works:
                self.known[name] = becomes or self.known[name]
                if becomes == "gone":
                    del self.known[name]
            return self.verb(*words, works=works)

        @rule(name=NAMES)
        def create(self, name):
            self.does(name, "create", "--name", name, "busybox", "sh", "-c", LOOP, was=[None], becomes="created")

        @rule(name=NAMES)
        def run(self, name):
            words = ["run", "-d", "--name", name, "-v", "/data", "busybox", "sh", "-c", LOOP]
            self.does(name, *words, was=[None], becomes="running")

        @rule(name=NAMES)
        def start(self, name):
            becomes = "paused" if self.known.get(name) == "paused" else "running"
            self.does(name, "start", name, was=["created", "exited", "running", "paused"], becomes=becomes)

        @rule(name=NAMES)
        def stop(self, name):
            was = self.known.get(name)
            becomes = {"running": "exited", "paused": "exited"}.get(was)
            self.does(name, "stop", "-t", "0", name, was=["created", "exited", "running", "paused"], becomes=becomes)

        @rule(name=NAMES)
        def kill(self, name):
            self.does(name, "kill", name, was=["running", "paused"], becomes="exited")

        @rule(name=NAMES)
        def restart(self, name):
            self.does(
                name, "restart", "-t", "0", name, was=["created", "exited", "running", "paused"], becomes="running"
            )

        @rule(name=NAMES)
        def pause(self, name):
            self.does(name, "pause", name, was=["running"], becomes="paused")

        @rule(name=NAMES)
        def unpause(self, name):
            self.does(name, "unpause", name, was=["paused"], becomes="running")

        @rule(name=NAMES)
        def remove(self, name):
            self.does(name, "rm", "-v", name, was=["created", "exited"], becomes="gone")

        @rule(name=NAMES)
        def remove_by_force(self, name):
            self.does(name, "rm", "-f", "-v", name, was=["created", "exited", "running", "paused"], becomes="gone") if (
                name in self.known
            ) else None

        @rule(name=NAMES, other=NAMES)
        def rename(self, name, other):
            works = name in self.known and other not in self.known
            self.after = {}
            if works:
                self.known[other] = self.known.pop(name)
            self.verb("rename", name, other, works=works)

        @rule(name=NAMES)
        def execute(self, name):
            works = self.known.get(name) == "running"
            self.after = {}
            self.verb("exec", name, "true", works=works)

        def teardown(self):
            clean(home)
            assert until(lambda: not left(home)), left(home)

    chosen = settings(
        max_examples=4, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Day, settings=chosen)
    minidocker(home, "volume", "prune")
    assert minidocker(home, "volume", "ls", "-q").stdout == ""


def test_several_clients_at_once(home, monkeypatch):
    """Whatever they do to each other: each answer is one line, each state is true, and nothing is left."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    deadline, odd = time.monotonic() + float(os.environ.get("MINIDOCKER_SECONDS", "15")), []

    def client(number):
        chance = random.Random(number)
        while time.monotonic() < deadline:
            name, other = (f"n{chance.randrange(6)}" for _ in range(2))
            words = chance.choice(
                [
                    ["run", "-d", "--name", name, "-v", "/data", "busybox", "sleep", "64"],
                    ["run", "-d", "--rm", "--name", name, "busybox", "true"],
                    ["run", "--rm", "--name", name, "busybox", "true"],
                    ["create", "--name", name, "busybox", "sleep", "64"],
                    ["start", name],
                    ["stop", "-t", "0", name],
                    ["restart", "-t", "0", name],
                    ["rm", "-f", name],
                    ["rename", name, other],
                    ["exec", name, "true"],
                    ["pause", name],
                    ["unpause", name],
                    ["kill", name],
                    ["logs", name],
                    ["prune"],
                ]
            )
            with begun(home, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
                errors = command.communicate(timeout=60)[1]
            if command.returncode not in (0, 1, 125, 137) or "foresaw" in errors or "Traceback" in errors:
                odd.append((words, command.returncode, errors))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(5)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert not odd, odd[:5]
    found = records.records()
    assert len({record.name for record in found}) == len(found)
    for record in found:
        assert records.find(record.name).id == record.id
    names = [record.name for record in found]
    if names:
        answer = minidocker(home, "rm", "-f", *names)
        assert answer.returncode == 0, answer.stderr
    minidocker(home, "prune")
    assert until(lambda: not left(home)), left(home)
