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

# Classes up to which each thread walks along a row of its own, and those that a thread of a block
# with one row takes.
_FEW_CLASSES, _CLASSES_A_THREAD = 32, 4
_BLOCKS = (32, 64, 128, 256, 512)
_STRIDED = LoopGeometry(128)


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
    alike = all(of.contiguous and of.pitch is not None for of in layouts.values())
    if alike and classes > _FEW_CLASSES:
        needed = -(-classes // _CLASSES_A_THREAD)
        threads = next((threads for threads in _BLOCKS if threads >= needed), _BLOCKS[-1])
        form, geometry, grid = "rows", LoopGeometry(threads), rows
        for name, of in layouts.items():
            given[f"{name}_pitch"] = (of.pitch or 0) // of.size
    else:
        form, geometry, grid = "strided", _STRIDED, -(-rows // _STRIDED.threads)
        given["layout"] = runtime.table(row_table(list(arrays.values())), out.place)
    variant = JacobianVariant(problem.precision.kind, is_log, form)
    runtime.launch(KernelSpec("jacobian", variant, geometry), grid, out.place, given)
