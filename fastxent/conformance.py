"""Does a backend give the reference's numbers? What the tests and ``fastxent check`` share.

How far a result may be off is the error of the naive formulas in float32 on the same data, in
units of the machine epsilon, carried over to the dtype at hand, and a few roundings on top.
(float64 cannot be its own judge: there the naive formulas and the truth are the same numbers.)
What only special data shows, such as the drift of one long float32 sum, has tests of its own.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastxent import api, reference
from fastxent.cases import Case

Array = NDArray[Any]

# How many times the naive formulas' error is allowed. It grows on data that the kernels are to do
# better on than the naive formulas, so the roundings carry most of the tolerance.
NAIVE_ERRORS = 1.0
# Machine epsilons on top: a little more than the largest error of the table of cases and of some
# thousand random ones, over all backends and levels, which is the number in the comment. It is
# large where a lane that holds almost 1 is added to once for every 16 (float64: 8) classes of a
# block, a rounding each. Exponentials do that in float64; in float32 they are mostly too small
# to be added at all, but the mass of targets that is spread over all classes does it.
ROUNDINGS = {"float32": 3.0, "float64": 16.0}  # 1.8, 15.0
ROUNDINGS_OF_SPREAD_MASS = {"float32": 16.0, "float64": 16.0}  # 13.4, 14.9
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Comparison:
    """How far one result is from the truth, and how far it may be."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; an infinite error never is."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        sign = "<=" if self.passed else ">"
        return f"{self.name}: error {self.error:.2e} {sign} tolerance {self.tolerance:.2e}"


