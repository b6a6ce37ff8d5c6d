"""The bench: its statistics on data whose answer is known, its records, and one small real run. No time is asserted."""

import json
import random
import shutil
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import REPO, need
from tools.bench import measure, peers, regression, subjects
from tools.bench import run_bench as bench
from tools.book import figures

MACHINE = {"cpu": "one", "cpus": 1, "memory_gb": 2, "system": "Debian", "kernel": "6.1", "python": "3.11", "crun": "1"}


@pytest.mark.parametrize(
    ("count", "j"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (11, 2), (20, 6), (41, 14), (100, 40)]
)
def test_the_rank_is_that_of_the_published_tables_of_the_sign_test(count, j):
    assert measure.rank(count) == j


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    dice = random.Random(1)
    rounds = 2000
    held = 0
    for _ in range(rounds):
        ours = [dice.lognormvariate(0, 1) for _ in range(41)]  # the true median of the ratios to 1 is 1
        _, low, high = measure.ratio(ours, [1.0] * 41)
        held += low <= 1 <= high
    assert 0.94 < held / rounds < 0.98


def test_a_ratio_is_taken_within_a_round():
    """A machine that gets ten times as slow half-way changes nothing: both runs of a round are slow."""
    ours, theirs = [1.0, 1.0, 10.0, 10.0, 10.0], [4.0, 4.0, 40.0, 40.0, 40.0]
    assert measure.ratio(ours, theirs) == (0.25, 0.25, 0.25)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=60))
def test_the_ratio_is_the_median_and_lies_in_its_interval(values):
    middle, low, high = measure.ratio(values, [1.0] * len(values))
    assert middle == statistics.median(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_rounds_are_interleaved_in_changing_order_and_the_warm_up_is_not_counted():
    calls = []
    clock = iter(range(1000))
    subjects = {name: lambda name=name: calls.append(name) or float(next(clock)) for name in "abc"}
    samples = measure.interleaved(subjects, 8, warm_up=2)
    rounds = [tuple(calls[at : at + 3]) for at in range(0, len(calls), 3)]
    assert len(rounds) == 10 and all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(values) for name, values in samples.items()} == {"a": 8, "b": 8, "c": 8}
    assert min(value for values in samples.values() for value in values) == 6.0


def test_what_takes_long_runs_in_some_rounds_and_its_ratio_is_taken_there():
    calls = iter(range(1000))
    subjects = {"often": lambda: 10.0 * next(calls) + 10, "seldom": lambda: 1.0}
    samples = measure.interleaved(subjects, 7, warm_up=2, rare={"seldom": 3})
    assert samples["seldom"] == [1.0, None, None, 1.0, None, None, 1.0]
    entry = measure.record("vm.x", "often", "seldom", samples, unit="s", machine=MACHINE)
    assert (entry["ratio"], entry["low"], entry["high"], entry["runs"]) == (60.0, 30.0, 90.0, 3)


def check(entry):
    """A record: these fields, in this order, and nothing of the machine's name."""
    assert tuple(entry) == ("id", "subject", "against", "ratio", "low", "high", "runs", "unit", "median", "machine")
    assert entry["subject"] == "minidocker" and entry["unit"] in ("s", "B")
    assert 0 < entry["low"] <= entry["ratio"] <= entry["high"]
    assert entry["median"] > 0 and isinstance(entry["runs"], int)
    assert {"cpu", "cpus", "memory_gb", "system", "kernel", "python"} <= set(entry["machine"])


def test_a_record_and_its_line_in_the_table():
    samples = {"minidocker": [0.005, 0.006, 0.004], "crun": [0.02, 0.02, 0.02]}
    entry = measure.record("start.library", "minidocker", "crun", samples, unit="s", machine=MACHINE)
    check(entry)
    assert (entry["ratio"], entry["low"], entry["high"], entry["runs"]) == (0.25, 0.2, 0.3, 3)
    line = "| start.library | minidocker | crun | 0.25 | 0.2 to 0.3 | 3 | 5 ms |"
    assert measure.table([entry]).splitlines()[-1] == line


def test_the_readme_shows_what_is_recorded_and_nothing_else():
    records = json.loads(bench.RECORDED.read_text())
    for entry in records:
        check(entry)
    text = bench.PAGE.read_text()
    assert bench.recorded(text, records) == text, "make bench RECORD=1 writes both"


def test_a_text_without_the_markers_is_refused():
    with pytest.raises(SystemExit, match="markers"):
        bench.recorded("# README\n", [])


