"""The Jacobian products of softmax and log-softmax on the arrays of a case."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import api, reference
from fastxent.cases import Case, dtype_of
from fastxent.cases.layouts import LAYOUTS
from fastxent.comparison import Comparison
from fastxent.conformance import CaseResult
from fastxent.promises import wrong_kind, wrong_with_out

__all__ = ["arguments", "run"]

Array = NDArray[Any]
Product = Callable[..., Any]

# Half a unit in the last place of what is stored.
HALF_DIGIT = {"float32": 2**-24, "float64": 2**-53, "float16": 2**-11, "bfloat16": 2**-8}
# Roundings in the dtype that computes, of the terms that an entry is made of: as for the table of
# shapes of tests/test_softmax_backward.py.
ROUNDINGS = 8


def run(case: Case, dtype: str, backend: str) -> CaseResult:
    """Run both products, with `out` too where the case has one.

    Parameters
    ----------
    case : Case
        Its logits, whose softmax is the first argument; `target_layout`, of the gradient; `axis`,
        `out`, `num_threads`.
    dtype : str
        Of both arguments.
    backend : str
        Name of the backend.

    Returns
    -------
    CaseResult
    """
    faults: list[str] = []
    comparisons: list[Comparison] = []
    runtime: dict[str, Any] = {"backend": backend, "num_threads": case.num_threads}
    for is_log in (False, True):
        function: Product = api.log_softmax_backward if is_log else api.softmax_backward
        first, grad = arguments(case, dtype, is_log)
        given, given_grad = first.copy(), grad.copy()
        result = function(first, grad, case.axis, **runtime)
        if (first.tobytes(), grad.tobytes()) != (given.tobytes(), given_grad.tobytes()):
            faults.append(f"{function.__name__}: an input was modified")
        if case.out != "none":
            x = LAYOUTS[case.layout](given.copy(), case.axis % given.ndim)

            def into(
                out: Array, x: Array = x, grad: Array = grad, function: Product = function
            ) -> tuple[Any]:
                return (function(x, grad, case.axis, out=out, **runtime),)

            faults += wrong_with_out(case, x, into, (result,))
        wrong = wrong_kind(function.__name__, result, case.shape, given.dtype)
        faults += wrong
        if not wrong:
            error = _share_of_bound(result, given, given_grad, case.axis, is_log)
            comparisons.append(Comparison(function.__name__, error, 1.0))
    title = f"Jacobian products of {case} [{dtype}, {backend}]"
    return CaseResult(title, tuple(comparisons), tuple(faults))


@np.errstate(all="ignore")
def arguments(case: Case, dtype: str, is_log: bool) -> tuple[Array, Array]:
    """The (log-)softmax of the case's logits, and a gradient with respect to it."""
    logits, _, _ = case.arguments(dtype)
    rng = np.random.default_rng(zlib.crc32(f"jacobian {case}".encode()))
    compute = reference.log_softmax if is_log else reference.softmax
    kind, class_axis = dtype_of(dtype), case.axis % logits.ndim
    first = LAYOUTS[case.layout](compute(logits, case.axis).astype(kind), class_axis)
    grad = rng.standard_normal(case.shape).astype(kind)
    return first, LAYOUTS[case.target_layout](grad, class_axis)


@np.errstate(all="ignore")
def _share_of_bound(result: Array, first: Array, grad: Array, axis: int, is_log: bool) -> float:
    """The largest error, each as a share of what rounding may do to the terms of its entry."""
    compute = reference.log_softmax_backward if is_log else reference.softmax_backward
    truth = compute(first, grad, axis, np.longdouble)
    p, g = (np.asarray(one, np.float64) for one in (first, grad))
    size: Array
    # A sum of C terms that is rounded each time is off by sqrt(C) roundings (N. Higham, T. Mary, A
    # new approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019): that of
    # float64, in which all others have digits to spare.
    name = result.dtype.name
    of_sum = 1.0 + (np.sqrt(p.shape[axis]) / ROUNDINGS if name == "float64" else 0.0)
    if is_log:
        size = np.abs(g) + of_sum * np.exp(p) * np.abs(g).sum(axis=axis, keepdims=True)
    else:
        size = np.abs(p) * (np.abs(g) + of_sum * np.abs(p * g).sum(axis=axis, keepdims=True))
    found = result.astype(np.float64)
    finite = np.isfinite(truth)
    if not np.array_equal(found[~finite], truth[~finite].astype(np.float64), equal_nan=True):
        return float("inf")
    # float64 is computed in float64, all others in float32
    step = HALF_DIGIT["float64" if name == "float64" else "float32"]
    bound = ROUNDINGS * step * size + HALF_DIGIT[name] * np.abs(truth)
    # where numbers have fewer digits: half the smallest of float16, all of float32's
    bound = bound + (2.0**-25 if name == "float16" else np.finfo(np.float32).tiny)
    return float((np.abs(found - truth) / bound)[finite].max(initial=0))
