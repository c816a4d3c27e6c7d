"""A reduced table of cases on the simulated GPU, against the reference: every kernel's own source.

Each case runs once, in one dtype and in one way of choosing kernels; both go round, so that every
option meets all of them. Threads run in another order in each launch.
"""

import importlib
import itertools
import math
from collections import deque

import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

from fastxent.backends.cuda import plan
from fastxent.cases import CASES, OPTION_CASES, OPTIONS, Case
from fastxent.conformance import run_case, run_softmax_case

DTYPES = ("float32", "bfloat16", "float64", "float16")
ROWS = ("tile", "row", "two_pass", "strided")

# A GPU computes some ten million elements while the simulation computes one. Threads with nothing
# to do take as long as the others there: most rows, and most elements, of a case in each way.
MOST = {"in_small_blocks": (9, 650), "in_two_passes": (7, 650), "off_the_vectors": (21, 650)}
MOST["each_elsewhere"] = (21, 650)
MOST_OTHERWISE = (37, 650)


def as_planned(driver, patch):
    """A Hopper."""


def before_hopper(driver, patch):
    """A Turing: no clusters."""
    patch.setattr(plan, "_TILE_ROWS", (64,))
    driver.compute_capability = (7, 5)


def in_small_blocks(driver, patch):
    """Few vectors a thread and few threads a block: blocks and clusters for rows of 130 classes."""
    patch.setattr(plan, "_TILE_CLASSES", 0)
    patch.setattr(plan, "_VECTORS", dict.fromkeys(plan._VECTORS, 1))
    patch.setattr(plan, "_FEW_VECTORS", 1)
    patch.setattr(plan, "_LEAST_THREADS", 32)
    patch.setattr(plan, "_MOST_THREADS", 32)


def in_two_passes(driver, patch):
    """Rows that are longer than registers can hold."""
    patch.setattr(plan, "_TILE_CLASSES", 0)
    patch.setattr(plan, "_row_geometry", lambda *_: None)
    patch.setattr(plan, "_LOOP_THREADS", 64)


def off_the_vectors(driver, patch):
    """Memory that does not begin at a multiple of 16 bytes."""
    patch.setattr(plan, "_TILE_ROWS", (64,))
    driver.offset = 8


def each_elsewhere(driver, patch):
    """Every array of a call at another place between multiples of 16 bytes."""
    from fastxent.backends.cuda.residence import Residence
    from fastxent.backends.cuda.runtime import Runtime

    patch.setattr(plan, "_TILE_ROWS", (64,))
    allocate, offsets = Runtime._allocate, iter(())

    class FromTheFirst(Residence):
        """The logits are the first, and the order of their sums depends on where they are."""

        def __init__(self, runtime):
            nonlocal offsets
            super().__init__(runtime)
            offsets = itertools.cycle((0, 12, 0, 6, 4, 2, 8))

    def allocate_elsewhere(self, shape, dtype, place):
        driver.offset = next(offsets) // dtype.itemsize * dtype.itemsize
        return allocate(self, shape, dtype, place)

    patch.setattr(Runtime, "_allocate", allocate_elsewhere)
    patch.setattr(importlib.import_module("fastxent.backends.cuda"), "Residence", FromTheFirst)


def as_they_lie(driver, patch):
    """Arrays with the strides that they have on the host."""
    from gpu.simulation.residence import LaidOut

    patch.setattr(plan, "_TILE_ROWS", (64,))
    patch.setattr(importlib.import_module("fastxent.backends.cuda"), "Residence", LaidOut)


def a_thread_a_row(driver, patch):
    """The same, and no kernel but the one for any strides."""
    as_they_lie(driver, patch)
    patch.setattr(plan, "_contiguous_spec", lambda *_: None)


WAYS = {
    way.__name__: way
    for way in (
        *(as_planned, in_small_blocks, in_two_passes, off_the_vectors, each_elsewhere),
        *(as_they_lie, a_thread_a_row, before_hopper),
    )
}
EXPECTED = {"in_two_passes": "two_pass", "a_thread_a_row": "strided", "in_small_blocks": "row"}


def is_small(case, way):
    most_rows, most_elements = MOST.get(way, MOST_OTHERWISE)
    return math.prod(case.leading) <= most_rows and math.prod(case.shape) <= most_elements


def options_of(case):
    """Names of the options that are not as usual."""
    names = {name for option in OPTIONS for name in option} | {"logits", "hess"}
    usual = Case(1, 1)
    return {name for name in names if getattr(case, name) != getattr(usual, name)} - SIZES


SIZES = {"rows", "classes", "num_threads"}


def table():
    """The small cases, each with a dtype and a way; pairs of options where the way lacks one."""
    pairs = {*OPTION_CASES[len(OPTIONS) + 1 :]}
    dtypes, ways = itertools.cycle(DTYPES), deque(WAYS)
    met = {way: set() for way in WAYS}
    chosen = []
    for case in (*(case for case in CASES if case not in pairs), *OPTION_CASES[len(OPTIONS) + 1 :]):
        # the kernels are not for numbers at odd addresses
        if "unaligned" in (case.layout, case.target_layout):
            continue
        options = options_of(case)
        for way in [*ways]:
            if is_small(case, way) and (case not in pairs or options - met[way]):
                ways.remove(way)
                ways.append(way)
                met[way] |= options
                dtype = next(dtypes)
                chosen.append((case, dtype if case.why_not(dtype) is None else "float32", way))
                break
    return chosen


TABLE = table()


def of(rows):
    return [pytest.param(*row, id="-".join(map(str, row))) for row in rows]


@pytest.fixture
def going(simulated, monkeypatch):
    """Choose kernels in one of the ways; afterwards those that ran must be of that way."""
    plan._row_geometry.cache_clear()
    chosen = []

    def go(way):
        chosen.append(way)
        simulated.seed = 1
        WAYS[way](simulated, monkeypatch)

    yield go
    monkeypatch.undo()
    plan._row_geometry.cache_clear()
    modules = {launch.spec.module for launch in simulated.launches} & set(ROWS)
    assert all(EXPECTED.get(way) in (None, module) for way in chosen for module in modules)


@pytest.mark.parametrize(("case", "dtype", "way"), of(TABLE))
def test_loss_and_gradient_match_the_reference(going, case: Case, dtype: str, way: str) -> None:
    going(way)
    result = run_case(case, dtype, "cuda")
    assert result.passed, result.explain()


def softmax_table():
    """One case for each kind of logits; those with more axes run over two of them besides."""
    seen = {(c.shape, c.axis, c.logits, c.layout, c.out): (c, d, w) for c, d, w in TABLE}
    return [row for row in seen.values() if row[2] not in MOST or len(row[0].leading) < 2]


@pytest.mark.parametrize(("case", "dtype", "way"), of(softmax_table()))
def test_softmax_functions_match_the_reference(going, case: Case, dtype: str, way: str) -> None:
    going(way)
    result = run_softmax_case(case, dtype, "cuda")
    assert result.passed, result.explain()


def test_every_way_meets_every_dtype_and_option() -> None:
    assert {(dtype, way) for _, dtype, way in TABLE} == set(itertools.product(DTYPES, WAYS))
    options = {name for case in CASES for name in options_of(case)}
    for way in WAYS:
        here = {name for case, _, w in TABLE if w == way for name in options_of(case)}
        assert here == options, (way, options - here)
