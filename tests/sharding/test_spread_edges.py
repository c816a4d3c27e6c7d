"""Where shards could go wrong: labels, masks, infinities and shards of nothing, one at a time."""

import itertools
from itertools import pairwise

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import dtype_of
from fastxent.cases.recipe import has_bfloat16
from sharding.spread import assert_within, edges_of, spread

DTYPES = [
    pytest.param(name, marks=pytest.mark.skipif(not has_bfloat16(), reason="no ml_dtypes"))
    if name == "bfloat16"
    else name
    for name in ("float16", "bfloat16", "float32", "float64")
]
CLASSES = 2503
AUX = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")
HARD = {"weight": True, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 20.0, "logit_scale": 0.7}


def drawn(dtype, rows=6, seed=0, classes=CLASSES):
    rng = np.random.default_rng(seed)
    return (3 * rng.standard_normal((rows, classes))).astype(dtype_of(dtype)), rng


def assert_as_one_call(logits, target, options, edges, **more):
    """The sum of the losses, and gradients of rows of mass 1, with `more` for the shards only."""
    options = {"reduction": "none", **options}
    results = spread(logits, target, options, edges, **more)
    whole = fx.cross_entropy_and_grad(logits, target, **options)
    assert_within(results[0], whole[0], 4)
    grad, expected = results[1], whole[1]
    if grad.dtype.itemsize >= 4:
        largest = np.nanmax(np.abs(expected), axis=-1, initial=0, keepdims=True)
        assert_within(grad, expected, 4, np.maximum(largest, 1))
    else:  # one rounding to what is stored, that may go the other way
        assert grad.dtype == expected.dtype
        exact = grad.astype(np.float32), expected.astype(np.float32)
        assert np.array_equal(np.isnan(exact[0]), np.isnan(exact[1]))
        spacing = 2.0**-7 if grad.dtype.name == "bfloat16" else 2.0**-10
        tiny = 6e-8 if grad.dtype == np.float16 else 1e-7
        assert np.all(~(np.abs(exact[0] - exact[1]) > spacing * np.abs(exact[1]) + tiny))
    for name in options.get("aux", ()):
        one, other = getattr(results[2], name), getattr(whole[2], name)
        if name in ("argmax", "correct"):
            assert np.array_equal(one, other), name
        else:
            assert_within(one, other, 4)
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_the_label_lies_on_each_shard_in_turn(dtype, shards, backend):
    edges = edges_of(CLASSES, shards)
    labels = sorted({k for begin, end in pairwise(edges) if begin < end for k in (begin, end - 1)})
    logits, rng = drawn(dtype, len(labels) + 1)
    target = np.array([*labels, -100])
    logits[-1] = np.nan  # an ignored row is not read
    weight = rng.uniform(0.5, 2, CLASSES)
    weight[labels[0]] = 0
    for options in ({}, {**HARD, "weight": weight, "aux": AUX}):
        loss, grad, aux = assert_as_one_call(logits, target, {**options, "backend": backend}, edges)
        assert loss[-1] == 0
        assert not grad[-1].any()
        assert aux is None or (aux.argmax[-1], aux.lse[-1], aux.entropy[-1]) == (-1, 0, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", ["float16", "float32", "float64", "bool"])
def test_probabilities_of_every_dtype(dtype, soft, backend):
    logits, rng = drawn(dtype)
    target = rng.random(logits.shape)
    target /= target.sum(axis=1, keepdims=True)
    target[1, 1000:] = 0  # no mass on most shards
    target = target > 0.0008 if soft == "bool" else target.astype(soft)
    size = float(target[0].astype(np.float64).sum())
    for options in ({}, {**HARD, "weight": rng.uniform(0.5, 2, CLASSES), "aux": AUX}):
        logits_of = logits / 8 if size > 2 else logits  # losses of a mass of hundreds
        sample_weight = np.full(6, 1 / max(size, 1))
        assert_as_one_call(
            np.asarray(logits_of, logits.dtype),
            target,
            {**options, "backend": backend, "sample_weight": sample_weight},
            edges_of(CLASSES, 5),
        )


@pytest.mark.parametrize("by_block", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_and_infinities(dtype, kind, by_block, backend):
    logits, rng = drawn(dtype, 8, classes=4100)
    edges = [0, 1024, 2048, 2048, 4100]
    logits[0, 1024:2048] = -np.inf  # a shard of nothing but -inf
    logits[1] = -np.inf
    logits[2, 2000] = np.nan
    logits[3, 4099] = np.inf
    logits[4, :2048] = -np.inf
    logits[5, 5:] = -np.inf
    target = rng.integers(2048, 4100, 8)
    target[5] = 3
    if kind == "soft":
        labels, target = target, np.zeros((8, 4100), dtype)
        target[np.arange(8), labels] = 0.75
        target[np.arange(8), 4] = 0.25
        target[0, 1100] = 0.5  # mass on a masked class: the loss is infinite
        target[4, 4] = 0.0
    options = {"backend": backend, "aux": AUX}
    if kind == "hard":
        # every class has mass, the masked ones too
        assert_as_one_call(logits, target, {**options, "label_smoothing": 0.1}, edges)
    loss, grad, _ = assert_as_one_call(logits, target, options, edges, by_block=by_block)
    assert np.isnan(loss[1:4]).all()
    assert np.isnan(grad[1:4]).all()
    assert np.isfinite(loss[4:]).all()
    assert np.isfinite(grad[4:]).all()
    assert np.isinf(loss[0]) == (kind == "soft")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis_and_rows_of_many_dimensions(axis, backend):
    rng = np.random.default_rng(5)
    rows = (3, 2, 4)
    place = axis % 4
    shape = (*rows[:place], 1100, *rows[place:])
    logits = rng.standard_normal(shape).astype(np.float32)
    target = rng.integers(0, 1100, rows)
    target[1, 1] = -100
    options = {"axis": axis, "backend": backend, "aux": AUX, "reduction": "sum"}
    options |= {"sample_weight": rng.random(rows), "grad_output": rng.random(rows)}
    edges = [0, 300, 300, 1100]
    stats = fx.partial_stats(
        logits, target, class_offset=0, num_classes=1100, axis=axis, backend=backend
    )
    assert stats.max.shape == (1, *rows)
    assert stats.label_logit.shape == rows
    found = spread(logits, target, options, edges)
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    assert_within(found[0], expected[0], 4)
    assert_within(found[1], expected[1], 4)
    for name in ("lse", "log_prob", "entropy", "z_loss"):
        assert_within(getattr(found[2], name), getattr(expected[2], name), 4)
    assert np.array_equal(found[2].argmax, expected[2].argmax)


def test_one_row_is_a_scalar(backend):
    logits = np.linspace(-2, 2, 7)
    found = spread(logits, np.array(3), {"reduction": "none", "backend": backend}, [0, 2, 7])
    expected = fx.cross_entropy_and_grad(logits, 3, reduction="none")
    assert isinstance(found[0], np.float64)
    assert_within(found[0], expected[0], 4)
    assert_within(found[1], expected[1], 4)


@pytest.mark.parametrize(("all_ignored", "loss"), [("nan", np.nan), ("zero", 0.0)])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_counted(all_ignored, loss, rows, backend):
    logits = np.ones((rows, 5), np.float32)
    target = np.full(rows, -100)
    options = {"all_ignored": all_ignored, "backend": backend}
    found = spread(logits, target, options, [0, 2, 2, 5])
    assert_within(found[0], np.float32(loss), 0)
    assert not found[1].any()


def test_smoothing_is_over_the_classes_of_all_shards(backend):
    """The local number of classes would give another loss on each rank, as it does elsewhere."""
    logits, rng = drawn("float64", 4, classes=10)
    target = np.array([0, 3, 9, 5])
    weight = rng.uniform(0.5, 2, 10)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    mass = 0.3 / 10 * np.broadcast_to(weight, (4, 10)).copy()
    mass[np.arange(4), target] += 0.7 * weight[target]
    expected = -(mass * log_p).sum(axis=1)
    options = {"weight": weight, "label_smoothing": 0.3, "reduction": "none", "backend": backend}
    for edges in ([0, 10], [0, 1, 10], [0, 4, 4, 9, 10]):
        assert_within(spread(logits, target, options, edges)[0], expected, 8)


def test_the_gradient_goes_over_the_logits(backend):
    logits, rng = drawn("float32")
    target = rng.integers(0, CLASSES, 6)
    for kept, options in itertools.product((logits.copy(),), ({}, {"softcap": 5.0}, {"axis": 0})):
        given, labels = (kept.T, target) if "axis" in options else (kept, target)
        options = {**options, "backend": backend}
        apart = spread(given, labels, options, [0, 700, CLASSES])
        over = spread(given.copy(), labels, options, [0, 700, CLASSES], in_place=True)
        assert over[0] == apart[0]
        assert np.array_equal(over[1], apart[1])
