"""The bench: its statistics on data whose answer is known, its records, and one small real run. No time is asserted."""

import csv
import json
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need
from hypothesis import given
from hypothesis import strategies as st

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tools"))

import bench  # noqa: E402  # tools/ is no package
import measure  # noqa: E402

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


def check(entry):
    """The record of DESIGN: these fields, in this order, and nothing of the machine's name."""
    assert tuple(entry) == ("id", "subject", "against", "ratio", "low", "high", "runs", "unit", "median", "machine")
    assert entry["subject"] == "minidocker" and entry["unit"] == "s"
    assert 0 < entry["low"] <= entry["ratio"] <= entry["high"]
    assert entry["median"] > 0 and isinstance(entry["runs"], int)
    assert {"cpu", "cpus", "memory_gb", "system", "kernel", "python"} <= set(entry["machine"])


def test_a_record_and_its_line_in_the_table():
    samples = {"minidocker": [0.005, 0.006, 0.004], "crun": [0.02, 0.02, 0.02]}
    entry = measure.record("start.library", "minidocker", "crun", samples, unit="s", machine=MACHINE)
    check(entry)
    assert (entry["ratio"], entry["low"], entry["high"], entry["runs"]) == (0.25, 0.2, 0.3, 3)
    line = "| start.library | minidocker | crun | 0.250 | 0.200 to 0.300 | 3 | 5 ms |"
    assert measure.table([entry]).splitlines()[-1] == line


def test_the_readme_shows_what_is_recorded_and_nothing_else():
    records = json.loads(bench.RECORDED.read_text())
    for entry in records:
        check(entry)
    text = bench.README.read_text()
    assert bench.recorded(text, records) == text, "make bench RECORD=1 writes both"


def test_a_text_without_the_markers_is_refused():
    with pytest.raises(SystemExit, match="markers"):
        bench.recorded("# README\n", [])


def run_bench(tmp_path, *words):
    """The command, in a process of its own: it leaves the host's mounts and network for good."""
    command = [sys.executable, REPO / "tools/bench.py", f"BUILD={tmp_path}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_an_unknown_id_is_one_line(tmp_path):
    done = run_bench(tmp_path, "ONLY=nothing")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "bench: no id begins with nothing: there are start.library start.stage\n"


def test_a_small_real_run_in_a_jupyter_kernel_writes_records_raw_values_and_a_table(tmp_path):
    for name in ("crun", "runc"):
        need(shutil.which(name, path=bench.PATH), f"needs {name}: apt install {name}")
    done = run_bench(tmp_path, "ONLY=start.library", "RUNS=3")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "bench.json").read_text())
    for entry in records:
        check(entry)
        assert entry["id"] == "start.library" and entry["runs"] == 3
    against = [entry["against"] for entry in records]
    assert {"crun", "runc", "process"} <= set(against)
    assert measure.table(records) in done.stdout
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    assert len(rows) == 3 * (1 + len(against))
    assert all(float(row["value"]) > 0 for row in rows)


def test_a_peer_that_is_not_installed_is_said_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "PATH", str(tmp_path))
    assert list(bench.peers(tmp_path)) == ["process"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines] == [
        f" no figure against {name}" for name in ("crun", "runc", "unshare", "bwrap")
    ]


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
