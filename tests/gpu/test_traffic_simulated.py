"""What kernels move and in which order they may run, on the simulated GPU.

One reading and one writing of the logits, the same bits whoever is first, and no access by a label
that names no class.
"""

import gc
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

from fastxent.backends import load
from fastxent.backends.contract import HessRule, Outputs
from fastxent.precision import narrow, widen
from fastxent.problem import Problem
from gpu.simulation.memory import MEMORY
from gpu.test_conformance_simulated import WAYS
from gpu.test_conformance_simulated import going as going  # a fixture

KINDS = ("float32", "float64", "float16", "bfloat16")
IN_ONE_PASS = ("as_planned", "in_small_blocks", "off_the_vectors", "before_hopper")
# of a tile, a part of a warp, a warp, and a block or a cluster of small ones
CLASSES = (10, 130, 257)


def numbers(rows, classes, kind, seed=0):
    """Logits as kernels get them."""
    values = 3 * np.random.default_rng(seed).normal(size=(rows, classes))
    return narrow(values.astype("float64" if kind == "float64" else "float32"), kind)


def problem_of(rows, classes, kind, soft=False, **options):
    """A problem that is ready for a backend; every third label is skipped."""
    rng = np.random.default_rng(1)
    if soft:
        target = numbers(rows, classes, kind, seed=2)
    else:
        target = rng.integers(0, classes, rows)
        target[::3] = -100
    storage = kind if kind in ("float16", "bfloat16") else None
    problem = Problem.build(numbers(rows, classes, kind), target, storage=storage, **options)
    return problem.with_labels(load("numpy"))


def everything(problem, **more):
    """All outputs that one call may have, with something in them that is no result."""
    rows, matrix = problem.rows, problem.logits
    wide = problem.precision.loss
    out = Outputs(
        loss=np.full(rows, 7, wide),
        row_max=np.full(rows, 7, problem.precision.compute),
        row_sum=np.full(rows, 7.0),
        grad=np.full(matrix.shape, 7, matrix.dtype),
        log_prob=np.full(rows, 7, wide),
        argmax=np.full(rows, 7),
        entropy=np.full(rows, 7, wide),
    )
    if problem.soft is not None:
        out.target_grad = np.full(matrix.shape, 7, matrix.dtype)
    else:
        out.proba = np.full(matrix.shape, 7, matrix.dtype)
        out.hess = np.full(matrix.shape, 7, matrix.dtype)
    return replace(out, **more)


