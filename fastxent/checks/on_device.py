"""Arrays on a GPU: where they are and how they lie. Their numbers are not looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.checks.reading import shown
from fastxent.device_array import DeviceArray
from fastxent.errors import BackendError, DTypeError, OutputError, ShapeError
from fastxent.interchange import Library, library_of
from fastxent.layout import join_axes, order_of, rows_view
from fastxent.precision import kind_of

__all__ = [
    "as_device_array",
    "check_class_weight_on_device",
    "check_dense",
    "check_element_factor_on_device",
    "check_is_writable",
    "check_row_factor_on_device",
    "check_same_device",
    "check_view",
    "is_on_device",
    "outline",
    "read_from",
]


def is_on_device(value: Any) -> bool:
    """Whether this is an array on a GPU."""
    if isinstance(value, DeviceArray):
        return True
    library = library_of(value)
    return library is not None and library.is_on_device(value)


def as_device_array(value: Any, name: str, first_name: str) -> DeviceArray:
    """Array on a GPU as it lies there; `first_name` is that of the argument that all follow."""
    if isinstance(value, DeviceArray):
        return value
    library = library_of(value)
    if library is None or not library.is_on_device(value):
        raise DTypeError(
            f"{name} is in the host's memory and {first_name} on a GPU: nothing is moved silently; "
            f"pass {name} as an array on that GPU, or {first_name} as one of the host"
        )
    return read_from(library, value, name)


def read_from(library: Library, value: Any, name: str) -> DeviceArray:
    """Array on a GPU that belongs to this library, as it lies there."""
    reason = library.why_not_on_device(value, name)
    if reason is None:
        try:
            array = library.read_on_device(value)
        except (ValueError, TypeError, KeyError, BufferError, RuntimeError) as error:
            raise DTypeError(f"{name} cannot be read as an array: {error}") from error
        if not array.dtype.isnative:
            reason = f"its dtype {array.dtype} is of foreign byte order, which no GPU has"
        elif not array.is_aligned:
            reason = f"its entries do not lie at multiples of their size: pass {name}.copy()"
        else:
            return array
    raise DTypeError(f"{name} cannot be read as an array: {reason}")


def check_same_device(array: DeviceArray, name: str, first: DeviceArray, first_name: str) -> None:
    """All arrays of a call are on one device."""
    if array.place.device != first.place.device:
        raise BackendError(
            f"{name} is on GPU {array.place.device} and {first_name} on GPU {first.place.device}: "
            "pass both on the same"
        )


def check_dense(array: DeviceArray, name: str) -> DeviceArray:
    """One entry after the other: what has no copy made by its library is not copied."""
    if not array.is_dense:
        raise ShapeError(
            f"{name} on the GPU has gaps or another order between its entries, strides "
            f"{array.strides}: pass a contiguous copy"
        )
    return array


def check_view(array: Any, axes: tuple[int, ...], name: str, like: Any = None) -> None:
    """Rows that kernels can walk through where they lie, as nothing is copied on a GPU.

    Several axes are to be one in the order that they have in the memory of `like`.
    """
    if array is None or isinstance(array, np.ndarray):
        return
    if len(axes) == 1:
        if rows_view(array, axes[0]) is None:
            raise ShapeError(
                f"{name} of {shown(array.shape)} and strides {array.strides} has more than four "
                "row dimensions that do not merge: pass a contiguous copy"
            )
    elif join_axes(array, order_of(array if like is None else like, axes)) is None:
        cure = "pass a contiguous copy with these axes last"
        if name == "out":
            cure = "pass memory in which they are, or no out"
        raise ShapeError(
            f"the axes {axes} of {name}, {shown(array.shape)} with strides {array.strides}, are "
            f"not one in memory: {cure}"
        )


def check_is_writable(out: Any) -> None:
    """Whether a library lets its arrays be written to."""
    library = library_of(out)
    reason = None if library is None else library.why_not_written()
    if reason is not None:
        raise OutputError(f"out cannot be written to: {reason}")


def _check_real(array: DeviceArray, name: str) -> None:
    if array.dtype.kind not in "fiub" and kind_of(array.dtype) is None:
        raise DTypeError(f"{name} has dtype {array.dtype}: expected real numbers")


def check_class_weight_on_device(weight: DeviceArray, num_classes: int) -> None:
    """Class weights; that they are finite and not negative is not looked at."""
    _check_real(weight, "weight")
    if weight.shape != (num_classes,):
        raise ShapeError(
            f"weight needs {shown((num_classes,))}, one weight a class; it has "
            f"{shown(weight.shape)}"
        )


def check_row_factor_on_device(
    factor: DeviceArray, name: str, rows_shape: tuple[int, ...], may_be_scalar: bool
) -> DeviceArray:
    """Factors of rows, of one dimension: an entry a row, or one."""
    _check_real(factor, name)
    if factor.shape == rows_shape or (may_be_scalar and factor.shape == ()):
        return factor.reshape(-1)
    expected = "must be a scalar or have" if may_be_scalar else "needs"
    raise ShapeError(
        f"{name} {expected} {shown(rows_shape)}, one value a row; it has {shown(factor.shape)}"
    )


def check_element_factor_on_device(
    factor: DeviceArray, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> DeviceArray:
    """Factors of elements, broadcast, in the dtype that computes."""
    if factor.dtype != dtype:
        raise DTypeError(
            f"{name} on the GPU has dtype {factor.dtype} and {dtype} computes: nothing is "
            f"converted there; pass it as {dtype}"
        )
    if name == "grad_output" and factor.shape not in ((), shape):
        raise ShapeError(
            f"grad_output must be a scalar or have {shown(shape)}, that of the logits; it has "
            f"{shown(factor.shape)}"
        )
    try:
        return factor.broadcast_to(shape)
    except ValueError:
        raise ShapeError(
            f"{name} of {shown(factor.shape)} cannot be broadcast to the logits' {shown(shape)}"
        ) from None


class _Interface:
    def __init__(self, array: DeviceArray) -> None:
        self.__array_interface__ = {
            "shape": array.shape,
            "typestr": f"|V{array.itemsize}",
            "data": (array.address, not array.writeable),
            "strides": array.strides,
            "version": 3,
        }


def outline(array: Any) -> Any:
    """NumPy array with the addresses of an array on a GPU, which nobody may read or write.

    NumPy's arithmetic on addresses then tells what overlaps. What is on the host stays as it is.
    """
    if not isinstance(array, DeviceArray):
        return array
    if not array.size:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Interface(array)).view(array.dtype)