def run_bench(tmp_path, *words):
    """The command, in a process of its own: it leaves the host's mounts and network for good."""
    command = [sys.executable, "-m", "tools.bench.run_bench", f"BUILD={tmp_path}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_an_unknown_id_is_one_line(tmp_path):
    done = run_bench(tmp_path, "ONLY=nothing")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("bench: no id begins with nothing: there are start.library start.stage ")


def test_a_small_real_run_in_a_jupyter_kernel_writes_records_raw_values_and_a_table(tmp_path):
    for name in ("crun", "runc"):
        need(shutil.which(name, path=peers.PATH), f"needs {name}: apt install {name}")
    done = run_bench(tmp_path, "ONLY=start.library", "RUNS=3")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "bench.json").read_text())
    for entry in records:
        check(entry)
        assert entry["id"] == "start.library" and entry["runs"] == 3
    against = [entry["against"] for entry in records]
    assert {"crun", "runc", "process"} <= set(against)
    assert measure.table(records) in done.stdout
    values = measure.read(tmp_path / "bench.csv")
    assert set(against) < set(values["start.end"]) and values["start.end"].keys() == values["start.first_line"].keys()
    for name, ends in values["start.end"].items():
        assert len(ends) == 3
        assert all(0 < line <= end for line, end in zip(values["start.first_line"][name], ends, strict=True))
    assert (tmp_path / "start.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_is_not_installed_is_said_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PATH", str(tmp_path))
    with peers.peers(tmp_path) as commands:
        assert list(commands) == ["process"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines] == [f" no figure against {name}" for name in peers.RUNTIMES]


def test_a_peer_that_does_not_work_is_said_with_its_own_last_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "RUNTIMES", {"broken": ("sh", lambda _: ["sh", "-c", "echo why >&2; exit 3"])})
    with peers.peers(tmp_path, ("broken",)) as commands:
        assert list(commands) == ["process"]
    assert capsys.readouterr().out == "bench: no figure against broken: sh: exit status 3: why\n"


def test_who_crashes_now_and_then_has_no_value_in_that_round_and_the_others_go_on(monkeypatch, capsys):
    monkeypatch.setattr(measure, "lost", [])
    crashes = [subjects.command(["sh", "-c", "kill -ABRT $$"]), subjects.command(["echo", "up"])]
    rounds = iter([1, 0, 1, 1])
    timed = {"other": lambda: (1.0, 1.0), "uml": lambda: crashes[next(rounds)]()}
    samples = measure.interleaved(timed, 4, warm_up=0)
    assert samples["other"] == [(1.0, 1.0)] * 4
    assert [value is None for value in samples["uml"]] == [False, True, False, False]
    assert measure.lost == ["bench: no figure against uml: sh: exit status -6, wrote b''"]
    assert capsys.readouterr().out == measure.lost[0] + "\n"


def test_who_hangs_is_ended_and_after_three_times_left_alone(monkeypatch):
    monkeypatch.setattr(measure, "lost", [])
    monkeypatch.setattr(measure, "PATIENCE", 1)
    sleeps, calls = subjects.command(["sh", "-c", "sleep 1000"]), []
    timed = {"other": lambda: 1.0, "asleep": lambda: calls.append(1) or sleeps()}
    samples = measure.interleaved(timed, 5, warm_up=1)
    assert samples == {"other": [1.0] * 5, "asleep": [None] * 5}
    assert len(calls) == measure.FAILURES
    assert measure.lost == ["bench: no figure against asleep: it was not ready after 1 s"]
    assert measure.records("start.x", "other", samples, "s", MACHINE) == []


@pytest.mark.parametrize(
    "failure", [OSError("no"), KeyError("no"), subprocess.TimeoutExpired("no", 1), SystemError("no")]
)
def test_whatever_fails_is_a_line(failure, monkeypatch):
    def fails():
        raise failure

    monkeypatch.setattr(measure, "lost", [])
    assert measure.attempt("who", fails) is None
    assert len(measure.lost) == 1 and measure.lost[0].startswith("bench: no figure against who: ")


def test_many_at_once_are_counted_and_one_that_fails_is_no_figure():
    assert 0 < subjects.at_once([["true"]] * 5)() < 10
    with pytest.raises(measure.Missing, match="1 of 5 containers at once failed"):
        subjects.at_once([["true"]] * 4 + [["false"]])()


def test_a_line_through_what_was_measured_gives_what_was_not():
    servers, sizes = (1, 2, 5, 10), (100, 110, None, None)
    assert [measure.at(count, servers, sizes) for count in servers] == [100, 110, 140, 190]
    assert measure.at(10, (1, 10), (7, None)) == 70


# Has it become slower?


def recorded_values(ours, theirs=(1.0,) * 41):
    return {"start.end": {"library": list(ours), "crun": list(theirs)}}


def entry_of(ratio, low, high, runs=11):
    return {"id": "start.library", "against": "crun", "ratio": ratio, "low": low, "high": high, "runs": runs}