def bits(outputs):
    """All arrays of a record as bytes, by name."""
    arrays = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    return {name: array.tobytes() for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("way", IN_ONE_PASS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", CLASSES)
def test_logits_are_read_once_and_the_gradient_is_written_once(
    simulated, going, kind, classes, way
):
    going(way)
    rows, cuda = 5, load("cuda")
    problem = problem_of(rows, classes, kind)
    logits = problem.logits
    # the logit at the label may be read twice more, and its gradient written once more
    whole, again = logits.nbytes, rows * logits.itemsize
    skipped = whole * len(range(0, rows, 3)) // rows

    def moved(call, *arguments):
        before = len(simulated.launches)
        call(*arguments)
        (launch,) = simulated.launches[before:]
        assert launch.spec.module in ("row", "tile")
        read, written = launch.moved["logits"]
        assert whole - skipped <= read <= whole + 2 * again
        return launch, written

    loss = np.empty(rows, problem.precision.loss)
    outputs = Outputs(loss=loss, row_max=np.empty(rows, problem.precision.compute))
    outputs.row_sum = np.empty(rows)
    launch, written = moved(cuda.forward, problem, outputs)
    assert written == 0
    assert launch.written <= 3 * 8 * rows

    outputs.grad = np.empty_like(logits)
    launch, written = moved(cuda.forward, problem, outputs)
    assert written == launch.moved["grad"][0] == 0
    assert whole <= launch.moved["grad"][1] <= whole + again

    statistics = outputs.row_max, outputs.row_sum
    launch, written = moved(cuda.backward, problem, *statistics, np.empty_like(logits))
    assert written == launch.moved["grad"][0] == 0
    assert whole <= launch.moved["grad"][1] <= whole + again

    launch, written = moved(cuda.softmax, problem, Outputs(proba=np.empty_like(logits)))
    assert launch.moved["logits"] == (whole, 0)
    assert launch.moved["proba"] == (0, whole)

    problem = replace(problem, logits=logits.copy())
    launch, written = moved(cuda.forward, problem, replace(outputs, grad=problem.logits))
    assert whole <= written <= whole + again


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_long_row_reads_its_logits_once(simulated, going, kind):
    """Its statistics are known; of probabilities the mass is not, and they are read twice."""
    going("in_two_passes")
    problem = problem_of(5, 650, kind, soft=True, label_smoothing=0.1, reduction="sum")
    problem = replace(problem, softcap=30.0)
    out, grad = everything(problem), np.empty_like(problem.logits)
    load("cuda").forward(problem, out)
    load("cuda").backward(problem, out.row_max, out.row_sum, grad)
    moved = simulated.launches[-1].moved
    # but for the few numbers at the ends of rows
    assert problem.logits.nbytes <= moved["logits"][0] <= 1.05 * problem.logits.nbytes
    assert moved["soft"][0] >= 1.9 * problem.logits.nbytes
    assert grad.tobytes() == out.grad.tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "classes", "soft"),
    [
        *(("float32", 10, False), ("bfloat16", 37, True), ("float16", 130, False)),
        *(("float32", 150, True), ("float64", 70, True), ("bfloat16", 21, False)),
    ],
)
def test_any_order_of_threads_gives_the_same_bits(simulated, going, kind, classes, soft, way):
    going(way)
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "reduction": "sum"}
    problem = problem_of(7, classes, kind, soft, **options)
    problem = replace(problem, hess_rule=HessRule())
    seen = []
    for seed, in_place in ((None, False), (0, False), (10, True)):
        simulated.seed = seed
        given = replace(problem, logits=problem.logits.copy())
        out = everything(given, **({"grad": given.logits} if in_place else {}))
        load("cuda").forward(given, out)
        seen.append(bits(out))
    assert all(other == seen[0] for other in seen[1:])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "classes"), [("float32", 10), ("bfloat16", 130), ("float64", 130), ("float16", 10)]
)
def test_a_label_that_names_no_class_reads_nothing(simulated, going, kind, classes, way):
    going(way)
    options = {"weight": np.linspace(0.5, 2, classes).astype("float32"), "label_smoothing": 0.1}
    if kind == "float64":
        options["weight"] = options["weight"].astype("float64")
    problem = problem_of(9, classes, kind, reduction="sum", **options)
    assert problem.target is not None
    labels = problem.target.copy()
    bad = np.array([1, 4, 5, 8])
    good = np.setdiff1d(np.arange(9), bad)
    labels[bad] = [classes, -1, 1 << 62, -(1 << 63)]
    given = replace(problem, target=labels, hess_rule=HessRule())
    out, expected = everything(given), everything(given)
    load("cuda").forward(given, out)
    load("numpy").forward(replace(problem, hess_rule=HessRule()), expected)
    for name in ("loss", "log_prob"):
        assert np.isnan(getattr(out, name)[bad]).all()
    for name in ("grad", "hess"):
        assert not widen(getattr(out, name), kind)[bad].any()
    for name in ("row_max", "argmax"):
        np.testing.assert_array_equal(getattr(out, name), getattr(expected, name))
    # what is left is near what another backend gives; how near, the conformance tests say
    near = {"float32": 1e-5, "float64": 1e-9, "float16": 2e-3, "bfloat16": 2e-2}[kind]
    for name in ("loss", "grad", "proba", "row_sum"):
        got, want = getattr(out, name), getattr(expected, name)
        if name in ("grad", "proba"):
            got, want = widen(got, kind), widen(want, kind)
        rows = np.arange(9) if name in ("proba", "row_sum") else good
        np.testing.assert_allclose(got[rows], want[rows], rtol=near, atol=near)


@pytest.mark.parametrize("way", ["as_planned", "a_thread_a_row"])
def test_all_memory_comes_back(simulated, going, way):
    going(way)
    before = {id(one) for one in MEMORY.live}
    problem = replace(problem_of(7, 130, "float32"), hess_rule=HessRule())
    for _ in range(2):
        load("cuda").forward(problem, everything(problem))
    load("cuda").driver = None  # and the tables of layouts with it
    gc.collect()
    assert {id(one) for one in MEMORY.live} <= before
