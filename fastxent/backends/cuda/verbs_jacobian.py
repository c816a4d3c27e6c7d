"""The verb softmax_backward on the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastxent.backends.cuda.layouts import row_table
from fastxent.backends.cuda.plan import Rows
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import JacobianVariant, KernelSpec, LoopGeometry

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]

# Threads of a block for one row of contiguous classes, and of one with a row for each of them.
_ROW, _STRIDED = LoopGeometry(256), LoopGeometry(128)


def softmax_backward(runtime: Runtime, problem: JacobianProblem, out: Any) -> None:
    """Fill `out` with the Jacobian product."""
    is_log = problem.proba is None
    first: Any = problem.log_proba if is_log else problem.proba
    arrays = {"first": first, "grad": problem.grad, "out": out}
    layouts = {name: Rows.of(array) for name, array in arrays.items()}
    *leading, classes = out.shape
    rows = math.prod(leading)
    if not rows:
        return
    given: dict[str, Any] = {name: array.address for name, array in arrays.items()}
    given |= {"rows": rows, "classes": classes}
    if all(of.contiguous and of.pitch is not None for of in layouts.values()):
        form, geometry, grid = "rows", _ROW, rows
        for name, of in layouts.items():
            given[f"{name}_pitch"] = (of.pitch or 0) // of.size
    else:
        form, geometry, grid = "strided", _STRIDED, -(-rows // _STRIDED.threads)
        given["layout"] = runtime.table(row_table(list(arrays.values())), out.place)
    variant = JacobianVariant(problem.precision.kind, is_log, form)
    runtime.launch(KernelSpec("jacobian", variant, geometry), grid, out.place, given)
