"""Right bits from every backend in forked, pooled, served and threaded callers, and in time."""

import functools
import importlib.util

import pytest

import fastxent as fx
from processes import ways
from processes.answers import tbb_library
from processes.runs import answers_of

# Processes that start anew load Numba and its kernels once more, whatever the layer was: they are
# taken once here, and with each layer in tests/reliability/survival.py.
ANEW = ("pool_spawn", "pool_forkserver", "loky", "server")
OFTEN = tuple(way for way in ways.WAYS if way not in ANEW)
GROUPS = {
    "omp": (("cython", "numba", "numpy"), tuple(ways.WAYS)),
    "tbb": (("numba",), OFTEN),
    "workqueue": (("numba",), OFTEN),
}


def missing(way):
    """What the way needs and is not here."""
    needed = ways.NEEDS.get(way)
    return needed if needed and importlib.util.find_spec(needed) is None else None


def able(layer):
    """Those of the backends that can run."""
    return [name for name in GROUPS[layer][0] if fx.backends()[name] is None]


@functools.cache
def rows_of(layer):
    """What all ways give, from one process that takes one after the other."""
    return answers_of(layer, able(layer), [way for way in GROUPS[layer][1] if missing(way) is None])


@pytest.mark.parametrize(
    ("layer", "way"), [(layer, way) for layer, (_, taken) in GROUPS.items() for way in taken]
)
def test_every_backend_gives_the_same_bits(layer, way):
    if layer == "tbb" and tbb_library() is None:
        pytest.skip("the threading layer tbb needs `pip install tbb`")
    if missing(way) is not None:
        pytest.skip(f"{missing(way)} is not installed")
    if not able(layer):
        pytest.skip(f"numba: {fx.backends()['numba']}")
    own = [row for row in rows_of(layer) if row["way"] == way]
    assert [row["backend"] for row in own] == able(layer)
    for row in own:
        assert not row["fault"], row
        assert row["answers"] > 0, row
        assert row["wrong"] == 0, row
        if way in ways.FORKING:
            assert row["threads"] == 1, row
            # of its own, so that a busy machine is no fault; a kernel to compile takes 2 s
            assert row["cpu_seconds"] < 1, row
