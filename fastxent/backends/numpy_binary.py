"""The verb binary of the plain vectorised backend: a block of elements at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastxent.backends.contract import BinaryOutputs, HessRule
from fastxent.precision import HALF_KINDS, Array, narrow, widen

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem

__all__ = ["binary"]

# Elements a block: its arrays stay in cache.
_BLOCK = 1 << 16


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a shape into blocks, in C order."""
    first, inner = shape[0], shape[1:]
    size = math.prod(inner)
    if size > _BLOCK:
        for i in range(first):
            for rest in _blocks(inner):
                yield (slice(i, i + 1), *rest)
        return
    step = max(1, _BLOCK // size)
    for start in range(0, first, step):
        yield (slice(start, min(start + step, first)), *(slice(None) for _ in inner))


def binary(problem: BinaryProblem, out: BinaryOutputs) -> bool:
    """See `fastxent.backends.contract.Backend`."""
    bad = False
    is_integer = problem.target.dtype.kind in "iu" and problem.target_kind not in HALF_KINDS
    if out.total is not None:
        out.total[0] = 0
    with np.errstate(all="ignore"):
        for block in _blocks(problem.logits.shape):
            if is_integer:
                target = problem.target[block]
                bad = bad or bool(((target != 0) & (target != 1)).any())
            if any(getattr(out, name) is not None for name in out.__slots__):
                _block(problem, out, block)
    return bad


def _block(problem: BinaryProblem, out: BinaryOutputs, block: tuple[slice, ...]) -> None:
    def of_block(factor: float | Array) -> float | Array:
        return factor[block] if isinstance(factor, np.ndarray) else factor

    dtype = problem.compute
    x = widen(problem.logits[block], problem.logits_kind).astype(dtype, copy=False)
    y = widen(problem.target[block], problem.target_kind).astype(dtype, copy=False)
    gain, background = problem.gain, problem.background
    positive = of_block(problem.ones) * (gain * y + background)
    negative = gain * (1 - y) + background
    factor = of_block(problem.factor)
    above = x >= 0
    size = np.abs(x)
    e = np.exp(-size)
    linear = np.where(above, negative, positive)
    # a side without mass counts for nothing, be its logarithm infinite
    rest = np.where(linear != 0, linear * size, 0)
    loss = factor * ((positive + negative) * np.log1p(e) + rest)
    if out.total is not None:
        out.total[0] += loss.sum(dtype=np.float64)
    if out.proba is not None or out.hess is not None or out.grad is not None:
        scale = factor * of_block(problem.upstream)
        of_one, of_zero = np.where(above, 1, e), np.where(above, e, 1)
        sides = negative * of_one - positive * of_zero
    if out.proba is not None:
        out.proba[block] = narrow(of_one / (1 + e), problem.logits_kind)
    if out.hess is not None:
        rule = problem.hess_rule or HessRule()
        share = np.abs(sides) if rule.kind == "distance" else of_one * of_zero / (1 + e)
        hess = share / (1 + e) * scale * dtype.type(rule.factor)
        out.hess[block] = narrow(np.maximum(hess, dtype.type(rule.floor)), problem.logits_kind)
    if out.grad is not None:
        out.grad[block] = narrow(scale * sides / (1 + e), problem.logits_kind)
    if out.loss is not None:
        out.loss[block] = loss