@dataclass(frozen=True)
class CaseResult:
    """What came of one case: the numbers, and the promises that were not kept."""

    title: str
    comparisons: tuple[Comparison, ...]
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all numbers are within tolerance and all promises kept."""
        return not self.faults and all(comparison.passed for comparison in self.comparisons)

    def explain(self) -> str:
        """The numbers and the faults, one a line."""
        return "\n  ".join([self.title, *map(str, self.comparisons), *self.faults])


def run_case(case: Case, dtype: DTypeLike, backend: str) -> CaseResult:
    """Run one case of the loss on a backend and hold it against the reference and its promises."""
    logits, target, options = case.arguments(dtype)
    given = logits.copy()
    faults = []
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}

    def fused(**more: Any) -> tuple[Any, Array]:
        return api.cross_entropy_and_grad(logits, target, **options, **runtime, **more)

    loss, grad = fused()
    forward_options = {name: options[name] for name in options if name != "grad_output"}
    loss_only = api.cross_entropy(logits, target, **forward_options, **runtime)
    if not same_bits(loss_only, loss):
        faults.append(f"the loss alone is {loss_only}, with the gradient {loss}")
    if not same_bits(logits, given):
        faults.append("the logits were modified")
    if case.out != "none":
        out = logits if case.out == "in-place" else np.full_like(logits, np.nan)
        loss_again, grad_again = fused(out=out)
        if grad_again is not out:
            faults.append("the gradient returned is not `out`")
        if not (same_bits(loss_again, loss) and same_bits(grad_again, grad)):
            faults.append("with `out`, loss or gradient differ from the allocating call")

    loss_shape = case.leading if case.reduction == "none" else ()
    faults += _wrong_kind("loss", loss, loss_shape, dtype)
    faults += _wrong_kind("gradient", grad, case.shape, dtype)
    ignored = not case.soft and target == case.ignore_index
    if np.moveaxis(grad, case.axis, -1)[ignored].any():
        faults.append("the gradient of an ignored row is not 0")
    comparisons = () if faults else compare_loss_and_grad(loss, grad, given, target, options)
    return CaseResult(f"{case} [{np.dtype(dtype)}, {backend}]", comparisons, tuple(faults))


def run_softmax_case(case: Case, dtype: DTypeLike, backend: str) -> CaseResult:
    """Run softmax, log_softmax and logsumexp on the logits of one case."""
    logits, _, _ = case.arguments(dtype)
    given = logits.copy()
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}
    comparisons: list[Comparison] = []
    faults: list[str] = []
    runs: tuple[tuple[Callable[..., Any], Callable[..., Array], Callable[[Array], Any]], ...] = (
        (api.softmax, reference.softmax, _largest),
        (api.log_softmax, reference.log_softmax, _each),
        (api.logsumexp, reference.logsumexp, _each),
    )
    for function, textbook, scale_of in runs:
        name = textbook.__name__
        result = function(logits, case.axis, **runtime)
        shape = case.leading if name == "logsumexp" else case.shape
        faults += _wrong_kind(name, result, shape, dtype)
        if case.out != "none" and name != "logsumexp":
            x = logits.copy()
            out = x if case.out == "in-place" else np.full_like(x, np.nan)
            if function(x, case.axis, out=out, **runtime) is not out:
                faults.append(f"{name}: the array returned is not `out`")
            if not same_bits(out, result):
                faults.append(f"{name}: with `out` the result differs from the allocating call")
        if not same_bits(logits, given):
            faults.append(f"{name}: the input was modified")
        if not faults:
            compute = functools.partial(_one, textbook, axis=case.axis)
            comparisons += _compare((name,), (result,), compute, given, (scale_of,), ROUNDINGS)
    title = f"softmax functions of {case} [{np.dtype(dtype)}, {backend}]"
    return CaseResult(title, tuple(comparisons), tuple(faults))


def compare_loss_and_grad(
    loss: ArrayLike, grad: ArrayLike, logits: Array, target: Array, options: dict[str, Any]
) -> tuple[Comparison, Comparison]:
    """Hold a loss and a gradient against the reference for the same arguments.

    The loss is measured against its own size, or against 1 if it is smaller; the gradient
    against its largest entry, so that a mean over many rows hides nothing, or against that of a
    row of mass 1 if all are smaller: where p - 1 cancels, nobody's digits are left.
    """
    spread_mass = np.asarray(target).dtype.kind not in "iu" or options.get("label_smoothing", 0) > 0
    row_share = 1.0
    if options.get("reduction", "mean") == "mean":
        rows = logits.size // logits.shape[options.get("axis", -1)]
        row_share = 1 / abs(options.get("normalizer") or max(1, rows))

    def compute(x: Array, dtype: DTypeLike) -> tuple[Array, Array]:
        return reference.cross_entropy_and_grad(x, target, **options, dtype=dtype)

    def grad_scale(truth: Array) -> Any:
        return max(_largest(truth), row_share)

    of_loss, of_grad = _compare(
        ("loss", "gradient"),
        (loss, grad),
        compute,
        logits,
        (_each, grad_scale),
        ROUNDINGS_OF_SPREAD_MASS if spread_mass else ROUNDINGS,
    )
    return of_loss, of_grad


def finite_difference_grad(objective: Callable[[Array], Any], x: Array, step: float) -> Array:
    """Gradient of a scalar function of a float64 array, by central differences."""
    grad = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[index] = step
        grad[index] = (objective(x + shift) - objective(x - shift)) / (2 * step)
    return grad


def same_bits(one: ArrayLike, other: ArrayLike) -> bool:
    """Whether two results have equal dtype, shape and bits; any NaN equals any other."""
    one, other = np.asarray(one), np.asarray(other)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    one, other = (np.where(np.isnan(values), np.nan, values) for values in (one, other))
    return one.tobytes() == other.tobytes()


def _wrong_kind(name: str, result: Any, shape: tuple[int, ...], dtype: DTypeLike) -> list[str]:
    if getattr(result, "dtype", None) == np.dtype(dtype) and np.shape(result) == shape:
        return []
    found = f"{getattr(result, 'dtype', type(result))} of shape {np.shape(result)}"
    return [f"{name}: expected {np.dtype(dtype)} of shape {shape}, got {found}"]


def _one(textbook: Callable[..., Array], x: Array, dtype: DTypeLike, axis: int) -> tuple[Array]:
    return (textbook(x, axis, dtype),)


def _each(truth: Array) -> Any:
    return np.maximum(1, np.abs(truth))


def _largest(truth: Array) -> Any:
    return np.abs(truth[np.isfinite(truth)]).max(initial=0)


def _compare(
    names: tuple[str, ...],
    results: tuple[Any, ...],
    compute: Callable[[Array, DTypeLike], tuple[Array, ...]],
    x: Array,
    scales: tuple[Callable[[Array], Any], ...],
    roundings: dict[str, float],
) -> tuple[Comparison, ...]:
    """Errors of some results, and tolerances from ``compute(x, dtype)``, the textbook formulas."""
    truths = compute(x, np.float64)
    narrow = x.astype(np.float32)
    narrow_truths = truths if x.dtype == narrow.dtype else compute(narrow, np.float64)
    naives = compute(narrow, np.float32)
    comparisons = []
    for i, name in enumerate(names):
        dtype = np.asarray(results[i]).dtype
        epsilon = float(np.finfo(dtype).eps)
        naive = _error(naives[i], narrow_truths[i], scales[i]) / FLOAT32_EPSILON
        tolerance = epsilon * (NAIVE_ERRORS * naive + roundings[dtype.name])
        # Half of the digits at least: no case may be so hard that anything goes.
        tolerance = min(tolerance, math.sqrt(epsilon))
        comparisons.append(Comparison(name, _error(results[i], truths[i], scales[i]), tolerance))
    return tuple(comparisons)


def _error(result: Any, truth: Array, scale_of: Callable[[Array], Any]) -> float:
    """Largest error in units of the scale; infinite unless NaN and inf are where they should be."""
    result = np.asarray(result)
    finite = np.isfinite(truth)
    same_places = np.array_equal(finite, np.isfinite(result))
    if not same_places or not np.array_equal(result[~finite], truth[~finite], equal_nan=True):
        return math.inf
    scale = np.broadcast_to(scale_of(truth), truth.shape)[finite]
    return float((np.abs(result[finite] - truth[finite]) / scale).max(initial=0))
