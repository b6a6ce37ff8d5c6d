"""Chapter 4: every driver must do what the model says, and leave nothing behind."""

import contextlib
import itertools
import os
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from union_model import Model, Real, outcome

from minidocker.process import start
from minidocker.union import DRIVERS, Union

pytestmark = pytest.mark.chapter(4)

NAMES = st.sampled_from(["a", "b"])
PATHS = st.one_of(NAMES, st.builds("/".join, st.lists(NAMES, min_size=2, max_size=3)))
DATA = st.binary(min_size=1, max_size=5)
OPERATIONS = st.one_of(
    st.tuples(st.just("create"), PATHS, DATA),
    st.tuples(st.just("write"), PATHS, st.integers(0, 9), DATA),
    st.tuples(st.just("append"), PATHS, DATA),
    st.tuples(st.just("overwrite"), PATHS, DATA),
    st.tuples(st.just("truncate"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o755, 0o4755, 0o444])),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("mkdir"), PATHS),  # twice: most of the rest needs directories
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("symlink"), PATHS, st.just("nowhere")),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("read"), PATHS),
    st.tuples(st.just("names"), PATHS),
    st.tuples(st.just("status"), PATHS),
)
# What each container does, one after the other: its upper directory is the next one's top lower directory.
LIVES = st.lists(st.lists(OPERATIONS, max_size=20), min_size=2, max_size=4)
OFTEN = int(os.environ.get("MINIDOCKER_EXAMPLES", "30"))


def driven(test):
    return settings(
        max_examples=OFTEN,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )(test)


@contextlib.contextmanager
def mounted(lowers, upper=None, driver="overlay", **options):
    """A union, and the directory where the host reaches it: through the root of a process that sees the mount."""
    union = Union(lowers, upper, driver=driver, **options)
    with start(["sleep", "1000"], union) as process:
        yield f"/proc/{process.pid}/root{union.root}"


def live(model, top, operations):
    """The same operations in the model and in the directory; each answer must be the same, and the end."""
    real = Real(top)
    for operation in operations:
        assert outcome(real, *operation) == outcome(model, *operation), operation
    assert real.tree() == model.tree()


def live_all(lives, drivers):
    """The first life is in a plain directory, which is the model's own test; each further one in a union over all before."""
    model = Model()
    with tempfile.TemporaryDirectory() as scratch:
        lowers = [os.path.join(scratch, "0")]
        os.mkdir(lowers[0])
        live(model, lowers[0], lives[0])
        for number, (operations, driver) in enumerate(zip(lives[1:], drivers, strict=False), 1):
            upper = os.path.join(scratch, str(number))
            os.mkdir(upper)
            model.unseal() if driver == "copy" else model.seal()
            with mounted(lowers, upper, driver) as top:
                live(model, top, operations)
            with mounted(lowers, upper, driver) as top:  # a container that is started again finds what it left
                assert Real(top).tree() == model.tree()
            lowers = [upper] if driver == "copy" else [upper, *lowers]


@pytest.mark.parametrize("driver", DRIVERS)
@driven
@given(lives=LIVES)
def test_every_driver_does_what_the_model_does(driver, lives):
    live_all(lives, itertools.repeat(driver))
