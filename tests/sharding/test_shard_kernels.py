"""The compiled kernels on some of the classes: the bits of a single call, whatever cuts them up."""

import itertools
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.backends.contract import BLOCK, TILE_CLASSES, Outputs, PartialSums
from fastxent.problem import Problem

REASON = fx.backends()["cython"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
# Shards begin at multiples of BLOCK; the last of all blocks has one class here.
CLASSES = 3 * BLOCK + 1
CUTS = (0, BLOCK, 3 * BLOCK, CLASSES)
NAMES = ("loss", "row_max", "row_sum", "log_prob", "argmax", "entropy", "total")


def new_outputs(problem, **more):
    rows, compute = problem.rows, problem.precision.compute
    return Outputs(
        loss=np.empty(rows, compute),
        total=np.empty(1),
        row_max=np.empty(rows, compute),
        row_sum=np.empty(rows),
        log_prob=np.empty(rows, compute),
        argmax=np.empty(rows, np.int64),
        entropy=np.empty(rows, compute),
        **more,
    )


def shards_of(problem, cuts):
    for begin, end in itertools.pairwise(cuts):
        yield replace(
            problem,
            logits=problem.logits[..., begin:end],
            soft=None if problem.soft is None else problem.soft[..., begin:end],
            **{
                name: factor[begin:end] if isinstance(factor, np.ndarray) else factor
                for name in ("background", "gain")
                for factor in [getattr(problem, name)]
            },
            classes=end - begin,
            class_offset=begin,
        )


def sums_of(problem, threads=1):
    parts, rows = -(-problem.classes // BLOCK), problem.rows
    hard = problem.soft is None
    of_mass = not hard or problem.background is not None
    # what is not written shows
    sums = PartialSums(
        *(np.full((parts, rows), np.nan) for _ in range(2)),
        mass=np.full((parts, rows), np.nan) if of_mass else None,
        dot=np.full((parts, rows), np.nan) if of_mass else None,
        spread=np.full((parts, rows), np.nan),
        argmax=np.full((parts, rows), -9),
        label_logit=np.full(rows, np.nan) if hard else None,
    )
    load("cython").partial(replace(problem, num_threads=threads), sums)
    return sums


def merged(all_sums):
    def put_together(name):
        arrays = [getattr(sums, name) for sums in all_sums]
        return None if arrays[0] is None else np.concatenate(arrays)

    names = ("max", "sum", "mass", "dot", "spread", "argmax")
    together = PartialSums(**{name: put_together(name) for name in names})
    if all_sums[0].label_logit is not None:
        together.label_logit = sum(sums.label_logit for sums in all_sums)
    return together


def by_shards(problem, cuts=CUTS, threads=1, grad=None):
    """Outputs, and the gradient put together, of shards that know of each other's sums only."""
    backend, shards = load("cython"), list(shards_of(problem, cuts))
    sums = merged([sums_of(shard, threads) for shard in shards])
    out = new_outputs(problem, mass=np.full(problem.rows, np.nan))
    backend.merge(replace(problem, logits=None, soft=None, num_threads=threads), sums, out)
    grad = np.full_like(problem.logits, 7) if grad is None else grad
    for shard in shards:
        end = shard.class_offset + shard.classes
        backend.partial_backward(
            replace(shard, num_threads=threads),
            out.row_max.astype(np.float64),
            out.row_sum,
            out.mass,
            grad[..., shard.class_offset : end],
        )
    return out, grad


def assert_same_bits(found, expected):
    same = found.view(f"u{found.itemsize}") == expected.view(f"u{expected.itemsize}")
    if found.dtype.kind == "f":
        same |= np.isnan(found) & np.isnan(expected)  # of either sign
    assert same.all(), np.argwhere(~same)


def check(problem, **how):
    """The bits of a single call, which takes the logits without knowing of shards."""
    problem = problem.with_labels(load("cython"))
    expected = new_outputs(problem, grad=np.empty_like(problem.logits))
    load("cython").forward(replace(problem, num_threads=1), expected)
    in_place = how.pop("in_place", False)
    if in_place:
        how["grad"] = problem.logits
    found, grad = by_shards(problem, **how)
    for name in NAMES:
        assert_same_bits(getattr(found, name), getattr(expected, name))
    assert_same_bits(grad, expected.grad)
    return found


def logits_of(rng, rows, classes, dtype):
    logits = rng.standard_normal((rows, classes)) * 5
    logits[0, ::7] = -np.inf
    logits[1, BLOCK : 2 * BLOCK] = -np.inf  # a whole block
    return logits.astype(dtype)


OPTIONS = (
    {},
    {"label_smoothing": 0.1, "z_loss": 1e-3},
    {"weight": "array", "label_smoothing": 0.1},
    {"softcap": 9.0, "logit_scale": 1.7, "sample_weight": "array"},
)


def filled(options, rng, rows, classes, dtype):
    wide = np.float64 if dtype is np.float64 else np.float32
    sizes = {"weight": classes, "sample_weight": rows}
    return {
        name: rng.random(sizes[name]).astype(wide) if isinstance(value, str) else value
        for name, value in options.items()
    }


@pytest.mark.parametrize("hard", [True, False], ids=["labels", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_bits_of_a_single_call(dtype, hard):
    rng = np.random.default_rng(1)
    for options in OPTIONS:
        logits = logits_of(rng, 9, CLASSES, dtype)
        target = rng.integers(0, CLASSES, 9)
        # at the edges of shards, and a row that is skipped
        target[:5] = 1, BLOCK - 1, BLOCK, CLASSES - 1, -100
        if not hard:
            target = rng.dirichlet(np.ones(CLASSES), 9).astype(dtype)
        given = filled(options, rng, 9, CLASSES, dtype)
        check(Problem.build(logits, target, **given))
        check(Problem.build(logits, target, **given), in_place=True)


@pytest.mark.parametrize("threads", range(1, 9))
def test_number_of_threads_changes_no_bit(threads):
    """Rows of 40 blocks are few enough for threads to share them."""
    rng = np.random.default_rng(2)
    classes = 40 * BLOCK + 3
    for target in (np.array([5, 30 * BLOCK, -100]), rng.random((3, classes), np.float32)):
        logits = logits_of(rng, 3, classes, np.float32)
        problem = Problem.build(logits, target, label_smoothing=0.1)
        check(problem, cuts=(0, 36 * BLOCK, classes), threads=threads)


@pytest.mark.parametrize("layout", ["strided", "class-major", "reversed", "leading dimensions"])
def test_rows_of_any_layout(layout):
    rng = np.random.default_rng(3)
    wide = rng.standard_normal((36, 2 * CLASSES)).astype(np.float32)
    logits = {
        "strided": wide[::2, ::2],
        "class-major": np.asfortranarray(wide[:, :CLASSES]),
        "reversed": wide[::-1, :CLASSES][:, ::-1],
        "leading dimensions": wide[:, :CLASSES].reshape(3, 12, CLASSES).transpose(1, 0, 2),
    }[layout]
    target = rng.integers(0, CLASSES, logits.shape[:-1])
    problem = Problem.build(logits, target, label_smoothing=0.1)
    # a single call takes class-major rows in tiles, with sums of its own
    plain = Problem.build(np.ascontiguousarray(logits), target, label_smoothing=0.1)
    expected, grad = by_shards(plain)
    found, strided = by_shards(problem)
    for name in NAMES:
        assert_same_bits(getattr(found, name), getattr(expected, name))
    assert_same_bits(np.ascontiguousarray(strided).ravel(), grad.ravel())
    check(plain)


def test_fewer_classes_than_a_block():
    """Beyond TILE_CLASSES classes a single call has the same sums; below, sums of its own."""
    rng = np.random.default_rng(4)
    for classes in (TILE_CLASSES + 1, 500, BLOCK - 1, BLOCK):
        logits = rng.standard_normal((20, classes)).astype(np.float32)
        problem = Problem.build(logits, rng.integers(0, classes, 20), label_smoothing=0.1)
        check(problem, cuts=(0, classes))
    logits = rng.standard_normal((20, 3)).astype(np.float32)
    target = rng.integers(0, 3, 20)
    found, grad = by_shards(Problem.build(logits, target, reduction="sum"), cuts=(0, 1, 3))
    loss, expected = fx.cross_entropy_and_grad(logits, target, reduction="none")
    np.testing.assert_allclose(found.loss, loss, rtol=4 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(grad, expected, atol=4 * np.finfo(np.float32).eps)


def test_rows_that_are_masked_infinite_or_not_numbers():
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((6, CLASSES)).astype(np.float32)
    logits[0] = -np.inf
    logits[1, 5] = np.inf
    logits[2, 2 * BLOCK] = np.nan
    logits[3, :] = np.nan
    logits[4, :BLOCK] = -np.inf
    found = check(Problem.build(logits, np.arange(6), reduction="sum"))
    assert list(found.argmax[:4]) == [-1, -1, -1, -1]
    assert np.isfinite(found.loss[5])


def test_skipped_rows_hand_up_nothing():
    logits = np.full((2, BLOCK + 5), np.nan, np.float32)  # not even read
    target = np.array([-100, 3])
    sums = sums_of(Problem.build(logits, target, label_smoothing=0.1))
    for name, value in {"max": 0, "sum": 1, "mass": 0, "dot": 0, "spread": 0, "argmax": -1}.items():
        assert (getattr(sums, name)[:, 0] == value).all(), name
    assert sums.label_logit[0] == 0


def test_every_part_knows_its_first_largest_class():
    logits = np.zeros((1, 2 * BLOCK), np.float32)
    logits[0, 7] = 3
    problem = replace(
        Problem.build(logits, np.array([0])), class_offset=5 * BLOCK, num_classes=9 * BLOCK
    )
    assert sums_of(problem).argmax.ravel().tolist() == [5 * BLOCK + 7, 6 * BLOCK]


def test_a_label_that_changed_after_it_was_checked():
    """Another thread may write to the labels: such a row is NaN, and no memory is touched."""
    rng = np.random.default_rng(6)
    for bad in (CLASSES, -1, 1 << 62, -(1 << 62)):
        target = rng.integers(0, CLASSES, 3)
        logits = rng.standard_normal((3, CLASSES)).astype(np.float32)
        problem = Problem.build(logits, target, weight=rng.random(CLASSES), reduction="sum")
        problem = problem.with_labels(load("cython"))
        target[1] = bad
        assert problem.target[1] == bad
        found, grad = by_shards(problem)
        assert np.isnan(found.loss[1])
        assert np.isnan(grad[1]).all()
        assert np.isfinite(found.loss[::2]).all()
        assert np.isfinite(grad[::2]).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86-64")
@pytest.mark.parametrize("level", ["baseline", "v3"])
def test_lower_levels(level):
    code = """
import test_shard_kernels as tests
for dtype in tests.DTYPES:
    for hard in (True, False):
        tests.test_bits_of_a_single_call(dtype, hard)
tests.test_rows_of_any_layout("strided")
tests.test_fewer_classes_than_a_block()
"""
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"FASTXENT_ISA": level, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
