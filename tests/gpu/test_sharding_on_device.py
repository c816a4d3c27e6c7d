"""The loss over shards with arrays of a GPU, on the simulated GPU: nothing but merging waits."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

from sharding.spread import call

import fastxent as fx
from fastxent.backends import load
from gpu.arrays import Putter, numbers

ROWS, CLASSES = 4, 40
BLOCKS = 1034  # one and a little more
DRAW = np.random.default_rng(0)
LOGITS = (DRAW.standard_normal((ROWS, CLASSES)) * 4).astype(np.float32)
LABELS = np.array([3, 39, -100, 16])
SOFT = DRAW.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
WEIGHT = DRAW.uniform(0.5, 2, CLASSES).astype(np.float32)
OF_ROWS = DRAW.uniform(0.5, 2, ROWS).astype(np.float32)
OF_LABELS = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")
MANY = {"weight": WEIGHT, "label_smoothing": 0.1, "sample_weight": OF_ROWS, "z_loss": 1e-2}
MANY |= {"softcap": 20.0, "logit_scale": 0.7, "grad_output": OF_ROWS}


@pytest.fixture
def put(simulated, monkeypatch):
    """Copies arrays to the simulated GPU, which nothing but merging may wait for."""
    for name in ("synchronize", "wait_on_host"):
        monkeypatch.setattr(simulated, name, waits)
    return Putter(load("cuda"))


def waits(*_):
    raise AssertionError("the host waited for the GPU")


def close(found, expected):
    found, expected = numbers(found), np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=4e-6, atol=1e-6)


def spread(put, logits, target, options, edges, asked):
    """Loss, side outputs and gradient from shards on the GPU."""
    num_classes, soft = logits.shape[1], target.dtype.kind == "f"
    there = options | {"num_classes": num_classes, "aux": asked}
    shards = []
    for begin, end in pairwise(edges):
        here = put(np.ascontiguousarray(logits[:, begin:end]))
        labels = put(np.ascontiguousarray(target[:, begin:end]) if soft else target)
        stats = call(fx.partial_stats, here, labels, options=there | {"class_offset": begin})
        shards.append((here, labels, begin, stats))
    merged = fx.merge_stats(*(stats for *_, stats in reversed(shards)))
    loss, aux = call(fx.loss_from_stats, merged, put(target), options=there)
    grads = []
    for here, labels, begin, _ in shards:
        given = there | {"class_offset": begin, "out": here}
        grad = call(fx.grad_from_stats, here, labels, merged, options=given)
        assert grad is here
        grads.append(numbers(grad))
    return loss, np.concatenate(grads, axis=1), aux, merged


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("options", [{"reduction": "none"}, MANY], ids=["none", "many"])
def test_statistics_loss_and_gradient(put, options, soft, where):
    target = SOFT if soft else LABELS
    asked = tuple(name for name in OF_LABELS if not (soft and name == "correct"))
    expected = fx.cross_entropy_and_grad(LOGITS, target, **options, aux=asked, backend="numpy")
    there = {
        name: put(value) if isinstance(value, np.ndarray) and where == "device" else value
        for name, value in options.items()
    }
    loss, grad, aux, merged = spread(put, LOGITS, target, there, [0, 16, 16, CLASSES], asked)
    assert merged.classes == (CLASSES,)
    close(loss, expected[0])
    np.testing.assert_allclose(grad, expected[1], rtol=4e-6, atol=1e-6)
    for name in asked:
        close(getattr(aux, name), getattr(expected[2], name))


def test_parts_by_block(put):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2, BLOCKS)).astype(np.float32)
    target = np.array([1030, 5])
    options = {"label_smoothing": 0.1, "by_block": True}
    loss, grad, _, merged = spread(put, logits, target, options, [0, 1024, BLOCKS], ("lse",))
    assert merged.by_block
    assert merged.classes == (1024, 10)
    expected = fx.cross_entropy_and_grad(logits, target, label_smoothing=0.1, backend="numpy")
    close(loss, expected[0])
    np.testing.assert_allclose(grad, expected[1], rtol=4e-6, atol=1e-6)


def test_a_bad_label_shows_as_nan(put):
    labels = put(np.array([3, 40, -100, 16]))
    where = {"class_offset": 0, "num_classes": CLASSES}
    stats = fx.partial_stats(put(LOGITS), labels, **where)
    loss = fx.loss_from_stats(stats, labels, num_classes=CLASSES, reduction="none")
    assert np.isnan(numbers(loss)).tolist() == [False, True, False, False]
    grad = fx.grad_from_stats(put(LOGITS), labels, stats, **where, reduction="none")
    assert not numbers(grad)[1].any()


def test_arrays_of_the_host_do_not_go_with_those_of_a_gpu(put):
    where = {"class_offset": 0, "num_classes": CLASSES}
    stats = fx.partial_stats(put(LOGITS), put(LABELS), **where)
    with pytest.raises(fx.DTypeError, match="target is in the host's memory"):
        fx.partial_stats(put(LOGITS), LABELS, **where)
    with pytest.raises(fx.DTypeError, match="target is in the host's memory"):
        fx.loss_from_stats(stats, LABELS, num_classes=CLASSES)
    host = fx.partial_stats(LOGITS, LABELS, **where)
    with pytest.raises(fx.DTypeError, match=r"stats\.max is in the host's memory"):
        fx.grad_from_stats(put(LOGITS), put(LABELS), host, **where)
    soft = fx.partial_stats(put(LOGITS), put(SOFT), **where, aux=("correct",))
    with pytest.raises(fx.OptionError, match="probabilities on a GPU"):
        fx.loss_from_stats(soft, put(SOFT), num_classes=CLASSES, aux=("correct",))
