"""Shards of the classes as arrays of a GPU, through the backend on the simulated GPU."""

import contextlib
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import fastxent as fx
from fastxent.backends import load
from gpu.arrays import Putter, numbers

ROWS, CLASSES = 4, 37
DRAW = np.random.default_rng(0)
LOGITS = (DRAW.standard_normal((ROWS, CLASSES)) * 4).astype(np.float32)
LABELS = np.array([3, 36, -100, 20])
SOFT = DRAW.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
WEIGHT = DRAW.uniform(0.5, 2, CLASSES).astype(np.float32)
OF_ROWS = DRAW.uniform(0.5, 2, ROWS).astype(np.float32)
WAITING = ("download", "synchronize", "wait_on_host")
SHARDS = {"two": (0, 20, CLASSES), "one of them empty": (0, 20, 20, CLASSES), "all": (0, CLASSES)}


def waits(*_):
    raise AssertionError("the host waited for the GPU")


@contextlib.contextmanager
def nobody_waits(simulated, monkeypatch):
    with monkeypatch.context() as patch:
        for name in WAITING:
            patch.setattr(simulated, name, waits)
        yield


@pytest.fixture
def put(simulated):
    """Copies arrays to the simulated GPU."""
    return Putter(load("cuda"))


def close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=5e-7)


def check(put, target, options, asked, edges, simulated, monkeypatch):
    expected = fx.cross_entropy_and_grad(LOGITS, target, **options, aux=asked, backend="numpy")
    of_rows = ("sample_weight", "grad_output", "reduction", "z_loss")
    local = {name: value for name, value in options.items() if name not in of_rows}
    of_loss = options.keys() - {"softcap", "grad_output"}
    whole = {name: value for name, value in options.items() if name in of_loss}
    stats, shards = [], []
    with nobody_waits(simulated, monkeypatch):
        for begin, end in pairwise(edges):
            here = target if target is LABELS else target[:, begin:end]
            logits = put(np.ascontiguousarray(LOGITS[:, begin:end]))
            shard = {"class_offset": begin, "num_classes": CLASSES}
            shards.append((logits, put(np.ascontiguousarray(here)), shard))
            stats.append(fx.partial_stats(*shards[-1][:2], **shard, **local, aux=asked))
    merged = fx.merge_stats(*stats)
    there = put(target)
    with nobody_waits(simulated, monkeypatch):
        found = fx.loss_from_stats(merged, there, num_classes=CLASSES, aux=asked, **whole)
        loss, aux = found if asked else (found, None)
        grads = [
            fx.grad_from_stats(logits, here, merged, **shard, **options)
            for logits, here, shard in shards
        ]
    close(numbers(loss), expected[0])
    close(np.hstack([numbers(grad) for grad in grads]), expected[1])
    for name in asked:
        close(numbers(getattr(aux, name)), getattr(expected[2], name))


OPTIONS = (
    {},
    {"weight": WEIGHT, "label_smoothing": 0.1, "sample_weight": OF_ROWS, "grad_output": 2.5},
    {"softcap": 6.0, "z_loss": 1e-2, "reduction": "sum", "label_smoothing": 0.1},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("edges", SHARDS.values(), ids=SHARDS)
def test_labels(put, simulated, monkeypatch, options, edges):
    asked = ("lse", "log_prob", "argmax", "correct", "entropy")
    check(put, LABELS, options, asked, edges, simulated, monkeypatch)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
def test_probabilities(put, simulated, monkeypatch, options):
    check(put, SOFT, options, ("lse", "argmax"), SHARDS["two"], simulated, monkeypatch)


def test_a_label_of_no_class_gives_a_loss_that_is_not_a_number(put):
    labels = np.array([1, CLASSES, 5, 7])
    logits, target = put(LOGITS), put(labels)
    shard = {"class_offset": 0, "num_classes": CLASSES}
    stats = fx.partial_stats(logits, target, **shard)
    rows = fx.loss_from_stats(stats, target, num_classes=CLASSES, reduction="none")
    np.testing.assert_array_equal(np.isnan(numbers(rows)), labels == CLASSES)
    grad = fx.grad_from_stats(logits, target, stats, **shard, reduction="none")
    np.testing.assert_array_equal(numbers(grad).any(axis=1), labels != CLASSES)
