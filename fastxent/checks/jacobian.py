"""The arguments of the Jacobian products that no other function has."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from fastxent.checks.arrays import check_logits
from fastxent.checks.on_device import outline
from fastxent.checks.output import check_out, overlap, raise_overlap
from fastxent.checks.reading import shown
from fastxent.device_array import DeviceArray
from fastxent.errors import DTypeError, ShapeError
from fastxent.layout import same_memory
from fastxent.precision import Array, native

__all__ = ["check_out_of_product", "check_upstream"]


def check_upstream(
    value: Any, name: str, first: Array, first_name: str, storage: str | None
) -> Array:
    """Upstream gradient of the shape and dtype of the first input."""
    grad = check_logits(value, name, storage, may_be_scalar=first.ndim == 0)
    if grad.shape != first.shape:
        raise ShapeError(
            f"{name} needs {shown(first.shape)}, that of {first_name}; it has {shown(grad.shape)}"
        )
    if native(grad.dtype) != native(first.dtype):
        raise DTypeError(
            f"{first_name} has dtype {first.dtype} and {name} {grad.dtype}: nothing is converted "
            f"silently; pass {name}.astype({first_name}.dtype)"
        )
    return grad


def check_out_of_product(out: Any, inputs: dict[str, Array]) -> Array | None:
    """Array that can be written to: one of the inputs exactly, or apart from all of them."""
    if out is None:
        return None
    if isinstance(out, DeviceArray):
        check_out_of_product(outline(out), {name: outline(one) for name, one in inputs.items()})
        return cast("Array", out)
    first, *_ = inputs.values()
    shape, dtype = first.shape, native(first.dtype)
    if isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype:
        for name, one in inputs.items():
            if out is not one and not overlap(out, one):
                continue
            if not same_memory(out, one):
                raise_overlap(name)
            first = one
    return check_out(out, first, {}, shape, dtype)
