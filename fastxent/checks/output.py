"""Whether results can be written where the caller wants them."""

from __future__ import annotations

from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from fastxent.checks.on_device import check_is_writable, outline
from fastxent.checks.reading import as_array, shown
from fastxent.device_array import DeviceArray
from fastxent.errors import DTypeError, OutputError, ShapeError
from fastxent.interchange import library_of
from fastxent.layout import same_memory
from fastxent.precision import Array

__all__ = ["as_output", "check_out", "overlap", "raise_overlap"]

# How hard NumPy may search for a common element before two arrays count as overlapping.
# Any, because NumPy's type stubs know the special values -1 and 0 only.
_OVERLAP_WORK: Any = 10_000


def overlap(first: Array, second: Array) -> bool:
    """Whether two arrays share memory, or it would take long to say that they do not."""
    try:
        return bool(np.shares_memory(first, second, max_work=_OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(array: Array) -> bool:
    """Whether two of its entries are one in memory."""
    if not array.size:
        return False
    axes = [axis for axis in zip(array.strides, array.shape, strict=True) if axis[1] > 1]
    span = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in axes):
        if stride < span:
            break
        span += stride * (size - 1)
    else:
        return False
    # an axis steps into what the finer ones span: only an odd view does, so count its addresses
    addresses = np.zeros(1, np.int64)
    for stride, size in axes:
        addresses = np.add.outer(addresses, np.arange(size) * stride).reshape(-1)
    return bool(np.diff(np.sort(addresses)).min(initial=array.itemsize) < array.itemsize)


def raise_overlap(name: str, called: str = "out") -> NoReturn:
    """Say how `out` may share memory with an input, and that it does so otherwise."""
    raise OutputError(
        f"{called} overlaps {name} without being the same array: pass {called}={name} to write "
        "over it, or an array of its own"
    )


def as_output(out: Any) -> Any:
    """The memory of an array that is to be written, as a NumPy array; what is none as it is."""
    if out is None or isinstance(out, np.ndarray):
        return out
    check_is_writable(out)
    if library_of(out) is not None:
        return as_array(out, "out")
    # np.asarray may copy what has neither, and what is written to a copy is lost
    shows = hasattr(out, "__array_interface__") or hasattr(out, "__dlpack__")
    return as_array(out, "out") if shows else out


def check_out(
    out: Any,
    logits: Array,
    others: dict[str, Array | None],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    name: str = "logits",
    called: str = "out",
) -> Array | None:
    """Array that can be written to and shares memory with nothing but, exactly, the logits.

    `name` is what the caller knows the logits by, `called` what it knows `out` by.
    """
    if out is None:
        return None
    if isinstance(out, DeviceArray):
        outlines = {other: outline(array) for other, array in others.items()}
        check_out(outline(out), outline(logits), outlines, shape, dtype, name, called)
        return cast("Array", out)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise DTypeError(
            f"{called} must be a plain NumPy array, or a CPU array that shows its memory through "
            f"__array_interface__ or DLPack, got {type(out).__name__}"
        )
    if out.shape != shape:
        raise ShapeError(f"{called} needs {shown(shape)}; it has {shown(out.shape)}")
    if out.dtype != dtype:
        raise DTypeError(
            f"{called} needs dtype {np.dtype(dtype)} in native byte order, not {out.dtype}"
        )
    if not out.flags.writeable:
        raise OutputError(f"{called} is read-only")
    if _overlaps_itself(out):
        raise OutputError(
            f"{called} is a broadcast or overlapping view: several of its entries are one in memory"
        )
    if not same_memory(out, logits) and overlap(out, logits):
        raise_overlap(name, called)
    for other_name, other in others.items():
        if other is not None and overlap(out, other):
            raise OutputError(
                f"{called} shares memory with {other_name}, which would be overwritten"
            )
    return out
