"""The kernels with a row for each thread, run on the simulated GPU against the NumPy backend.

That one computes in float64, from the numbers as they are stored: what it gives is the truth here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: it runs the simulated threads")

from fastxent.backends.contract import KINDS, HessRule, Outputs
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, TileGeometry, Variant
from fastxent.backends.numpy import BACKEND
from fastxent.precision import narrow, precision_of, widen
from fastxent.problem import Problem
from gpu.disassembly import disassembled
from gpu.simulation.loading import aligned, load, run_kernel

FLOATS = KINDS[:4]
EPSILON = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DOUBLE = precision_of(np.dtype(np.float64))
ROWS = 32


def compute_of(kind):
    return np.float64 if kind == "float64" else np.float32


def stored(values, kind):
    if kind == "uint8":
        return np.asarray(values).astype(np.uint8)
    return narrow(np.asarray(values, compute_of(kind)), kind)


def numbers(array, kind):
    return widen(array, kind).astype(np.float64)


class Case(NamedTuple):
    """What a kernel gets: numbers as they are stored, options as in `Variant`."""

    variant: Variant
    logits: np.ndarray
    soft: np.ndarray | None
    labels: np.ndarray | None
    reals: dict[str, float]
    arrays: dict[str, np.ndarray]
    skip: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.logits.shape


def case_of(variant, rows, classes, *, seed=0, skip=None, label_kind="int64", options=()):
    """Peaked rows, a third of the labels on the peak; masked classes; factors of every kind."""
    rng = np.random.default_rng(seed)
    kind = variant.kind
    x = rng.normal(0, 2, (rows, classes))
    peaks = rng.integers(0, classes, rows)
    x[np.arange(rows), peaks] += 12
    labels = np.where(rng.random(rows) < 0.3, peaks, rng.integers(0, classes, rows))
    soft = None
    if variant.target not in ("none", "label"):
        soft = rng.random((rows, classes))
        soft[rng.random((rows, classes)) < 0.2] = 0
        if variant.target == "uint8":
            soft = soft < 0.3
        soft = stored(soft, variant.target)
    if classes > 2 and variant.mass == "label" and variant.transform == "plain":
        masked = (peaks + 1) % classes  # no mass there, be it at -inf
        x[np.arange(rows), masked] = -np.inf
        labels = np.where(labels == masked, peaks, labels)
        if soft is not None:
            soft[np.arange(rows), masked] = 0
    if variant.transform != "scaled":  # a product would be rounded at the height of the offset
        x[-1] -= 3e4
    if skip is not None:
        labels[::5] = skip
    reals = {"scale": 0.125, "spike": 1.0, "gain": 1.0, "logit_scale": 1.0, "hess_factor": 1.0}
    arrays: dict[str, np.ndarray] = {}
    if variant.mass == "uniform":
        reals |= {"background": 0.01, "background_total": 0.01 * classes, "gain": 0.9}
        reals["spike"] = 0.9
    if variant.mass == "classes":
        weight = rng.random(classes) * 2
        compute = compute_of(kind)
        arrays["spike_of"], arrays["gain_of"] = weight * 0.9, (weight * 0.9).astype(compute)
        arrays["background_of"] = (weight * 0.1 / classes).astype(compute)
        arrays["background_total_at"] = np.array([np.sum(arrays["background_of"], dtype="f8")])
    if variant.transform != "plain":
        reals["logit_scale"] = 0.75
    if variant.transform == "capped":
        reals["softcap"] = 5.0
    if variant.curvature:
        reals |= {"hess_factor": 1.5, "hess_floor": 1e-3}
    if "z_loss" in options:
        reals["z_loss"] = 0.01
    if "row_scale" in options:
        arrays["row_scale"] = rng.normal(size=rows)
    if "row_weight" in options:
        arrays["row_weight"] = rng.random(rows)
    if "denominator" in options:
        arrays["denominator"] = np.array([3.0])
    hard = labels.astype(label_kind) if variant.target == "label" else None
    return Case(variant, stored(x, kind), soft, hard, reals, arrays, skip)


def outputs_of(case):
    """Arrays by the names of the kernel's arguments: what the variant can give."""
    variant, (rows, classes) = case.variant, case.shape
    loss = compute_of(variant.kind)
    of_rows = {"row_max": loss, "row_sum": np.float64}
    if variant.task in ("loss", "grad"):
        of_rows |= {"loss": loss, "log_prob": loss, "lse": loss, "z_loss_of": loss}
        if variant.sides:
            of_rows |= {"argmax": np.int64, "entropy": loss, "correct": np.uint8}
    outputs = {name: np.full(rows, 77, dtype) for name, dtype in of_rows.items()}
    return outputs, {name: (rows, classes) for name in written_of(variant)}


def written_of(variant):
    """Arrays with an entry a class, and their kinds."""
    if variant.task in ("softmax", "log_softmax"):
        return {"proba": variant.kind}
    names = {} if variant.task == "loss" else {"grad": variant.kind}
    if variant.curvature:
        names["proba"] = variant.kind
    if variant.curvature in ("product", "distance"):
        names["hess"] = variant.kind
    if variant.target_grad:
        names["target_grad"] = variant.kind if variant.target == "uint8" else variant.target
    return names


