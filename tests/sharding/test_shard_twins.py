"""The verbs of shards in the Numba backend: the bits of a single call, and of the compiled twin."""

import os

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.backends.contract import BLOCK
from fastxent.problem import Problem
from fastxent.threads import plan
from sharding.verbs import check_same, sharded_call, single_call

REASON = fx.backends()["numba"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}")
NUMBA = load("numba")

ROWS = 11
MIXED = {
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "softcap": 15.0,
    "logit_scale": 0.7,
    "reduction": "none",
}


def logits_of(rng, classes, storage="float32", rows=ROWS):
    """Rows with a masked class, a masked block, and nothing but masked classes."""
    x = (4 * rng.normal(size=(rows, classes))).astype(np.float32)
    x[:, 2] = -np.inf
    x[1, :BLOCK] = -np.inf
    x[2] = -np.inf
    x[3, classes // 2] = np.nan
    if storage == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16), {"storage": "bfloat16"}
    return x.astype(storage), {}


def labels_of(rng, classes, rows=ROWS):
    labels = rng.integers(3, classes, rows)
    labels[[0, 5]] = classes - 1, -100
    return labels


def cases_of(rng, storage, classes, labels):
    """Targets, options and whether all is asked for: few for each way of storing logits.

    Each combination is a variant of the Numba kernels, and takes seconds to compile.
    """
    soft = rng.random((ROWS, classes), np.float32)
    weighted = {"weight": np.linspace(0.5, 1.5, classes), **MIXED}
    if storage == "float64":
        return [(labels, weighted, True)]
    if storage == "float16":
        return [(soft > 0.5, weighted, True)]
    if storage == "bfloat16":
        return [(labels, {}, False)]
    few = [(labels, {}, False), (labels, {"label_smoothing": 0.1}, False), (soft, {}, False)]
    return [*few, (labels, weighted, True)]


def built(logits, target, num_threads=1, **options):
    problem = Problem.build(logits, target, num_threads=1, **options)
    problem.num_threads = num_threads
    return problem.with_labels(NUMBA)


# --- the bits of a single call


@pytest.mark.parametrize("storage", ["float32", "float64", "float16", "bfloat16"])
def test_blocks_merged_in_order_have_the_bits_of_a_single_call(storage):
    classes = 3 * BLOCK + 300
    rng = np.random.default_rng(1)
    logits, storing = logits_of(rng, classes, storage)
    for target, options, aux in cases_of(rng, storage, classes, labels_of(rng, classes)):
        problem = built(logits, target, **options, **storing)
        out, grad = single_call(NUMBA, problem, aux)
        for cuts in ((0, BLOCK, 3 * BLOCK, classes), (0, classes)):
            ours, ours_grad, _ = sharded_call(NUMBA, problem, cuts, aux)
            check_same(ours, out)
            np.testing.assert_array_equal(ours_grad, grad, strict=True)


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize(
    "layout", ["rows apart", "classes apart", "three dimensions", "in columns"]
)
def test_any_layout(storage, layout):
    classes = 2 * BLOCK + 130
    rng = np.random.default_rng(2)
    close, _ = logits_of(rng, classes, storage)
    wide = np.zeros((2 * ROWS, 2 * classes), storage)
    logits = {
        "rows apart": wide[::2, :classes],
        "classes apart": wide[:ROWS, ::-2],
        "three dimensions": wide[:ROWS, :classes],
        "in columns": wide.reshape(-1)[: ROWS * classes].reshape(classes, ROWS).T,
    }[layout]
    logits[...] = close
    target = labels_of(rng, classes)
    if storage == "float16":
        target = rng.random((ROWS, classes), np.float32)
    expected, expected_grad = single_call(NUMBA, built(close, target, **MIXED), False)
    if layout == "three dimensions":
        logits = np.zeros((2, 7, classes), storage)[:, 1:]
        logits[0], logits[1, :5] = close[:6], close[6:]
        target = np.concatenate([target, target[:1]]).reshape(2, 6, *target.shape[1:])
    problem = built(logits, target, **MIXED)
    ours, grad, _ = sharded_call(NUMBA, problem, (0, BLOCK, classes), False)
    np.testing.assert_array_equal(ours.loss[:ROWS], expected.loss)
    np.testing.assert_array_equal(np.reshape(grad, (-1, classes))[:ROWS], expected_grad)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_gradient_over_the_logits(storage):
    classes = BLOCK + 700
    rng = np.random.default_rng(3)
    logits, _ = logits_of(rng, classes, storage)
    for target, options, _ in cases_of(rng, storage, classes, labels_of(rng, classes)):
        problem = built(logits.copy(), target, **options)
        _, grad = single_call(NUMBA, problem, False)
        _, ours, _ = sharded_call(NUMBA, problem, (0, BLOCK, classes), False, in_place=True)
        np.testing.assert_array_equal(ours, grad)


