"""The kernels with a row for each thread, run on the simulated GPU against the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: it runs the simulated threads")

from fastxent.backends.contract import KINDS
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, TileGeometry, Variant
from gpu.disassembly import disassembled
from gpu.row_cases import FLOATS, case_of, check, integers_of, outputs_of, stored, written_of
from gpu.simulation.loading import aligned, load, run_kernel

ROWS = 32


def run_tile(case, offset=0, seed=None, given=None, offsets=None):
    """Outputs by name; `offset` bytes lie between multiples of 16 and all arrays.

    Or those of `offsets`, by the name of the array, as far as its numbers can lie there.
    """
    (rows, classes), variant = case.shape, case.variant
    geometry = TileGeometry(classes, ROWS, aligned=offset == 0 and offsets is None)

    def put(array, name, offset):
        if offsets is not None:
            offset = offsets[name] // array.itemsize * array.itemsize
        return aligned(array, offset)

    outputs, shapes = outputs_of(case)
    kinds = written_of(variant)
    matrices = {
        name: put(np.full(shape, 77, stored(0, kinds[name]).dtype), name, offset)
        for name, shape in shapes.items()
    }
    grid = -(-rows // ROWS)
    partial = np.full(grid, np.nan)
    integers = integers_of(case)
    integers["logits"] = put(case.logits, "logits", offset)
    if case.soft is not None:
        integers["soft"] = put(case.soft, "soft", offset % 8)
    if given is not None:
        outputs = dict(given)
    integers |= {**outputs, **matrices}
    if variant.task in ("loss", "grad"):
        integers["partial"] = partial
    run_kernel("tile", variant, geometry, grid, integers, case.reals, seed)
    return {**outputs, **matrices, "total": partial.sum()}


def strides_of(array, shape):
    """Strides in elements of four leading dimensions and of the classes."""
    *leading, classes = [stride // array.itemsize for stride in array.strides]
    return [*[0] * (4 - len(leading)), *leading, classes]


def run_strided(case, seed=None, given=None):
    """The same with classes on axis 1: rows of shape (2, 3, ...), each array in its own order."""
    rows, classes = case.shape
    variant, leading = case.variant, (2, rows // 2)
    outputs, shapes = outputs_of(case)
    kinds = written_of(variant)

    def moved(matrix, order):
        """A copy in memory of another order, seen in the order of the rows."""
        cube = matrix.reshape(*leading, classes)
        memory = aligned(cube.transpose(order))
        back = np.argsort(order)
        return memory, memory.transpose(back)

    views = {"logits": moved(case.logits, (0, 2, 1))}
    for name, shape in shapes.items():
        kind = kinds[name]
        views[name] = moved(np.full(shape, 77, stored(0, kind).dtype), (2, 0, 1))
    if case.soft is not None:
        views["soft"] = moved(case.soft, (1, 0, 2))
    layout = [1, 1, *leading]
    for name in ("logits", "grad", "soft", "target_grad", "proba", "hess"):
        layout += strides_of(views[name][1], leading) if name in views else [0] * 5
    if given is not None:
        outputs = dict(given)
    grid = -(-rows // ROWS)
    partial = np.full(grid, np.nan)
    integers = integers_of(case) | outputs | {name: memory for name, (memory, _) in views.items()}
    integers["layout"] = np.array(layout)
    if variant.task in ("loss", "grad"):
        integers["partial"] = partial
    run_kernel("strided", variant, LoopGeometry(ROWS), grid, integers, case.reals, seed)
    matrices = {name: view.reshape(rows, classes) for name, (_, view) in views.items()}
    return {**outputs, **matrices, "total": partial.sum()}


RUNS = {"tile": run_tile, "strided": run_strided}


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("classes", [1, 2, 10, 32])
def test_labels(module, kind, classes):
    case = case_of(Variant(kind), 40, classes, skip=-100)
    check(case, RUNS[module](case))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("classes", [3, 4, 7, 16])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_tiles_that_begin_anywhere(kind, classes, steps):
    """Every way in which the ends of a piece can lie between multiples of 16 bytes."""
    size = 2 if kind.endswith("16") else np.dtype(kind).itemsize
    case = case_of(Variant(kind), 37, classes)
    check(case, run_tile(case, offset=steps * size % 16 or size))


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("kind", FLOATS)
def test_tiles_of_arrays_that_begin_in_different_places(kind, turn):
    names = ("logits", "grad", "soft", "proba", "hess", "target_grad")
    places = np.roll([0, 2, 4, 6, 8, 12], turn)
    variant = Variant(kind, kind, target_grad=True, curvature="product")
    case = case_of(variant, 37, 3)
    check(case, run_tile(case, offsets=dict(zip(names, places.tolist(), strict=True))))


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("target", KINDS[:5])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
def test_probabilities(module, target, kind):
    variant = Variant(kind, target, sides=True, target_grad=True)
    case = case_of(variant, 40, 10)
    check(case, RUNS[module](case))


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("task", ["grad", "loss"])
@pytest.mark.parametrize("transform", ["plain", "scaled", "capped"])
@pytest.mark.parametrize("mass", ["uniform", "classes"])
@pytest.mark.parametrize("target", ["label", "float32"])
def test_options(module, task, transform, mass, target):
    options = ("z_loss", "row_scale", "row_weight", "denominator")
    variant = Variant("float32", target, mass, transform, task, sides=True)
    case = case_of(variant, 38, 11, skip=-1 if target == "label" else None, options=options)
    check(case, RUNS[module](case))


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("curvature", ["proba", "product", "distance"])
def test_curvature(module, kind, curvature):
    case = case_of(Variant(kind, curvature=curvature), 34, 9, skip=3)
    check(case, RUNS[module](case))


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("task", ["softmax", "log_softmax"])
def test_softmax(module, kind, task):
    case = case_of(Variant(kind, "none", task=task), 40, 10)
    check(case, RUNS[module](case))


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("target", ["label", "float32"])
@pytest.mark.parametrize("transform", ["plain", "capped"])
@pytest.mark.parametrize("mass", ["label", "classes"])
def test_backward_has_the_bits_of_forward(module, target, transform, mass):
    variant = Variant("float32", target, mass, transform)
    case = case_of(variant, 36, 12, options=("z_loss",))
    forward = RUNS[module](case)
    statistics = {name: forward[name] for name in ("row_max", "row_sum")}
    later = case._replace(variant=variant._replace(task="backward"))
    backward = RUNS[module](later, given=statistics)
    np.testing.assert_array_equal(backward["grad"], forward["grad"])
    loss_only = RUNS[module](case._replace(variant=variant._replace(task="loss")))
    np.testing.assert_array_equal(loss_only["loss"], forward["loss"])


@pytest.mark.parametrize("module", RUNS)
def test_rows_without_a_softmax_lose_nobody_else(module):
    case = case_of(Variant("float32", sides=True), 36, 6, label_kind="int32")
    good = RUNS[module](case)
    case.logits[3], case.logits[7, 2], case.logits[11, 4] = -np.inf, np.nan, np.inf
    case.labels[[20, 21]] = (6, -1)
    found = RUNS[module](case)
    found["row_max"][7] = np.nan  # the maximum passes a NaN by, the sum does not
    check(case, found)
    broken = np.isin(np.arange(36), (3, 7, 11, 20, 21))
    assert np.isnan(found["loss"][broken]).all()
    assert np.isnan(found["grad"][[3, 7, 11]]).all()
    for name in ("loss", "grad", "entropy"):
        np.testing.assert_array_equal(found[name][~broken], good[name][~broken])


@pytest.mark.parametrize("module", RUNS)
def test_nothing_is_left_of_a_gradient_without_a_denominator(module):
    variant = Variant("float32", "float32", target_grad=True, curvature="product")
    case = case_of(variant, 34, 5)
    case.arrays["denominator"] = np.zeros(1)
    found = RUNS[module](case)
    for name in ("grad", "target_grad", "hess"):
        assert not found[name].any()
    case.arrays["denominator"] = np.ones(1)
    np.testing.assert_array_equal(found["proba"], RUNS[module](case)["proba"])


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_tiles_in_place(kind):
    case = case_of(Variant(kind), 70, 10)
    expected = run_tile(case)["grad"]
    logits = aligned(case.logits)
    integers = integers_of(case) | {"logits": logits, "grad": logits}
    run_kernel("tile", case.variant, TileGeometry(10, ROWS), 3, integers, case.reals)
    np.testing.assert_array_equal(logits, expected)


def test_strided_rows_in_place():
    case = case_of(Variant("float32"), 40, 20)
    expected = run_strided(case)["grad"]
    memory = aligned(case.logits.T)
    layout = np.array([1, 1, 1, 40, *[0, 0, 0, 1, 40] * 2, *[0] * 20])
    integers = integers_of(case) | {"logits": memory, "grad": memory, "layout": layout}
    run_kernel("strided", case.variant, LoopGeometry(32), 2, integers, case.reals)
    np.testing.assert_array_equal(memory.T, expected)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_long_strided_rows(kind):
    """Rows that rise from the first class to the last: their sums are carried over every chunk."""
    variant = Variant(kind, "float32", "uniform", sides=True)
    case = case_of(variant, 2, 1500)
    rising = np.linspace(-40, 3, 1500)
    case.logits[:] = np.array([rising, -rising])
    check(case, run_strided(case))


@pytest.mark.parametrize("module", RUNS)
def test_a_row_has_the_same_bits_wherever_it_is(module):
    """Another row of the same numbers, in another block, whatever the order of the threads."""
    case = case_of(Variant("float32", "float32", sides=True), 70, 10)
    case.logits[66], case.soft[66] = case.logits[2], case.soft[2]
    totals = set()
    for seed in (1, 2):
        found = RUNS[module](case, seed=seed)
        for name in ("loss", "grad", "entropy", "row_sum"):
            np.testing.assert_array_equal(found[name][2], found[name][66])
        totals.add(float(found["total"]))
    assert len(totals) == 1


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("classes", range(1, 33))
def test_threads_hardly_meet_in_a_bank(kind, classes):
    """A warp reads number k of 32 rows: 4 bytes from each of 32 banks at a time."""
    size = stored(0, kind).dtype.itemsize
    spot, _, _ = load("tile_memory").spots_of(kind, classes, True)
    lanes = 32 if size < 8 else 16
    for k in range(classes):
        words = {spot(0, (row * classes + k) * size) // 4 for row in range(lanes)}
        banks = [word % 32 for word in words]
        most = max(banks.count(bank) for bank in banks)
        assert most <= (2 if size < 8 else 4)


def test_quotients_about_the_bound_of_32_bits():
    quotient, bound = load("places").quotient, (1 << 32) - 1
    near = [0, 1, 7, *range(bound - 2, bound + 3), 1 << 33, 1 << 40]
    for number in near:
        for size in near[1:]:
            assert quotient(np.int64(number), np.int64(size)) == number // size, (number, size)


# --- What is compiled --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "classes", "rows", "registers"),
    [("bfloat16", 10, 256, 64), ("float32", 10, 256, 64), ("float32", 16, 256, 64)],
)
def test_a_tile_is_moved_by_vectors_and_stays_in_registers(kind, classes, rows, registers):
    code = disassembled(KernelSpec("tile", Variant(kind), TileGeometry(classes, rows)))
    size = 2 if kind == "bfloat16" else 4
    vectors = -(-classes * size // 16)
    assert code.spills == 0
    assert code.registers <= registers
    assert code.count("LDG", "128") == code.count("STG", "128") == vectors
    # all of a thread's vectors are under way before the first of them is used
    assert code.before("STS").count("LDG", "128") == vectors
    # the tile is there; the losses of the warps are; the gradient is
    assert code.count("BAR") == 3


def test_strided_rows_stay_in_registers():
    code = disassembled(KernelSpec("strided", Variant(), LoopGeometry(128)))
    assert code.spills == 0
    assert code.registers <= 128


def test_few_classes_compile_for_old_devices():
    code = disassembled(KernelSpec("tile", Variant("float16"), TileGeometry(7, 256)), (7, 5))
    assert code.spills == 0
