"""The verb binary on the device: elements that are each a choice of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import BinaryOutputs, HessRule
from fastxent.backends.cuda.arguments import address_of
from fastxent.backends.cuda.layouts import element_table
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import (
    ELEMENTS_A_THREAD,
    BinaryVariant,
    KernelSpec,
    LoopGeometry,
)
from fastxent.device_array import DeviceArray

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem

__all__ = ["binary", "partial_count"]

_FLOAT64 = np.dtype(np.float64)
_GEOMETRY = LoopGeometry(256)

# Arrays in the order of the layout table; those that may be numbers instead.
_FACTORS = ("ones", "factor", "upstream")
_INPUTS = ("logits", "target", *_FACTORS)
_OUTPUTS = ("loss", "grad", "proba", "hess")


def partial_count(problem: BinaryProblem) -> int:
    """How many sums `binary` writes."""
    return -(-problem.logits.size // (_GEOMETRY.threads * ELEMENTS_A_THREAD))


def binary(
    runtime: Runtime,
    problem: BinaryProblem,
    out: BinaryOutputs,
    is_integer: bool,
    bad_partial: DeviceArray | None = None,
) -> None:
    """Fill the outputs that are not None; how many bad targets each block found to `bad_partial`.

    A bad target gives its element a NaN loss and a gradient of 0.
    """
    logits: Any = problem.logits
    rule = problem.hess_rule or HessRule()
    arrays: dict[str, Any] = {name: getattr(problem, name) for name in _INPUTS}
    arrays |= {name: getattr(out, name) for name in _OUTPUTS}
    given: dict[str, Any] = {
        "partial": address_of(out.partial),
        "bad_partial": address_of(bad_partial),
        "elements": logits.size,
        "dims": logits.ndim,
        "gain": problem.gain,
        "background": problem.background,
        "hess_factor": rule.factor,
        "hess_floor": rule.floor,
    }
    for name, value in arrays.items():
        if isinstance(value, DeviceArray):
            given[name] = value.address
        elif value is not None:
            given[f"{name}_number"] = value
    is_dense = all(a.is_dense for a in arrays.values() if isinstance(a, DeviceArray))
    if not is_dense:
        table = element_table(list(arrays.values()), logits.shape)
        given["layout"] = runtime.table(table, logits.place)
    curved = out.hess is not None or out.proba is not None
    variant = BinaryVariant(
        kind=problem.logits_kind,
        target=problem.target_kind,
        is_integer=is_integer,
        curvature=rule.kind if curved else "",
        form="dense" if is_dense else "strided",
    )
    spec = KernelSpec("binary", variant, _GEOMETRY)
    runtime.launch(spec, partial_count(problem), logits.place, given)
