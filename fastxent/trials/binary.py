"""The binary loss on the arrays of a case, held against the reference."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import api, reference
from fastxent.cases import Case, dtype_of
from fastxent.cases.layouts import LAYOUTS
from fastxent.comparison import ROUNDINGS, compare, each, largest
from fastxent.conformance import CaseResult
from fastxent.promises import differing, wide, wrong_kind, wrong_with_out

__all__ = ["arguments", "run"]

Array = NDArray[Any]


def run(case: Case, dtype: str, backend: str) -> CaseResult:
    """Run the loss and its gradient; also alone, and into `out`, where the bits must be the same.

    Parameters
    ----------
    case : Case
        Its logits, the dtype and layout of its target; `weight`, `sample_weight` (with a weight of
        the positive side), `label_smoothing`, `reduction`, `grad_output`, `out`, `num_threads`.
    dtype : str
        Of the logits.
    backend : str
        Name of the backend.

    Returns
    -------
    CaseResult
    """
    logits, target, options = arguments(case, dtype)
    given, given_target = logits.copy(), target.copy()
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}

    def fused(**more: Any) -> Any:
        compute = api.binary_cross_entropy_with_logits_and_grad
        return compute(logits, target, **options, **runtime, **more)

    loss, grad = fused()
    forward = {name: value for name, value in options.items() if name != "grad_output"}
    alone = api.binary_cross_entropy_with_logits(logits, target, **forward, **runtime)
    faults = differing("of the loss alone", (alone,), (loss,))
    if (logits.tobytes(), target.tobytes()) != (given.tobytes(), given_target.tobytes()):
        faults.append("the logits or the target were modified")
    if case.out != "none":
        faults += wrong_with_out(case, logits, lambda out: fused(out=out), (loss, grad))
    loss_shape = case.shape if case.reduction == "none" else ()
    of_logits = np.dtype(given.dtype)
    kinds = wrong_kind("loss", loss, loss_shape, wide(of_logits))
    kinds += wrong_kind("gradient", grad, case.shape, of_logits)

    def textbook(x: Array, precision: Any) -> tuple[Array, Array]:
        compute = reference.binary_cross_entropy_with_logits_and_grad
        return compute(x, given_target, **options, dtype=precision)

    share = 1 / max(1, given.size) if case.reduction == "mean" else 1.0
    comparisons = () if kinds else compare(
        ("loss", "gradient"),
        (loss, grad),
        textbook,
        given,
        # a soft target near sigma(x) cancels: against the gradient of an element of mass 1
        (each, lambda grads: max(largest(grads), share)),
        (ROUNDINGS, ROUNDINGS),
    )  # fmt: skip
    title = f"binary loss of {case} [{dtype}, {backend}]"
    return CaseResult(title, comparisons, tuple(kinds + faults))


def arguments(case: Case, dtype: str) -> tuple[Array, Array, dict[str, Any]]:
    """Logits, target and options for `fastxent.binary_cross_entropy_with_logits_and_grad`."""
    logits, _, _ = case.arguments(dtype)
    rng = np.random.default_rng(zlib.crc32(f"binary {case}".encode()))
    shape, factors = case.shape, np.dtype(np.float64 if dtype == "float64" else np.float32)
    yes: Array
    if case.soft and case.labels != "one-hot":
        yes = rng.random(shape)
        yes[rng.random(shape) < 0.2] = 0
        yes[rng.random(shape) < 0.2] = 1
        label_dtype = dtype_of(case.label_dtype or dtype)
    else:
        yes = rng.random(shape) < 0.4
        label_dtype = dtype_of(case.label_dtype or ("bool" if case.soft else "int64"))
    target = LAYOUTS[case.target_layout](yes.astype(label_dtype), case.axis % len(shape))

    def factor(some_zero: bool) -> Array:
        of = [shape, shape[-1:], (), (*shape[:-1], 1)][int(rng.integers(4))]
        drawn = np.asarray(rng.uniform(0.5, 2, of))
        if some_zero:
            drawn = np.where(rng.random(of) < 0.5, 0, drawn)
        return np.asarray(drawn, factors)

    options: dict[str, Any] = {}
    if case.weight != "none":
        options["weight"] = factor(case.weight != "positive")
    if case.sample_weight:
        options["pos_weight"] = factor(some_zero=False)
    if case.label_smoothing:
        options["label_smoothing"] = case.label_smoothing
    if case.reduction != "mean":
        options["reduction"] = case.reduction
    if case.grad_output == "scalar":
        options["grad_output"] = -1.75
    elif case.grad_output == "rows":
        options["grad_output"] = np.asarray(rng.standard_normal(shape), factors)
    return logits, target, options