@pytest.mark.parametrize(("rows", "classes"), [(3, 70_001), (700, 150)])
def test_any_number_of_threads_gives_the_same_bits(rows, classes):
    rng = np.random.default_rng(4)
    logits, _ = logits_of(rng, classes, rows=rows + 3)
    logits = logits[3:]
    labels = labels_of(rng, classes, rows + 3)[3:]
    for options in ({}, MIXED):
        expected = single_call(NUMBA, built(logits, labels, **options), False)
        for threads in (1, 2, 5):
            problem = built(logits, labels, threads, **options)
            cuts = (0, classes // 2 // BLOCK * BLOCK, classes) if classes > BLOCK else (0, classes)
            ours, grad, _ = sharded_call(NUMBA, problem, cuts, False)
            check_same(ours, expected[0])
            np.testing.assert_array_equal(grad, expected[1])


def test_a_label_that_changed_after_the_check_spoils_its_row_alone():
    classes = BLOCK + 5
    rng = np.random.default_rng(5)
    logits, _ = logits_of(rng, classes)
    labels = labels_of(rng, classes)
    problem = built(logits, labels, **MIXED)
    expected, grad = single_call(NUMBA, problem, True)
    problem.target[4] = classes
    ours, ours_grad, sums = sharded_call(NUMBA, problem, (0, BLOCK, classes), True)
    others = np.arange(ROWS) != 4
    np.testing.assert_array_equal(ours.loss[others], expected.loss[others])
    np.testing.assert_array_equal(ours_grad[others], grad[others])
    assert np.isnan(ours.loss[4])
    assert np.isnan(ours_grad[4]).all()
    assert np.isnan(sums.max[:, 4]).all()


def test_skipped_rows_are_not_read_and_hand_up_what_counts_for_nothing():
    classes = BLOCK + 5
    logits = np.full((2, classes), np.nan, np.float32)
    problem = built(logits, np.array([-100, 3]), label_smoothing=0.1)
    out, grad, sums = sharded_call(NUMBA, problem, (0, BLOCK, classes), True)
    held = {"max": 0, "sum": 1, "mass": 0, "dot": 0, "spread": 0, "argmax": -1}
    for field, value in held.items():
        assert (getattr(sums, field)[:, 0] == value).all(), field
    assert (sums.label_logit[0], out.loss[0], out.row_sum[0], out.argmax[0]) == (0, 0, 1, -1)
    assert (out.mass[0], out.mass[1]) == (0, pytest.approx(1.0))
    assert not grad[0].any()
    assert np.isnan(grad[1]).all()


# --- the bits of each other


@pytest.mark.parametrize("storage", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("classes", [1, 3, 17, 100, 101, 1023, 1025, 5000])
def test_the_compiled_twin_gives_the_same_bits(storage, classes):
    if fx.backends()["cython"] is not None:
        pytest.skip("cython: " + str(fx.backends()["cython"]))
    cython = load("cython")
    if cython.info()["instruction level"] not in ("v3", "v4"):
        pytest.skip("the compiled backend runs without a fused multiply-add")
    rng = np.random.default_rng(classes)
    x = (4 * rng.normal(size=(ROWS, classes))).astype(np.float32)
    bits = {"storage": "bfloat16"} if storage == "bfloat16" else {}
    logits = (x.view(np.uint32) >> 16).astype(np.uint16) if bits else x.astype(storage)
    labels = rng.integers(0, classes, ROWS)
    labels[4] = -100
    middle = classes // 2 if classes > 1 else 1
    cuts = (0, middle, classes) if middle < classes else (0, classes)
    for target, options, aux in cases_of(rng, storage, classes, labels):
        problem = built(logits, target, **options, **bits)
        ours, grad, sums = sharded_call(NUMBA, problem, cuts, aux)
        others, other_grad, other_sums = sharded_call(cython, problem, cuts, aux)
        check_same(ours, others)
        np.testing.assert_array_equal(ours.mass, others.mass)
        np.testing.assert_array_equal(grad, other_grad)
        for field in ("max", "sum", "mass", "dot", "spread", "label_logit"):
            a, b = getattr(sums, field), getattr(other_sums, field)
            np.testing.assert_array_equal(a, b, err_msg=field)


# --- where the kernels run


# JAX, where another test has loaded it, warns of every fork; the child calls nothing of it
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_the_same():
    rng = np.random.default_rng(6)
    logits, _ = logits_of(rng, BLOCK + 50, rows=200)
    problem = built(logits, labels_of(rng, BLOCK + 50, 200), num_threads=2)
    cuts = (0, BLOCK, BLOCK + 50)
    loss = sharded_call(NUMBA, problem, cuts, False)[0].loss
    child = os.fork()
    if child == 0:
        try:
            # a child plans anew, as every call does: one thread
            problem.num_threads = plan(2, problem.rows, logits.nbytes)
            again = sharded_call(NUMBA, problem, cuts, False)[0].loss
            os._exit(0 if np.array_equal(loss, again, equal_nan=True) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