def truth_of(case):
    """Every output in float64; and T, which says how large gradients can be."""
    variant, (rows, classes), reals, arrays = case.variant, case.shape, case.reals, case.arrays
    x = numbers(case.logits, variant.kind)
    hard = variant.target == "label"
    counted = np.ones(rows, bool) if case.skip is None or not hard else case.labels != case.skip
    bad = counted & ((case.labels < 0) | (case.labels >= classes)) if hard else ~counted
    good_labels = np.where(bad, 0, case.labels) if hard else None
    has_mass = variant.mass != "label"
    given = {name: arrays.get(f"{name}_of", reals.get(name)) for name in ("spike", "gain")}
    background = arrays.get("background_of", reals.get("background")) if has_mass else None
    scale = arrays.get("row_scale", reals["scale"]) / arrays.get("denominator", [1.0])[0]
    problem = Problem(
        given=x,
        logits=x,
        precision=DOUBLE,
        axis=1,
        num_threads=1,
        rows=rows,
        classes=classes,
        target=good_labels,
        soft=None if case.soft is None else numbers(case.soft, variant.target),
        soft_kind=None if case.soft is None else "float64",
        skip=case.skip,
        spike=given["spike"],
        background=background if background is None else np.float64(background),
        background_total=arrays.get("background_total_at", [reals.get("background_total", 0)])[0],
        gain=np.float64(given["gain"]) if has_mass and not hard else None,
        row_scale=scale,
        logit_scale=reals["logit_scale"],
        softcap=reals.get("softcap"),
        z_loss=reals.get("z_loss", 0.0),
        hess_rule=HessRule(
            variant.curvature if variant.curvature != "proba" else "product",
            reals["hess_factor"],
            reals.get("hess_floor", 0.0),
        ),
    )
    out = Outputs(
        loss=np.zeros(rows),
        grad=np.zeros(x.shape),
        proba=np.zeros(x.shape),
        hess=np.zeros(x.shape),
        row_max=np.zeros(rows),
        row_sum=np.zeros(rows),
        log_prob=np.zeros(rows),
        argmax=np.zeros(rows, np.int64),
        entropy=np.zeros(rows),
        target_grad=None if case.soft is None else np.zeros(x.shape),
    )
    BACKEND.forward(problem, out)
    with np.errstate(all="ignore"):
        lse = np.where(counted, out.row_max + np.log(out.row_sum), 0)
        out.loss *= arrays.get("row_weight", 1.0)
        z_loss = reals.get("z_loss", 0.0) * lse**2
    truth: dict[str, Any] = {name: getattr(out, name) for name in Outputs.__slots__}
    truth |= {"lse": lse, "z_loss_of": z_loss}
    if variant.task in ("softmax", "log_softmax"):
        plain = Outputs(proba=out.proba, log_proba=np.zeros(x.shape))
        BACKEND.softmax(problem, plain)
        truth["proba"] = plain.proba if variant.task == "softmax" else plain.log_proba
    target_of = case.labels if hard else None if case.soft is None else problem.soft.argmax(axis=1)
    truth["correct"] = (out.argmax >= 0) & (out.argmax == target_of)
    for name in ("grad", "hess"):
        truth[name][bad] = 0
    truth["loss"][bad] = truth["log_prob"][bad] = np.nan
    truth["correct"][bad] = False
    return truth


def integers_of(case):
    rows, classes = case.shape
    integers = {**case.arrays, "logits": case.logits, "rows": rows, "classes": classes}
    integers |= {"logits_pitch": classes}
    if case.labels is not None:
        integers |= {"labels": aligned(case.labels), "skip": case.skip or 0}
        integers |= {"label_kind": KINDS.index(case.labels.dtype.name)}
        integers |= {"has_skip": case.skip is not None}
    return integers


def run_tile(case, offset=0, seed=None, given=None):
    """Outputs by name; `offset` bytes lie between multiples of 16 and all arrays."""
    (rows, classes), variant = case.shape, case.variant
    geometry = TileGeometry(classes, ROWS, aligned=offset == 0)
    outputs, shapes = outputs_of(case)
    kinds = written_of(variant)
    matrices = {
        name: aligned(np.full(shape, 77, stored(0, kinds[name]).dtype), offset)
        for name, shape in shapes.items()
    }
    grid = -(-rows // ROWS)
    partial = np.full(grid, np.nan)
    integers = integers_of(case)
    integers["logits"] = aligned(case.logits, offset)
    if case.soft is not None:
        integers["soft"] = aligned(case.soft, offset % 8)
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


def check(case, found):
    """Within a few roundings of what computes and, of what is stored, half a unit."""
    variant, (rows, classes) = case.variant, case.shape
    kind = variant.kind
    epsilon = np.finfo(compute_of(kind)).eps
    truth = truth_of(case)
    scale = np.abs(case.arrays.get("row_scale", case.reals["scale"])).max()
    mass = classes if case.soft is not None else 2
    kinds = written_of(variant)
    for name, values in found.items():
        expected = truth.get(name)
        if name in ("argmax", "correct"):
            np.testing.assert_array_equal(values, expected, err_msg=name)
        elif name in kinds:
            rounding = EPSILON[kinds[name]]
            tiny = 2.0**-24 if kinds[name] == "float16" else 0
            size = {"proba": 1.0, "target_grad": 16 * scale}.get(name, mass * scale)
            np.testing.assert_allclose(
                numbers(values, kinds[name]),
                expected,
                rtol=64 * epsilon + 1.01 * rounding,
                atol=8 * epsilon * size + tiny,
                err_msg=name,
            )
        elif expected is not None and name not in ("logits", "soft", "total"):
            # of numbers up to 16 times the mass that cancel: T * log s, and t * (z - m)
            np.testing.assert_allclose(
                values, expected, rtol=16 * epsilon, atol=16 * epsilon * mass, err_msg=name
            )
    if variant.task in ("loss", "grad"):
        np.testing.assert_allclose(
            found["total"], truth["loss"].sum(), rtol=16 * epsilon, atol=16 * epsilon * rows
        )


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
