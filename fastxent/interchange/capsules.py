"""DLPack capsules of arrays on a GPU, read and made without the library that they come from.

https://dmlc.github.io/dlpack/latest/c_api.html has the structures. A capsule that was read is kept
as it is, under its first name, so that its own destructor frees the tensor when the last
`DeviceArray` of it is gone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray, Place
from fastxent.interchange.dlpack import CUDA
from fastxent.precision import bfloat16_dtype, kind_of

__all__ = ["capsule_of", "from_capsule"]

_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_LETTERS = {_INT: "i", _UINT: "u", _FLOAT: "f", _COMPLEX: "c", _BOOL: "b"}
_CODES = {letter: code for code, letter in _LETTERS.items()}
_NAME = b"dltensor"

_Pointer = ctypes.c_void_p
_Deleter = ctypes.CFUNCTYPE(None, _Pointer)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", _Pointer),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", _Pointer), ("deleter", _Deleter))


def _api(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_pointer_of = _api("PyCapsule_GetPointer", _Pointer, ctypes.py_object, ctypes.c_char_p)
# A capsule whose destructor runs is no object any more that Python may count references of.
_is_named = _api("PyCapsule_IsValid", ctypes.c_int, _Pointer, ctypes.c_char_p)
_pointer_in = _api("PyCapsule_GetPointer", _Pointer, _Pointer, ctypes.c_char_p)
_new_capsule = _api("PyCapsule_New", ctypes.py_object, _Pointer, ctypes.c_char_p, _Pointer)

# What consumers hold, by the address of its structure: the structure and the array.
_held: dict[int, tuple[Any, ...]] = {}


def _release(address: int) -> None:
    _held.pop(address, None)


def _destroy(capsule: int) -> None:
    # a consumer has given it another name, and calls the deleter itself
    if _is_named(capsule, _NAME):
        _release(_pointer_in(capsule, _NAME))


# as long as the module lives, that of functions that C may call
_RELEASE, _DESTROY = _Deleter(_release), _Deleter(_destroy)


def _dtype_of(tensor: _Tensor) -> np.dtype[Any]:
    if tensor.lanes == 1:
        if tensor.code == _BFLOAT and tensor.bits == 16:
            return bfloat16_dtype()
        if tensor.code in _LETTERS and tensor.bits % 8 == 0:
            return np.dtype(f"{_LETTERS[tensor.code]}{tensor.bits // 8}")
    raise TypeError(f"numbers of DLPack's code {tensor.code} with {tensor.bits} bits")


def from_capsule(capsule: Any, place: Place, owner: Any) -> DeviceArray:
    """Array of a capsule's memory."""
    managed = ctypes.cast(_pointer_of(capsule, _NAME), ctypes.POINTER(_Managed)).contents
    tensor = managed.tensor
    dtype = _dtype_of(tensor)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, dtype, place, (owner, capsule), strides)


def capsule_of(array: DeviceArray, device_type: int = CUDA) -> Any:
    """Capsule of an array, which lives until the consumer is done with it."""
    axes = ctypes.c_int64 * max(array.ndim, 1)
    shape = axes(*array.shape)
    strides = axes(*(step // array.itemsize for step in array.strides))
    is_bfloat16 = kind_of(array.dtype) == "bfloat16"
    tensor = _Tensor(
        data=array.address,
        device_type=device_type,
        device_id=array.place.device,
        ndim=array.ndim,
        code=_BFLOAT if is_bfloat16 else _CODES[array.dtype.kind],
        bits=array.itemsize * 8,
        lanes=1,
        shape=ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)),
        strides=ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)),
        byte_offset=0,
    )
    managed = _Managed(tensor, None, _RELEASE)
    address = ctypes.addressof(managed)
    _held[address] = managed, shape, strides, array
    return _new_capsule(address, _NAME, ctypes.cast(_DESTROY, _Pointer))
