"""Shards of the classes as arrays of other libraries."""

import numpy as np
import pytest

import fastxent as fx

LOGITS = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
TARGET = np.array([1, 9, 4], np.int32)


def spread(logits, target):
    shards = [
        fx.partial_stats(logits[:, a:b], target, class_offset=a, num_classes=10)
        for a, b in ((0, 4), (4, 10))
    ]
    stats = fx.merge_stats(*shards)
    loss = fx.loss_from_stats(stats, target, num_classes=10)
    grad = fx.grad_from_stats(logits[:, 4:], target, stats, class_offset=4, num_classes=10)
    expected = fx.cross_entropy_and_grad(LOGITS, TARGET)
    np.testing.assert_allclose(np.asarray(loss), expected[0], rtol=5e-7)
    np.testing.assert_allclose(np.asarray(grad), expected[1][:, 4:], atol=2e-7)
    return stats, loss, grad


def test_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    stats, *results = spread(torch.from_numpy(LOGITS), torch.from_numpy(TARGET))
    assert stats.max.dtype == torch.float64
    assert all(isinstance(one, torch.Tensor) for one in (stats.label_logit, *results))


def test_jax_which_has_32_bits():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    stats, _, grad = spread(jax.numpy.asarray(LOGITS), jax.numpy.asarray(TARGET))
    assert isinstance(stats.max, np.ndarray)
    assert stats.max.dtype == np.float64
    assert isinstance(grad, jax.Array)
