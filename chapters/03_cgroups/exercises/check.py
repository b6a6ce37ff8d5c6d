"""Check an exercise of chapter 3: python chapters/03_cgroups/exercises/check.py NUMBER [FILE]."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.cgroups import hierarchies


def check_1(module):
    """At most five processes, in a group made by hand, and the group is gone."""
    place = next(hierarchy.path for hierarchy in hierarchies() if "pids" in hierarchy.controllers)
    before = {*os.listdir(place)}
    done = module.limit_pids(5, ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done"])
    assert "ork" in done.stderr, "nobody was refused a process: is the child in the group before it executes?"
    assert {*os.listdir(place)} == before, "a directory is left: rmdir works when no process is in it"


def check_2(module):
    """Three to one together, and everything alone."""
    together, alone = module.weights()
    assert 2.4 < together < 3.6, f"the ratio is {together:.1f}: are both on the same CPU?"
    assert alone > 2.5, f"alone it had {alone:.1f} times as much: was the heavy one still there? A weight is no quota"


def check_3(module):
    """The clock jumps, and nothing is lost."""
    jump, lines = module.pause()
    assert jump > 0.8, f"the largest step of its clock was {jump} s: freeze it for a second"
    assert lines > 3, "it did not go on afterwards"


def check_4(module):
    """The bomb hit its limit, and nothing is left of it."""
    refused, left = module.bomb()
    assert refused > 0, "no fork was refused: give Cgroup a limit for pids, and the bomb some time"
    assert left == 0, f"{left} processes are left: kill the group"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
