"""The objective of a fit: the mean loss of linear scores, its penalty, and their gradient.

Parameters are one matrix of (n_features, n_columns), with a last row for the intercept if there is
one; raveled, it is the vector that scikit-learn gives to L-BFGS. Columns are classes, or one for
the score of the second of two classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastxent import threads
from fastxent.backends import pick
from fastxent.precision import Array
from fastxent.sklearn.blas import on_one_thread
from fastxent.sklearn.blocks import Block, bounds_of, products_of, rows_between

__all__ = ["Objective"]

# Neighbouring blocks share a gradient, and these are added up in order: which thread takes which
# changes no bit. Sixteen of them need less memory than L-BFGS does.
_SHARES = 16

# A thread that waits for work takes some 50 us to begin, and must save more than that. A core does
# 12 to 50 products and additions a nanosecond in a fit.
_PRODUCTS_PER_THREAD = 20 * 200_000


class Objective:
    """Mean loss over all rows plus ``penalty / 2 * |coef|^2``, and its gradient.

    Parameters
    ----------
    X : (N, F) C-contiguous array or csr matrix, of float32 or float64
    labels : (N,) array of integers
        From 0 to n_columns - 1, or 0 and 1 where there is one column.
    weights : (N,) float64 array or None
        Weight of each row.
    total : float
        Their sum, by which the sum of the losses is divided.
    n_columns : int
    fit_intercept : bool
    penalty : float
    n_threads : int or None
        None for as many as are worth it, up to `fastxent.get_num_threads()`.

    Attributes
    ----------
    loss, largest : float
        The loss of the latest evaluation, and the largest entry of its gradient by magnitude.
    """

    def __init__(
        self,
        X: Any,
        labels: Array,
        weights: Array | None,
        total: float,
        *,
        n_columns: int,
        fit_intercept: bool,
        penalty: float,
        n_threads: int | None,
    ) -> None:
        self._features = X.shape[1]
        self.shape = (self._features + fit_intercept, n_columns)
        self._fit_intercept = fit_intercept
        self._penalty = penalty
        backend = pick(None)
        bounds = bounds_of(X, n_columns)
        count = len(bounds) - 1
        shares = min(_SHARES, count)
        self._shares: list[list[Block]] = []
        for share in range(shares):
            places = range(count * share // shares, count * (share + 1) // shares)
            scratch = np.empty((max(bounds[k + 1] - bounds[k] for k in places), n_columns), X.dtype)
            self._shares.append(
                [
                    Block.of(
                        rows_between(X, start, stop),
                        labels[start:stop],
                        None if weights is None else weights[start:stop],
                        total,
                        scratch[: stop - start],
                        backend,
                    )
                    for start, stop in ((bounds[k], bounds[k + 1]) for k in places)
                ]
            )
        self._gradients = np.empty((shares, *self.shape), X.dtype)
        self._products = np.empty((shares, self._features, n_columns), X.dtype)
        self._losses = np.empty(shares)
        self._n_threads = _threads(n_threads, products_of(X, n_columns), shares)
        self.loss = self.largest = np.nan

    @contextmanager
    def running(self) -> Iterator[Callable[[Array], tuple[float, Array]]]:
        """Give the function to minimise, with threads of its own and one for each call of BLAS."""
        with on_one_thread(), ThreadPoolExecutor(max(1, self._n_threads - 1)) as pool:
            yield lambda flat: self._evaluate(flat, pool)

    def _evaluate(self, flat: Array, pool: ThreadPoolExecutor) -> tuple[float, Array]:
        features = self._features
        parameters = flat.reshape(self.shape)
        stored = parameters.astype(self._gradients.dtype, copy=False)
        coef = stored[:features]
        intercept = stored[features] if self._fit_intercept else None
        numbers = itertools.count()

        def work() -> None:
            while (share := next(numbers)) < len(self._shares):
                self._losses[share] = self._evaluate_share(share, coef, intercept)

        others = [pool.submit(work) for _ in range(self._n_threads - 1)]
        work()
        for other in others:
            other.result()
        gradient = self._gradients.sum(axis=0, dtype=np.float64)
        weights = parameters[:features]
        gradient[:features] += self._penalty * weights
        self.loss = float(self._losses.sum() + self._penalty / 2 * np.vdot(weights, weights))
        self.largest = float(np.abs(gradient).max())
        return self.loss, gradient.reshape(-1)

    def _evaluate_share(self, share: int, coef: Array, intercept: Array | None) -> float:
        gradient, product = self._gradients[share], self._products[share]
        coef_gradient = gradient[: self._features]
        total = 0.0
        for at, block in enumerate(self._shares[share]):
            total += block.evaluate(coef, intercept)
            if at == 0:
                block.coef_gradient(coef_gradient)
            else:
                block.coef_gradient(product)
                np.add(coef_gradient, product, out=coef_gradient)
            if intercept is not None:
                of_block = block.intercept_gradient()
                gradient[-1] = of_block if at == 0 else gradient[-1] + of_block
        return total


def _threads(n_threads: int | None, products: int, shares: int) -> int:
    if n_threads is not None:
        return min(threads.plan(n_threads, 0, 0), shares)
    return max(1, min(threads.get_num_threads(), shares, products // _PRODUCTS_PER_THREAD))
