"""Right bits from every backend in forked, pooled, served and threaded callers, and in time."""

import importlib.util

import pytest

import fastxent as fx
from processes import ways
from processes.answers import LAYERS, tbb_library
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


@pytest.fixture(scope="module", params=LAYERS)
def rows(request):
    """What all ways of a layer give, from one process that takes one after the other."""
    if request.param == "tbb" and tbb_library() is None:
        pytest.skip("the threading layer tbb needs `pip install tbb`")
    names, taken = GROUPS[request.param]
    able = [name for name in names if fx.backends()[name] is None]
    if "numba" not in able and request.param != "omp":
        pytest.skip(f"numba: {fx.backends()['numba']}")
    return answers_of(request.param, able, [way for way in taken if missing(way) is None])


@pytest.mark.parametrize("way", ways.WAYS)
def test_every_backend_gives_the_same_bits(way, rows):
    if missing(way) is not None:
        pytest.skip(f"{missing(way)} is not installed")
    own = [row for row in rows if row["way"] == way]
    if not own and way in ANEW:
        pytest.skip("a process that starts anew: once is enough, see GROUPS")
    assert own
    for row in own:
        assert not row["fault"], row
        assert row["answers"] > 0, row
        assert row["wrong"] == 0, row
        if way in ways.FORKING:
            assert row["threads"] == 1, row
            # of its own, so that a busy machine is no fault; a kernel to compile takes 2 s
            assert row["cpu_seconds"] < 1, row