def test_the_gate_lets_noise_pass_and_stops_what_has_become_slower():
    dice = random.Random(2)
    values = recorded_values(dice.lognormvariate(-1, 0.1) for _ in range(41))
    old = entry_of(0.37, 0.35, 0.39, 41)
    assert regression.verdict(entry_of(0.4, 0.3, 0.5), old, values)[0] == "ok"
    assert regression.verdict(entry_of(0.8, 0.7, 0.9), old, values)[0] == "slower"
    assert regression.main([entry_of(0.8, 0.7, 0.9)], [old], values) == 1
    assert regression.main([entry_of(0.4, 0.3, 0.5)], [old], values) == 0


def test_the_gate_says_when_the_noise_is_wider_than_its_margin():
    dice = random.Random(3)
    values = recorded_values(dice.lognormvariate(-1, 3) for _ in range(41))
    assert regression.verdict(entry_of(0.4, 0.01, 9), entry_of(0.37, 0.1, 2, 41), values)[0] == "noisy"


def test_quick_runs_of_unchanged_code_pass_the_gate():
    """A thousand quick runs, drawn from the distribution that the recorded values came from."""
    dice = random.Random(4)

    def draw(count):
        return [dice.lognormvariate(-1, 0.3) for _ in range(count)]

    recorded = draw(41)
    old = measure.record("start.library", "m", "c", {"m": recorded, "c": [1.0] * 41}, unit="s", machine={})
    values, failed = recorded_values(recorded), 0
    for _ in range(1000):
        new = measure.record("start.library", "m", "c", {"m": draw(11), "c": [1.0] * 11}, unit="s", machine={})
        failed += regression.verdict(new, old, values)[0] == "slower"
    assert failed == 0


# Figures in the text


def test_figures_are_filled_from_what_is_recorded():
    records = [
        {
            "id": "a.b",
            "against": "c",
            "ratio": 0.0123,
            "low": 0.01,
            "high": 0.02,
            "runs": 5,
            "median": 0.0056,
            "unit": "s",
        }
    ]
    values = {"storage": {"layers": [1e6, 204e6]}}
    text = "<!-- figure a.b c -->x<!-- /figure -->, <!-- figure a.b c times -->?<!-- /figure --> times, "
    text += "<!-- figure a.b c median --><!-- /figure -->, <!-- value storage layers B 2 -->7<!-- /value -->"
    seen = [match[4] for match in figures.MARKER.finditer(figures.filled(text, records, values))]
    assert seen == ["0.012", "81", "5.6 ms", "204 MB"]


def test_a_figure_that_is_not_recorded_is_an_error():
    with pytest.raises(SystemExit, match="a.b d --> is not recorded"):
        figures.filled("<!-- figure a.b d -->1<!-- /figure -->", [], {})


def test_a_number_that_no_command_has_made_is_found():
    text = "It takes 5 ms, 30 % of `2 ms`, <!-- given -->10 GB<!-- /given --> and\n```\n7 s\n```\nor 12 times as long."
    assert list(figures.strays(text)) == ["5 ms", "0 %", "12 times"]


def test_the_texts_show_recorded_figures_and_no_others():
    done = subprocess.run([sys.executable, "-m", "tools.book.figures", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_start_of_a_command_imports_nothing_slow():
    """What keeps `start.stage` fast, without a timed test: each of these takes from 2 to 20 ms to import."""
    slow = {
        "argparse",
        "enum",
        "json",
        "pathlib",
        "pickle",
        "re",
        "signal",
        "socket",
        "subprocess",
        "threading",
        "typing",
    }
    modules = "minidocker.cgroups, minidocker.namespaces, minidocker.process, minidocker.rootfs, minidocker.cli"
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())


# Pictures


def test_the_pictures():
    """In a process of their own: matplotlib brings threads and keeps fonts open, and other tests want to fork."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", REPO / "tests/house/pictures.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_a_part_of_the_bench_leaves_the_rest_of_the_record_alone(monkeypatch, tmp_path):
    for name in ("RECORDED", "VALUES", "PAGE"):
        path = tmp_path / getattr(bench, name).name
        path.write_bytes(getattr(bench, name).read_bytes())
        monkeypatch.setattr(bench, name, path)
    monkeypatch.setattr(bench.figures, "main", lambda _: 0)
    before = json.loads(bench.RECORDED.read_text())
    new = [{**entry, "ratio": 0.5} for entry in before if entry["id"] == "sharing.work"]
    build = tmp_path / "build"
    build.mkdir()
    bench.keep(build, new, {"sharing.work": {"minidocker": [1.0], "halves": [2.0]}})
    after = json.loads(bench.RECORDED.read_text())
    assert [entry for entry in after if entry["id"] == "sharing.work"] == new
    assert [entry for entry in after if entry["id"] != "sharing.work"] == [
        entry for entry in before if entry["id"] != "sharing.work"
    ]
    assert measure.read(bench.VALUES)["sharing.work"]["halves"] == [2.0]
    assert "start.end" in measure.read(bench.VALUES)
