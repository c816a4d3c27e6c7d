"""What a result must be besides right: dtype, shape, the same bits on every way, no harm done."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastxent import reference
from fastxent.backends import pick
from fastxent.backends.contract import HessRule, Outputs
from fastxent.cases import AUX, HESS_RULES, Case
from fastxent.cases.layouts import LAYOUTS, framed
from fastxent.cases.recipe import READ_ONLY
from fastxent.comparison import same_bits
from fastxent.problem import Problem

__all__ = [
    "differing",
    "grads_later",
    "wide",
    "with_hess",
    "wrong_aux",
    "wrong_kind",
    "wrong_with_out",
]

Array = NDArray[Any]


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of the statistics of rows of this dtype: never below float32."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def wrong_kind(
    name: str, result: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | type
) -> list[str]:
    """Say so where a result has not this shape and dtype."""
    if getattr(result, "dtype", None) == np.dtype(dtype) and np.shape(result) == shape:
        return []
    found = f"{getattr(result, 'dtype', type(result))} of shape {np.shape(result)}"
    return [f"{name}: expected {np.dtype(dtype)} of shape {shape}, got {found}"]


def differing(words: str, results: Iterable[Any], expected: Iterable[Any]) -> list[str]:
    """Say so where two ways to the same results give other bits."""
    pairs = zip(results, expected, strict=True)
    if all(one is other is None or same_bits(one, other) for one, other in pairs):
        return []
    return [f"{words} the results differ from those of the plain call"]


def grads_later(
    logits: Array, target: Array, options: dict[str, Any], backend: str, num_threads: int | None
) -> Iterator[tuple[str, Array]]:
    """Gradients from the row statistics of a forward pass, as frameworks' backward takes them.

    Of half precision, from arrays of its bits too.
    """
    ways: dict[str, tuple[Array, Array, str | None]]
    ways = {"from row statistics": (logits, target, None)}
    if logits.dtype.itemsize < 4:
        bits = target.view(np.uint16) if target.dtype == logits.dtype else target
        ways["from bits"] = (logits.view(np.uint16), bits, logits.dtype.name)
    for words, (given, given_target, storage) in ways.items():
        problem = Problem.build(
            given, given_target, num_threads=num_threads, storage=storage, **options
        )
        chosen = pick(backend, problem)
        problem = problem.with_labels(chosen)
        row_max = np.empty(problem.rows, problem.precision.compute)
        row_sum = np.empty(problem.rows)
        chosen.forward(problem, Outputs(row_max=row_max, row_sum=row_sum))
        yield words, problem.later_grad(chosen, row_max, row_sum).view(logits.dtype)


def with_hess(
    logits: Array,
    target: Array,
    case: Case,
    options: dict[str, Any],
    backend: str,
    in_place: bool = False,
) -> tuple[Array, Array, Array]:
    """Gradient, probabilities and Hessian of one pass, as adapters ask for them."""
    problem = Problem.build(logits, target, num_threads=case.num_threads, **options)
    problem.hess_rule = HessRule(*HESS_RULES[case.hess])
    chosen = pick(backend, problem)
    problem = problem.with_labels(chosen)
    grad = problem.new_output(logits if in_place else None)
    proba, hess = problem.new_output(None), problem.new_output(None)
    chosen.forward(problem, Outputs(grad=grad.rows, proba=proba.rows, hess=hess.rows))
    return grad.deliver(), proba.deliver(), hess.deliver()


def wrong_with_out(
    case: Case, logits: Array, call: Callable[[Array], tuple[Any, ...]], expected: tuple[Any, ...]
) -> list[str]:
    """Call with `out`, whose array comes last, and name what is wrong."""
    out = logits
    if case.out == "new":
        layout = "C" if case.layout in READ_ONLY else case.layout
        class_axis = case.axis % logits.ndim
        plain = np.full(logits.shape, np.nan, logits.dtype)
        out = framed(plain) if layout == "C" else LAYOUTS[layout](plain, class_axis)
    around = _around(out)
    results = call(out)
    faults = differing("with `out`", results, expected)
    if results[-1] is not out:
        faults.append("the array returned is not `out`")
    if _around(out) != around:
        faults.append("memory beside `out` was written")
    return faults


def _around(array: Array) -> bytes:
    """The memory that an array is a view of, without the entries of the array."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if root is array:
        return b""
    kept = array.copy()
    array[...] = 0
    around = root.tobytes()
    array[...] = kept
    return around


def wrong_aux(
    case: Case, aux: Any, logits: Array, target: Array, options: dict[str, Any]
) -> list[str]:
    """Name what is wrong with side outputs, but for their digits."""
    faults = []
    of_rows = wide(logits.dtype)
    kinds = dict.fromkeys(("lse", "log_prob", "entropy", "z_loss"), of_rows)
    kinds |= {"argmax": np.dtype(np.int64), "correct": np.dtype(bool)}
    kinds["target_grad"] = logits.dtype if target.dtype == np.bool_ else target.dtype
    if aux._fields != AUX:
        return [f"the side outputs are {aux._fields}"]
    for name in AUX:
        value = getattr(aux, name)
        if name not in case.asked:
            faults += [] if value is None else [f"{name} was not asked for"]
        else:
            shape = case.shape if name == "target_grad" else case.leading
            faults += wrong_kind(name, value, shape, kinds[name])
            ignored = not case.soft and target == case.ignore_index
            if np.any(np.asarray(value)[ignored] != (-1 if name == "argmax" else 0)):
                faults.append(f"{name} of an ignored row is not what it has to be")
    if faults or aux.argmax is None:
        return faults
    return _wrong_argmax(aux.argmax, aux.correct, logits, target, options)


@np.errstate(invalid="ignore")  # signalling NaN among the logits
def _wrong_argmax(
    argmax: ArrayLike,
    correct: ArrayLike | None,
    logits: Array,
    target: Array,
    options: dict[str, Any],
) -> list[str]:
    """Classes that are not the largest, unless what rounding cannot tell apart."""
    faults = []
    truth = reference.cross_entropy_aux(logits, target, **options)["argmax"]
    argmax = np.asarray(argmax)
    if not np.array_equal(argmax < 0, truth < 0):
        faults.append("argmax is -1 in the wrong rows")
    elif not np.array_equal(argmax, truth):
        # Rounding makes ties of scaled and capped logits, and the first of ties is taken.
        transform: dict[str, Any] = {
            name: options[name] for name in ("softcap", "logit_scale") if name in options
        }
        transform |= {"ignore_index": -1, "axis": options.get("axis", -1)}
        found, best = (
            reference.cross_entropy_aux(logits, index, **transform)["log_prob"]
            for index in (argmax, truth)
        )
        size = np.abs(logits[np.isfinite(logits)].astype(np.float64)).max(initial=1)
        epsilon = float(np.finfo(wide(logits.dtype)).eps)
        exact = transform.keys() == {"ignore_index", "axis"}
        if exact or (best - found).max() > 4 * epsilon * size:
            faults.append("argmax is not the first of the largest")
    if correct is not None:
        label = target
        if target.dtype.kind not in "iu":
            label = target.astype(np.float64).argmax(axis=options.get("axis", -1))
        if not np.array_equal(correct, (argmax >= 0) & (argmax == label)):
            faults.append("correct is not whether argmax is the target")
    return faults
