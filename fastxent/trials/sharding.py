"""The loss of a case whose classes are spread over shards: each sees its own logits only."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import api
from fastxent.backends.contract import BLOCK, TILE_CLASSES
from fastxent.cases import Case
from fastxent.comparison import Comparison, compare_aux, compare_loss_and_grad
from fastxent.conformance import CaseResult
from fastxent.promises import differing, wide, wrong_kind

__all__ = ["run"]

Array = NDArray[Any]

# By how much the merged sums may be further off than those of one call: shards may begin
# anywhere, and each of them is one more rounding.
SHARE = 2.0


def run(case: Case, dtype: str, backend: str) -> CaseResult:
    """Run the statistics of one to four shards, merge them, and take loss and gradient from them.

    Parameters
    ----------
    case : Case
        Logits, target and all options; its text says where the shards begin.
    dtype : str
        Of the logits.
    backend : str
        Name of the backend.

    Returns
    -------
    CaseResult
        Where shards begin at blocks, and the single call has its classes along the last axis and
        puts them, not rows, into the SIMD lanes, the bits must be those of the single call.
    """
    logits, target, options = case.arguments(dtype)
    given = logits.copy()
    rng = np.random.default_rng(zlib.crc32(f"shards {case}".encode()))
    by_block = bool(rng.random() < 0.5) and case.classes > TILE_CLASSES
    edges = _edges(case.classes, by_block, rng)
    asked = tuple(name for name in case.asked if name != "target_grad")
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}
    runtime |= {"num_classes": case.classes, "aux": asked, "by_block": by_block}
    everything = options | runtime

    def part(array: Array, begin: int, end: int) -> Array:
        at: list[Any] = [slice(None)] * array.ndim
        at[case.axis] = slice(begin, end)
        some: Array = array[tuple(at)]
        return some

    shards = list(pairwise(edges))
    targets = [part(target, *shard) if case.soft else target for shard in shards]
    stats = api.merge_stats(
        *(
            _call(api.partial_stats, part(logits, *shard), one, everything, class_offset=shard[0])
            for shard, one in zip(shards, targets, strict=True)
        )
    )
    loss, *more = _as_tuple(_call(api.loss_from_stats, stats, target, everything))
    grad = np.empty(case.shape, logits.dtype)
    for shard, one in zip(shards, targets, strict=True):
        _call(
            *(api.grad_from_stats, part(logits, *shard), one, everything, stats),
            class_offset=shard[0],
            out=part(grad, *shard),
        )
    faults = [] if logits.tobytes() == given.tobytes() else ["the logits were modified"]
    loss_shape = case.leading if case.reduction == "none" else ()
    faults += wrong_kind("loss", loss, loss_shape, wide(logits.dtype))
    in_a_row = case.axis % logits.ndim == logits.ndim - 1 and case.layout != "F"
    if by_block and backend != "numpy" and in_a_row:
        single = api.cross_entropy_and_grad(logits, target, **options, backend=backend)
        faults += differing(f"over shards {edges}", (loss, grad), single)
    comparisons: tuple[Comparison, ...] = ()
    if not faults:
        comparisons = compare_loss_and_grad(loss, grad, given, target, options)
        if more:
            asides = {name: getattr(more[0], name) for name in asked}
            comparisons += compare_aux(asides, given, target, options)
    comparisons = tuple(Comparison(c.name, c.error, SHARE * c.tolerance) for c in comparisons)
    return CaseResult(f"shards {edges} of {case} [{dtype}, {backend}]", comparisons, tuple(faults))


def _edges(classes: int, by_block: bool, rng: np.random.Generator) -> list[int]:
    cuts = np.sort(rng.integers(0, classes + 1, int(rng.integers(0, 4))))
    if by_block:
        cuts = cuts // BLOCK * BLOCK
    return [0, *cuts.tolist(), classes]


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _call(
    function: Callable[..., Any],
    first: Any,
    target: Array,
    options: dict[str, Any],
    *stats: Any,
    **more: Any,
) -> Any:
    """Call with those options that the function has."""
    names = inspect.signature(function).parameters
    given = {name: options[name] for name in options if name in names}
    return function(first, target, *stats, **given, **more)
