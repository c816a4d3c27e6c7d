"""The loss behind a linear layer, with the target and the options of a case."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import api, reference
from fastxent.cases import Case, dtype_of
from fastxent.cases.layouts import LAYOUTS
from fastxent.comparison import compare, each, largest
from fastxent.conformance import CaseResult
from fastxent.errors import OptionError
from fastxent.promises import wrong_kind

__all__ = ["arguments", "run"]

Array = NDArray[Any]

GRADS = ("hidden", "linear_weight", "linear_bias")
# Units in the last place that a logit may be off, for each root of the number of features: a sum
# of products in the BLAS's order, of terms that are at most a few times larger than the sum. The
# gradients are such sums over classes or rows, of terms that are mostly next to nothing.
ROUNDINGS = 16


def run(case: Case, dtype: str, backend: str) -> CaseResult:
    """Run the loss with its three gradients.

    Parameters
    ----------
    case : Case
        The target and all options; `layout` is that of the vectors.
    dtype : str
        Of the vectors, the weights and the bias.
    backend : str
        Name of the backend.

    Returns
    -------
    CaseResult
    """
    (hidden, weights, bias, target), options, few_rows = arguments(case, dtype)
    given = [array.copy() for array in (hidden, weights, bias, target)]

    def fused(memory_budget: float | None) -> Any:
        runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}
        runtime |= {"aux": case.asked, "memory_budget": memory_budget, "linear_bias": bias}
        return api.linear_cross_entropy_and_grad(hidden, weights, target, **options, **runtime)

    loss, grads, *more = fused(_bytes_for(few_rows, fused))
    faults: list[str] = []
    arrays = (hidden, weights, bias, target)
    if any(one.tobytes() != other.tobytes() for one, other in zip(arrays, given, strict=True)):
        faults.append("an argument was modified")
    of_loss = np.dtype(np.float64 if dtype == "float64" else np.float32)
    faults += wrong_kind("loss", loss, case.leading if case.reduction == "none" else (), of_loss)
    for name, array in zip(GRADS, arrays, strict=False):
        faults += wrong_kind(name, getattr(grads, name), array.shape, array.dtype)
    title = f"linear loss of {case} [{dtype}, {backend}]"
    if faults:
        return CaseResult(title, (), tuple(faults))
    names = tuple(name for name in case.asked if name in ("lse", "log_prob", "entropy", "z_loss"))

    def textbook(x: Array, precision: Any) -> tuple[Array, ...]:
        layer: dict[str, Any] = {"linear_bias": bias, "dtype": precision, **options}
        truth, of_arrays = reference.linear_cross_entropy_and_grad(x, weights, target, **layer)
        found = (truth, *(getattr(of_arrays, name) for name in GRADS))
        if not names:
            return found
        asides = reference.linear_cross_entropy_aux(x, weights, target, **layer)
        return (*found, *(asides[name] for name in names))

    rows = math.prod(case.leading)
    share = 1.0
    if case.reduction == "mean":
        share = 1 / (case.normalizer or max(1, rows))

    def grad_scale(truth: Array) -> Any:
        return max(largest(truth), share)

    count = ROUNDINGS * math.sqrt(weights.shape[1]) + (case.softcap or 0)
    count += math.sqrt(case.classes) + math.sqrt(rows)
    roundings = {"float32": count, "float64": count}
    comparisons = compare(
        ("loss", *GRADS, *names),
        (loss, *(getattr(grads, name) for name in GRADS), *(getattr(more[0], n) for n in names)),
        textbook,
        given[0],
        (each, *[grad_scale] * len(GRADS), *[each] * len(names)),
        (roundings,) * (1 + len(GRADS) + len(names)),
    )
    return CaseResult(title, comparisons, tuple(faults))


def arguments(
    case: Case, dtype: str
) -> tuple[tuple[Array, Array, Array, Array], dict[str, Any], bool]:
    """Vectors, weights, bias and target; options; whether only few rows are held at a time."""
    _, target, options = case.arguments(dtype)
    rng = np.random.default_rng(zlib.crc32(f"linear {case}".encode()))
    kind, features = dtype_of(dtype), int(rng.integers(1, 40))
    shape = list(case.shape)
    shape[case.axis] = features
    hidden = LAYOUTS[case.layout](rng.standard_normal(shape).astype(kind), case.axis % len(shape))
    weights = (rng.standard_normal((case.classes, features)) * 3 / math.sqrt(features)).astype(kind)
    bias = rng.standard_normal(case.classes).astype(kind)
    return (hidden, weights, bias, target), options, bool(rng.random() < 0.5)


def _bytes_for(few_rows: bool, call: Callable[[float | None], Any]) -> float | None:
    """A little more than the least that a call asks for, which its error tells; None for all."""
    if not few_rows:
        return None
    try:
        call(1)
    except OptionError as error:
        least = re.search(r"at least (\d+) bytes", str(error))
        return 1.2 * int(least[1]) if least else None
    return None
