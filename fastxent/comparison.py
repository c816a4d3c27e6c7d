"""How far a result is from the reference, and how far it may be.

What is allowed is the error of the naive formulas in float32 on the same data, in units of the
machine epsilon, carried over to the dtype that computes, and a few roundings on top.
(float64 cannot be its own judge: there the naive formulas and the truth are the same numbers.)
Results that are stored in fewer digits than were computed may have been rounded once more.
What only special data shows, such as the drift of one long float32 sum, has tests of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastxent import reference

Array = NDArray[Any]
# The textbook's results for an array, computed in a dtype.
Textbook = Callable[[Array, DTypeLike], tuple[Array, ...]]

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
BFLOAT16_EPSILON = 2.0**-7


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


def compare_loss_and_grad(
    loss: ArrayLike, grad: ArrayLike, logits: Array, target: Array, options: dict[str, Any]
) -> tuple[Comparison, Comparison]:
    """Hold a loss and a gradient against the reference for the same arguments.

    The loss is measured against its own size, or against 1 if it is smaller; the gradient
    against its largest entry, so that a mean over many rows hides nothing, or against that of a
    row of mass 1 if all are smaller: where p - 1 cancels, nobody's digits are left. With a softcap
    also against the largest entry with respect to the capped logits z, of which the slope
    1 - (z / softcap)**2 makes a small one with the roundings of a large one.
    """
    least = least_scale_of_grad(logits, target, options)

    def compute(x: Array, dtype: DTypeLike) -> tuple[Array, Array]:
        return reference.cross_entropy_and_grad(x, target, **options, dtype=dtype)

    def grad_scale(truth: Array) -> Any:
        return max(largest(truth), least)

    of_loss, of_grad = compare(
        ("loss", "gradient"),
        (loss, grad),
        compute,
        logits,
        (each, grad_scale),
        tuple(_roundings(name, target, options) for name in ("loss", "gradient")),
    )
    return of_loss, of_grad


def compare_aux(
    side_outputs: Mapping[str, Any], logits: Array, target: Array, options: dict[str, Any]
) -> tuple[Comparison, ...]:
    """Hold those side outputs that have digits against the reference.

    Each number is measured against its own size, or against 1 if it is smaller; of the gradient
    with respect to the target, against that of a row of mass 1.
    """
    names = tuple(
        name
        for name in ("lse", "log_prob", "entropy", "z_loss", "target_grad")
        if side_outputs.get(name) is not None
    )
    row_share = _row_share(logits, options)

    def compute(x: Array, dtype: DTypeLike) -> tuple[Array, ...]:
        truth = reference.cross_entropy_aux(x, target, **options, dtype=dtype)
        return tuple(truth[name] for name in names)

    def target_grad_scale(truth: Array) -> Any:
        return np.maximum(np.abs(truth), row_share)

    return compare(
        names,
        tuple(side_outputs[name] for name in names),
        compute,
        logits,
        tuple(target_grad_scale if name == "target_grad" else each for name in names),
        tuple(_roundings(name, target, options) for name in names),
    )


def compare_hess(
    results: tuple[Array, ...],
    logits: Array,
    target: Array,
    rule: tuple[str, float, float],
    options: dict[str, Any],
) -> tuple[Comparison, ...]:
    """Hold probabilities and the diagonal of the Hessian against the reference.

    The probabilities are measured against 1, the Hessian as the gradient is: where p (1 - p) is
    small, the digits that are left are those of p, times the largest factor of a row.
    """
    factors = (rule[1], *(options.get(name, 1) for name in ("sample_weight", "grad_output")))
    largest_factor = math.prod(
        float(np.abs(one).max(initial=0)) for one in map(np.asarray, factors)
    )
    row_share = _row_share(logits, options) * max(1.0, largest_factor)

    def compute(x: Array, dtype: DTypeLike) -> tuple[Array, ...]:
        return reference.softmax_hessian(x, target, *rule, **options, dtype=dtype)

    def hess_scale(truth: Array) -> Any:
        return max(largest(truth), row_share)

    names, roundings = ("probabilities", "Hessian"), _roundings("gradient", target, options)
    return compare(names, results, compute, logits, (each, hess_scale), (roundings, roundings))


@np.errstate(invalid="ignore", over="ignore")  # a signalling NaN, or 1e40 that becomes float32
def compare(
    names: tuple[str, ...],
    results: tuple[Any, ...],
    compute: Textbook,
    x: Array,
    scales: tuple[Callable[[Array], Any], ...],
    roundings: tuple[dict[str, float], ...],
) -> tuple[Comparison, ...]:
    """Errors of some results, and tolerances from ``compute(x, dtype)``, the textbook formulas."""
    double = x.dtype == np.float64
    epsilon = float(np.finfo(np.float64).eps) if double else FLOAT32_EPSILON
    truths = compute(x, np.float64)
    narrow = x.astype(np.float32)
    narrow_truths = compute(narrow, np.float64) if double else truths
    naives = compute(narrow, np.float32)
    comparisons = []
    for i, name in enumerate(names):
        naive = error_of(naives[i], narrow_truths[i], scales[i], FLOAT32_EPSILON) / FLOAT32_EPSILON
        more = roundings[i]["float64" if double else "float32"]
        tolerance = epsilon * (NAIVE_ERRORS * naive + more)
        # Half of the digits at least: no case may be so hard that anything goes.
        tolerance = min(tolerance, math.sqrt(epsilon))
        error = error_of(results[i], truths[i], scales[i], epsilon)
        comparisons.append(Comparison(name, error, tolerance))
    return tuple(comparisons)


@np.errstate(invalid="ignore")  # a signalling NaN, made quiet
def same_bits(one: ArrayLike, other: ArrayLike) -> bool:
    """Whether two results have equal dtype, shape and bits; any NaN equals any other."""
    one, other = np.asarray(one), np.asarray(other)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.dtype.kind not in "biu":
        # every storage dtype is exact in float64
        one, other = one.astype(np.float64), other.astype(np.float64)
        one, other = (np.where(np.isnan(values), np.nan, values) for values in (one, other))
    return one.tobytes() == other.tobytes()


def each(truth: Array) -> Any:
    """Scale of results that are measured against their own size, or 1."""
    return np.maximum(1, np.abs(truth))


def largest(truth: Array) -> Any:
    """Scale of results that are measured against the largest of them."""
    return np.abs(truth[np.isfinite(truth)]).max(initial=0)


def _row_share(logits: Array, options: dict[str, Any]) -> float:
    """What the reduction makes of a row of mass 1."""
    if options.get("reduction", "mean") != "mean":
        return 1.0
    rows = logits.size // logits.shape[options.get("axis", -1)]
    return 1 / abs(float(options.get("normalizer") or max(1, rows)))


def least_scale_of_grad(logits: Array, target: Array, options: dict[str, Any]) -> float:
    """What a gradient is measured against where all of its entries are smaller."""
    return max(_row_share(logits, options), _before_the_slope(logits, target, options))


def _before_the_slope(logits: Array, target: Array, options: dict[str, Any]) -> float:
    """Largest entry of the gradient with respect to capped logits; 0 without a softcap."""
    cap = options.get("softcap")
    if not cap:
        return 0.0
    rest = {name: one for name, one in options.items() if name not in ("softcap", "logit_scale")}
    scale = options.get("logit_scale", 1.0)
    with np.errstate(invalid="ignore"):
        x = logits.astype(np.float64)
        z = np.where(np.isneginf(x), x, cap * np.tanh(scale * x / cap))
    _, grad = reference.cross_entropy_and_grad(z, target, **rest, dtype=np.float64)
    steepest: float = abs(scale) * float(largest(grad))
    return steepest


def _roundings(name: str, target: Array, options: dict[str, Any]) -> dict[str, float]:
    """Machine epsilons that a result may be off besides the error of the naive formulas."""
    spread = np.asarray(target).dtype.kind not in "iu" or options.get("label_smoothing", 0) > 0
    # the mass of an entropy is that of the softmax: spread over all classes
    roundings = ROUNDINGS_OF_SPREAD_MASS if spread or name == "entropy" else ROUNDINGS
    # Capped logits are as large as the cap, and losses are differences of them: one rounding of
    # the cap, which the naive formulas may be spared by chance.
    return {dtype: count + (options.get("softcap") or 0) for dtype, count in roundings.items()}


def error_of(result: Any, truth: Array, scale_of: Callable[[Array], Any], epsilon: float) -> float:
    """Largest error in units of the scale; infinite unless NaN and inf are where they should be.

    A result stored in fewer digits than `epsilon` has is given the rounding to what is stored.
    """
    stored = np.asarray(result)
    result = stored.astype(np.float64)
    finite = np.isfinite(truth)
    same_places = np.array_equal(finite, np.isfinite(result))
    if not same_places or not np.array_equal(result[~finite], truth[~finite], equal_nan=True):
        return math.inf
    scale = np.broadcast_to(scale_of(truth), truth.shape)[finite]
    result, truth = result[finite], truth[finite]
    error = np.abs(result - truth)
    half_digit, half_subnormal = _half_digit(stored.dtype)
    if half_digit > epsilon:
        spared = half_digit * np.maximum(np.abs(result), np.abs(truth)) + half_subnormal
        error = np.maximum(0, error - spared)
    return float((error / scale).max(initial=0))


def _half_digit(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Largest error of rounding to a dtype: relative, and where it becomes subnormal."""
    if dtype.name == "bfloat16":
        return BFLOAT16_EPSILON / 2, 2.0**-134
    info = np.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_subnormal) / 2
