"""Rows that go through scores, loss and gradient together, small enough to stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from fastxent.backends.contract import Backend, BinaryOutputs, Outputs
from fastxent.binary import BinaryProblem
from fastxent.precision import Array
from fastxent.problem import Problem

__all__ = ["Block", "bounds_of", "products_of", "rows_between"]

# Bytes of rows of X and of their scores: what stays in an L2 cache of 1 MB while it is used. Then X
# is read once from memory, not twice, and no score ever gets there.
_BYTES = 5 << 18
_FEWEST_ROWS = 64

# OpenBLAS multiplies without packing where that takes at most so many products, and for few columns
# twice as fast: 900 rows of 64 features and 10 classes take 24 us in float64, twice as many 101.
# From about 24 classes on, the calls for more and smaller blocks cost what that saves.
_UNPACKED_PRODUCTS = 1_000_000
_UNPACKED_COLUMNS = 24
_FEWEST_UNPACKED_ROWS = 100

# A block of a sparse X must have so many entries for each feature: its gradient is dense.
_ENTRIES_PER_FEATURE = 8


def bounds_of(X: Any, n_columns: int) -> list[int]:
    """Where blocks begin and end; they depend on shapes only."""
    rows, features = X.shape
    itemsize = X.dtype.itemsize
    if sparse.issparse(X):
        row_bytes = (itemsize + X.indices.itemsize) * X.nnz // rows + n_columns * itemsize
        size = max(_FEWEST_ROWS, _BYTES // row_bytes)
        count = min(-(-rows // size), max(1, X.nnz // (_ENTRIES_PER_FEATURE * features)))
    else:
        size = max(_FEWEST_ROWS, _BYTES // ((features + n_columns) * itemsize))
        unpacked = _UNPACKED_PRODUCTS // (features * n_columns)
        if n_columns <= _UNPACKED_COLUMNS and unpacked >= _FEWEST_UNPACKED_ROWS:
            size = min(size, unpacked)
        count = -(-rows // size)
    return [rows * at // count for at in range(count + 1)]


def products_of(X: Any, n_columns: int) -> int:
    """Multiplications of an evaluation: of X with the coefficients, and with the gradient."""
    entries = X.nnz if sparse.issparse(X) else X.size
    return 2 * int(entries) * n_columns


def rows_between(X: Any, start: int, stop: int) -> Any:
    """Some rows of a dense or csr matrix, in its own memory."""
    if not sparse.issparse(X):
        return X[start:stop]
    first, last = X.indptr[start], X.indptr[stop]
    parts = (X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first)
    return type(X)(parts, shape=(stop - start, X.shape[1]), copy=False)


@dataclass(slots=True)
class Block:
    """Some rows, and the memory of their scores, over which their gradient is written.

    Attributes
    ----------
    X : (n, F) array or csr matrix
    scores : (n, n_columns) array
    losses : callable
        Turns the scores into the gradient and gives the rows' share of the mean loss.
    """

    X: Any
    scores: Array
    losses: Callable[[], float]
    ones: Array

    @classmethod
    def of(
        cls,
        X: Any,
        labels: Array,
        weights: Array | None,
        total: float,
        scores: Array,
        backend: Backend,
    ) -> Block:
        """Prepare everything but the scores, so that an evaluation only computes.

        `total` is what the sum of the losses is divided by.
        """
        prepare = _of_two_classes if scores.shape[1] == 1 else _of_classes
        losses = prepare(scores, labels, weights, total, backend)
        return cls(X, scores, losses, np.ones(len(scores), scores.dtype))

    def evaluate(self, coef: Array, intercept: Array | None) -> float:
        """Fill `scores` with the gradient with respect to them; the rows' share of the loss."""
        if sparse.issparse(self.X):
            self.scores[...] = self.X @ coef
        else:
            np.matmul(self.X, coef, out=self.scores)
        if intercept is not None:
            np.add(self.scores, intercept, out=self.scores)
        return self.losses()

    def coef_gradient(self, out: Array) -> None:
        """Fill the gradient with respect to the coefficients."""
        if sparse.issparse(self.X):
            out[...] = self.X.T @ self.scores
        else:
            np.matmul(self.X.T, self.scores, out=out)

    def intercept_gradient(self) -> Array:
        """Give the gradient with respect to the intercept."""
        gradient: Array = self.ones @ self.scores
        return gradient


def _of_classes(
    scores: Array, labels: Array, weights: Array | None, total: float, backend: Backend
) -> Callable[[], float]:
    problem = Problem.build(
        scores,
        labels,
        num_threads=1,
        ignore_index=None,
        sample_weight=weights,
        normalizer=total,
        out=scores,
    ).with_labels(backend)
    if weights is None:
        added = np.empty(1)
        outputs = Outputs(total=added, grad=scores)

        def mean() -> float:
            backend.forward(problem, outputs)
            return float(added[0]) / total

        return mean
    loss = np.empty(len(scores), scores.dtype)
    outputs = Outputs(loss=loss, grad=scores)

    def weighted_mean() -> float:
        backend.forward(problem, outputs)
        return float(weights @ loss) / total

    return weighted_mean


def _of_two_classes(
    scores: Array, labels: Array, weights: Array | None, total: float, backend: Backend
) -> Callable[[], float]:
    logits = scores[:, 0]
    problem = BinaryProblem(
        logits=logits,
        logits_kind=scores.dtype.name,
        target=labels.astype(np.uint8),
        target_kind="uint8",
        compute=scores.dtype,
        ones=1.0,
        factor=1 / total if weights is None else (weights / total).astype(scores.dtype),
        upstream=1.0,
        gain=1.0,
        background=0.0,
        num_threads=1,
    )
    added = np.empty(1)
    outputs = BinaryOutputs(grad=logits, total=added)

    def mean() -> float:
        backend.binary(problem, outputs)
        return float(added[0])

    return mean
