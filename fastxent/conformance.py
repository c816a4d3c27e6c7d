"""Does a backend give the reference's numbers, and keep its promises?

What the tests and ``fastxent check`` share.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastxent import api, reference
from fastxent.cases import HESS_RULES, Case, dtype_of
from fastxent.cases.layouts import LAYOUTS
from fastxent.comparison import (
    ROUNDINGS,
    Comparison,
    compare,
    compare_aux,
    compare_hess,
    compare_loss_and_grad,
    each,
    largest,
    same_bits,
)
from fastxent.promises import (
    differing,
    grads_later,
    wide,
    with_hess,
    wrong_aux,
    wrong_kind,
    wrong_with_out,
)

__all__ = [
    "CaseResult",
    "Comparison",
    "compare_loss_and_grad",
    "finite_difference_grad",
    "run_case",
    "run_softmax_case",
    "same_bits",
]

Array = NDArray[Any]


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
    dtype = _dtype(dtype)
    logits, target, options = case.arguments(dtype)
    given, given_target = logits.copy(), target.copy()
    faults: list[str] = []
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}

    def fused(**more: Any) -> Any:
        return api.cross_entropy_and_grad(logits, target, **options, **runtime, **more)

    loss, grad = fused()
    forward_options = {name: options[name] for name in options if name != "grad_output"}
    loss_only = api.cross_entropy(logits, target, **forward_options, **runtime)
    if not same_bits(loss_only, loss):
        faults.append(f"the loss alone is {loss_only}, with the gradient {loss}")
    aux: Any = None
    of_aux: list[str] = []
    if case.asked:
        again = fused(aux=case.asked)
        aux = again[2]
        faults += differing("with `aux`", again[:2], (loss, grad))
        of_aux = wrong_aux(case, aux, given, target, options)
        faults += of_aux
        if "grad_output" not in options:
            alone = api.cross_entropy(logits, target, **options, **runtime, aux=case.asked)[1]
            faults += differing("side outputs of the loss alone:", alone, aux)
    for words, later in grads_later(logits, target, options, **runtime):
        faults += differing(f"{words}:", (later,), (grad,))
    of_hess: tuple[Array, ...] = ()
    if case.hess != "none":
        of_hess = with_hess(logits, target, case, options, backend)
        faults += differing("beside the Hessian", of_hess[:1], (grad,))
        copy = LAYOUTS[case.layout](given.copy(), case.axis % given.ndim)
        if case.out == "in-place":
            again = with_hess(copy, target, case, options, backend, in_place=True)
            faults += differing("with the Hessian, in place", again, of_hess)
    if not (_is_untouched(logits, given) and _is_untouched(target, given_target)):
        faults.append("the logits or the target were modified")
    if case.out != "none":
        asides = () if aux is None else aux

        def into(out: Array) -> tuple[Any, ...]:
            loss, grad, *more = fused(out=out, aux=case.asked)
            return (loss, *(more[0] if more else ()), grad)

        faults += wrong_with_out(case, logits, into, (loss, *asides, grad))
    loss_shape = case.leading if case.reduction == "none" else ()
    kinds = wrong_kind("loss", loss, loss_shape, wide(dtype))
    kinds += wrong_kind("gradient", grad, case.shape, dtype)
    ignored = not case.soft and target == case.ignore_index
    if np.moveaxis(grad, case.axis, -1)[ignored].any():
        faults.append("the gradient of an ignored row is not 0")

    comparisons: tuple[Comparison, ...] = ()
    if not kinds:
        comparisons = compare_loss_and_grad(loss, grad, given, target, options)
    if aux is not None and not of_aux:
        comparisons += compare_aux(aux._asdict(), given, target, options)
    if of_hess:
        rule = HESS_RULES[case.hess]
        comparisons += compare_hess(of_hess[1:], given, target, rule, options)
    faults = kinds + faults
    return CaseResult(f"{case} [{dtype.name}, {backend}]", comparisons, tuple(faults))


def run_softmax_case(case: Case, dtype: DTypeLike, backend: str) -> CaseResult:
    """Run softmax, log_softmax and logsumexp on the logits of one case.

    Over its class axis, and over two axes at once where there are two besides the rows.
    """
    dtype = _dtype(dtype)
    logits, _, _ = case.arguments(dtype)
    given = logits.copy()
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}
    comparisons: list[Comparison] = []
    faults: list[str] = []
    runs: tuple[tuple[Callable[..., Any], Callable[..., Array], Callable[[Array], Any]], ...] = (
        (api.softmax, reference.softmax, largest),
        (api.log_softmax, reference.log_softmax, each),
        (api.logsumexp, reference.logsumexp, each),
    )
    axes: list[int | tuple[int, ...]] = [case.axis]
    if len(case.leading) > 1:
        axes.append((logits.ndim - 1, 0) if case.axis == 1 else (-2, -1))
    for (function, textbook, scale_of), axis in ((run, axis) for run in runs for axis in axes):
        name = textbook.__name__
        result = function(logits, axis, **runtime)
        summed = np.atleast_1d(axis) % logits.ndim
        kept = tuple(n for at, n in enumerate(case.shape) if at not in summed)
        if name == "logsumexp":
            faults += wrong_kind(name, result, kept, wide(dtype))
        else:
            faults += wrong_kind(name, result, case.shape, dtype)
            if case.out != "none":
                x = LAYOUTS[case.layout](given.copy(), case.axis % given.ndim)
                call = functools.partial(_one_out, function, x, axis=axis, **runtime)
                faults += wrong_with_out(case, x, call, (result,))
        if not _is_untouched(logits, given):
            faults.append(f"{name}: the input was modified")
        if not faults:
            compute = functools.partial(_one, textbook, axis=axis)
            comparisons += compare((name,), (result,), compute, given, (scale_of,), (ROUNDINGS,))
    title = f"softmax functions of {case} [{dtype.name}, {backend}]"
    return CaseResult(title, tuple(comparisons), tuple(faults))


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    return dtype_of(dtype) if isinstance(dtype, str) else np.dtype(dtype)


def _is_untouched(array: Array, copy: Array) -> bool:
    """Whether an array still has the bits of its copy, those of each NaN too."""
    return array.tobytes() == copy.tobytes()


def _one(textbook: Callable[..., Array], x: Array, dtype: DTypeLike, axis: Any) -> tuple[Array]:
    return (textbook(x, axis, dtype),)


def _one_out(function: Callable[..., Any], x: Array, out: Array, **options: Any) -> tuple[Any]:
    return (function(x, out=out, **options),)


def finite_difference_grad(objective: Callable[[Array], Any], x: Array, step: float) -> Array:
    """Gradient of a scalar function of a float64 array, by central differences."""
    grad = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[index] = step
        grad[index] = (objective(x + shift) - objective(x - shift)) / (2 * step)
    return grad
