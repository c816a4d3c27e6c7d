"""fastxent and another library turn and turn about in one process: a part of cohabitation.py.

usage: python -m reliability.cohabitation_pair PARTNER BACKEND FIRST SECONDS

FIRST, "fastxent" or "partner", is imported and used first. Prints JSON: by shape, the microseconds
of a call of each alone, and of one of each when they alternate.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["PARTNERS", "SHAPES", "measured"]

SHAPES = ((64, 256), (512, 1000))
ROUNDS = 9
# Idle threads of libgomp spin for a millisecond or more before they sleep: what ran before a
# measurement is to have no part in it.
REST = 0.01

Call = Callable[[], Any]


def _logits(shape: tuple[int, int]) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0])


def _fastxent(shape: tuple[int, int], backend: str) -> Call:
    import fastxent as fx

    logits, labels = _logits(shape)
    grad = np.empty_like(logits)
    return lambda: fx.cross_entropy_and_grad(logits, labels, out=grad, backend=backend)


def _torch(shape: tuple[int, int]) -> Call:
    import torch

    logits = torch.from_numpy(_logits(shape)[0])
    return lambda: torch.log_softmax(logits, 1)


def _numba(shape: tuple[int, int]) -> Call:
    from numba import njit, prange

    @njit(parallel=True)
    def exponentials(x: Any, out: Any) -> None:
        for row in prange(x.shape[0]):
            for k in range(x.shape[1]):
                out[row, k] = np.exp(x[row, k])

    logits, _ = _logits(shape)
    out = np.empty_like(logits)
    return lambda: exponentials(logits, out)


def _sklearn(shape: tuple[int, int]) -> Call:
    from sklearn._loss import HalfMultinomialLoss

    loss = HalfMultinomialLoss(n_classes=shape[1])
    logits, labels = _logits(shape)
    labels = labels.astype(np.float32)
    threads = len(os.sched_getaffinity(0))
    return lambda: loss.loss_gradient(labels, logits, n_threads=threads)


def _xgboost(shape: tuple[int, int]) -> Call:
    import xgboost

    features, labels = _logits((shape[0], 8))
    data = xgboost.DMatrix(features, labels % 2)
    options = {"objective": "binary:logistic", "max_depth": 2}
    return lambda: xgboost.train(options, data, num_boost_round=1).predict(data)


PARTNERS = {"PyTorch": _torch, "Numba": _numba, "scikit-learn": _sklearn, "XGBoost": _xgboost}


def _microseconds(calls: list[Call], count: int) -> float:
    time.sleep(REST)
    for call in calls:
        call()
    start = time.perf_counter()
    for _ in range(count):
        for call in calls:
            call()
    return 1e6 * (time.perf_counter() - start) / count


def measured(ours: Call, theirs: Call, seconds: float) -> dict[str, float]:
    """Median times of each alone and of the two in turn, in rounds of all three."""
    turns = {"ours": [ours], "theirs": [theirs], "pair": [ours, theirs]}
    for calls in turns.values():
        _microseconds(calls, 3)
    each = seconds / ROUNDS / len(turns)
    counts = {
        name: max(1, int(1e6 * each / _microseconds(calls, 3))) for name, calls in turns.items()
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(ROUNDS):
        for name, calls in turns.items():
            times[name].append(_microseconds(calls, counts[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def main(partner: str, backend: str, first: str, seconds: str) -> None:
    """Print the times."""
    if os.environ.get("FASTXENT_SHARE_OPENMP") == "1":
        import fastxent  # noqa: F401  what shares comes before everything
    found = {}
    for shape in SHAPES:
        # what is used first has started its threads first
        if first == "fastxent":
            ours = _fastxent(shape, backend)
            ours()
            theirs = PARTNERS[partner](shape)
        else:
            theirs = PARTNERS[partner](shape)
            theirs()
            ours = _fastxent(shape, backend)
        found["x".join(map(str, shape))] = measured(ours, theirs, float(seconds))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
