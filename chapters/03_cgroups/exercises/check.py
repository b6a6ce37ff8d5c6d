"""Check an exercise of chapter 3: python chapters/03_cgroups/exercises/check.py NUMBER [FILE]."""

import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.cgroups import hierarchies


def check_1(module):
    """So many processes and no more, in a group made by hand, and the group is gone. The shell is one of them."""
    place = next(hierarchy.path for hierarchy in hierarchies() if "pids" in hierarchy.controllers)
    before = {*os.listdir(place)}
    number = random.randint(3, 7)
    done = module.limit_pids(number, ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & echo $i; done"])
    assert "ork" in done.stderr, "nobody was refused a process: is the child in the group before it executes?"
    ran = 1 + len(done.stdout.split())
    assert ran == number, f"there were {ran} processes, and should be {number}: is the limit written before it starts?"
    assert {*os.listdir(place)} == before, "a directory is left: rmdir works when no process is in it"


def check_2(module):
    """In proportion to the weights together, and everything alone. Others may want the CPU, too: three tries each."""
    for weight in random.sample([200, 300, 450, 700], 2):
        for _ in range(3):
            together, alone = module.weights(weight)
            shares = 0.8 * weight / 100 < together < 1.2 * weight / 100
            if shares and alone > 0.8 * (weight / 100 + 1):
                break
        else:
            assert shares, f"{together:.1f} to 1 for {weight} to 100: are both on the same CPU?"
            raise AssertionError(
                f"alone it had {alone:.1f} times as much: was the heavy one there? A weight is no quota"
            )


def check_3(module):
    """The clock jumps, and nothing is lost."""
    for seconds in random.sample([0.3, 1.5, 2.7], 2):
        jump, lines = module.pause(seconds)
        assert seconds <= jump < seconds + 1, f"the largest step of its clock was {jump} s: freeze it for {seconds} s"
        assert lines > 3, "it did not go on afterwards"


def check_4(module):
    """The bomb hit its limit, and nothing is left of it."""
    for number in (random.randint(20, 30), random.randint(35, 50)):  # looks from outside may miss the last ones
        most, refused, left = module.bomb(number)
        assert number - 5 < most <= number, f"there were {most}: give Cgroup {number} for pids, and the bomb some time"
        assert refused > 0, "no fork was refused: its statistics know, until the group is gone"
        assert left == 0, f"{left} processes are left: kill the group"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
