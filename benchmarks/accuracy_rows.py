"""Errors of loss and gradient on rows of 2 to a million classes, against long double."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx

Array = NDArray[Any]
# from logits and targets: one loss a row, the gradient of their sum, the mean
Implementation = Callable[[Array, Array], tuple[Array, Array, Any]]

CLASSES = (2, 10, 100, 1000, 10_000, 100_000, 1_000_000)
KINDS = ("flat", "peaked", "offset")
LABELS = ("hard", "soft")
DTYPES = ("float32", "float64")
ELEMENTS = 1 << 20  # logits of one batch, and at most MOST_ROWS rows
MOST_ROWS = 4096
# How many times the error may be larger at the most classes than at a thousand, and where errors
# begin to count: half a rounding is luck.
GROWTH, GROWTH_BASE = 3.0, 1000


@dataclass(frozen=True)
class Batch:
    """Which inputs: the same for every implementation."""

    dtype: str
    labels: str
    kind: str
    classes: int


@dataclass(frozen=True)
class Errors:
    """The largest errors of one implementation on one kind of batch."""

    loss: float = 0.0  # of a row's loss, over max(1, |loss|)
    mean: float = 0.0  # of the mean over the rows, over max(1, |mean|)
    gradient: float = 0.0  # relative to the gradient's largest entry
    row_sum: float = 0.0  # |sum of a row of the gradient|, which is 0 in truth

    def or_worse(self, other: Errors) -> Errors:
        """The larger of each."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Errors(*(float(np.maximum(*pair)) for pair in pairs))  # NaN stays


def aim(dtype: str, classes: int) -> float:
    """Largest error of a loss that is aimed at."""
    return 2e-7 if dtype == "float32" else 4e-16 * float(np.log2(classes))


def batches(all_classes: tuple[int, ...] = CLASSES) -> Iterator[Batch]:
    """Every kind of input, those of one dtype together."""
    for dtype, labels, kind, classes in product(DTYPES, LABELS, KINDS, all_classes):
        yield Batch(dtype, labels, kind, classes)


def inputs(batch: Batch, seed: int, elements: int = ELEMENTS) -> tuple[Array, Array]:
    """Logits and target of a batch: its text is its seed."""
    rng = np.random.default_rng([seed, zlib.crc32(repr(batch).encode())])
    rows = min(MOST_ROWS, max(1, elements // batch.classes))
    z = rng.standard_normal((rows, batch.classes))
    if batch.kind == "peaked":  # one class in ten far from the rest, or all of them are tiny
        z[rng.random(z.shape) < 0.1] *= 20
    elif batch.kind == "offset":  # the digits of large logits, which the loss may not lose
        z += 1e4
    if batch.labels == "hard":
        return z.astype(batch.dtype), rng.integers(0, batch.classes, rows)
    mass = rng.standard_exponential(z.shape)
    mass /= mass.sum(axis=1, keepdims=True)
    return z.astype(batch.dtype), mass.astype(batch.dtype)


def truth(logits: Array, target: Array) -> tuple[Array, Array]:
    """Losses and the gradient of their sum, in long double, by the formulas of a textbook."""
    z = logits.astype(np.longdouble)
    shifted = z - z.max(axis=1, keepdims=True)
    exps = np.exp(shifted)
    s = exps.sum(axis=1, keepdims=True)  # pairwise along contiguous classes
    if target.ndim == 1:
        rows = np.arange(len(z))
        losses = np.log(s[:, 0]) - shifted[rows, target]
        exps /= s
        exps[rows, target] -= 1
        return losses, exps
    t = target.astype(np.longdouble)
    mass = t.sum(axis=1, keepdims=True)
    losses = mass[:, 0] * np.log(s[:, 0]) - (t * shifted).sum(axis=1)
    return losses, exps * (mass / s) - t


def errors(results: tuple[Array, Array, Any], exact: tuple[Array, Array]) -> Errors:
    """Hold the results of an implementation against the truth."""
    losses, grad, mean = results
    true_losses, true_grad = exact
    true_mean = true_losses.mean()
    largest = np.abs(true_grad).max()
    return Errors(
        loss=float((np.abs(losses - true_losses) / np.maximum(1, np.abs(true_losses))).max()),
        mean=float(abs(np.longdouble(mean) - true_mean) / max(1, abs(true_mean))),
        gradient=float(np.abs(grad - true_grad).max() / largest),
        row_sum=float(np.abs(grad.astype(np.longdouble).sum(axis=1)).max()),
    )


def grown(by_classes: dict[int, Errors], dtype: str) -> dict[str, float]:
    """For loss and gradient: error at the most classes over that at a thousand.

    The mean is no measure of this: over fewer and longer rows less of their errors cancels.
    """
    floor = float(np.finfo(dtype).eps) / 2
    most, base = by_classes[max(by_classes)], by_classes[GROWTH_BASE]
    return {
        measure: getattr(most, measure) / max(getattr(base, measure), floor)
        for measure in ("loss", "gradient")
    }


def of_backend(backend: str) -> Implementation:
    """A backend of fastxent."""

    def run(logits: Array, target: Array) -> tuple[Array, Array, Any]:
        losses, grad = fx.cross_entropy_and_grad(logits, target, reduction="none", backend=backend)
        return losses, grad, fx.cross_entropy(logits, target, backend=backend)

    return run


def of_torch() -> Implementation:
    """PyTorch's `cross_entropy`, eager."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy

    def run(logits: Array, target: Array) -> tuple[Array, Array, Any]:
        z, t = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
        losses = cross_entropy(z, t, reduction="none")
        losses.sum().backward()
        mean = cross_entropy(z.detach(), t).item()
        return losses.detach().numpy(), z.grad.numpy(), mean

    return run


def of_jax() -> Implementation:
    """The label's element of JAX's `log_softmax`, compiled with its gradient."""
    import jax

    jax.config.update("jax_enable_x64", True)  # or float64 becomes float32

    def losses_of(logits: Any, target: Any) -> Any:
        log_proba = jax.nn.log_softmax(logits)
        if target.ndim == 2:
            return -(target * log_proba).sum(axis=1)
        return -jax.numpy.take_along_axis(log_proba, target[:, None], axis=1)[:, 0]

    def total(logits: Any, target: Any) -> Any:
        losses = losses_of(logits, target)
        return losses.sum(), (losses, losses.mean())

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def run(logits: Array, target: Array) -> tuple[Array, Array, Any]:
        (_, (losses, mean)), grad = compiled(logits, target)
        return np.asarray(losses), np.asarray(grad), np.asarray(mean)

    return run
