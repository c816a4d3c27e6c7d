"""Objects on a GPU that only show their memory, and what is given back for them.

``__cuda_array_interface__`` knows the stream but neither the device nor bfloat16, DLPack all of
them: it goes first. Who has neither is not on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import dlpack
from fastxent.interchange.library import Library, Wait
from fastxent.precision import Array, kind_of

__all__ = ["LIBRARY", "UNKNOWN_DEVICE", "DeviceMemory", "from_dlpack", "from_interface"]

# The device of an address that came without it: the backend asks the driver.
UNKNOWN_DEVICE = -1

# Numbers of the memory that the CPU can read: its own, and what GPUs share with it.
_DEVICES_OF_CPU = (1, 3, 11, 13)

# How both protocols name the legacy default stream, which the driver takes as 0 too; DLPack has -1
# for a consumer that needs no order.
_LEGACY, _NO_ORDER = 1, -1


def from_interface(value: Any, device: int = UNKNOWN_DEVICE) -> DeviceArray:
    """Array of what shows its memory by ``__cuda_array_interface__``, on the stream it names."""
    facts = value.__cuda_array_interface__
    if facts.get("mask") is not None:
        raise TypeError("it has a mask, which would be lost")
    address, is_read_only = facts["data"]
    stream = facts.get("stream") or 0
    place = Place(device, 0 if stream == _LEGACY else int(stream))
    strides = facts.get("strides")
    return DeviceArray(
        int(address or 0),
        tuple(map(int, facts["shape"])),
        np.dtype(facts["typestr"]),
        place,
        value,
        None if strides is None else tuple(map(int, strides)),
        not is_read_only,
    )


def from_dlpack(value: Any) -> DeviceArray:
    """Array of what shows its memory by DLPack, ready for work on the legacy default stream."""
    from fastxent.interchange import capsules  # with ctypes, 2.5 ms of `import fastxent`

    _, device = value.__dlpack_device__()
    capsule = value.__dlpack__(stream=_LEGACY)
    return capsules.from_capsule(capsule, Place(int(device), 0), value)


class DeviceMemory:
    """A new array on a GPU, for libraries to take over without a copy.

    It has no numbers of its own: pass it to whatever reads ``__cuda_array_interface__`` or DLPack,
    as ``cupy.asarray`` and ``torch.from_dlpack`` do.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, array: DeviceArray, wait: Wait) -> None:
        self._array, self._wait = array, wait
        self.shape, self.dtype = array.shape, array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        array = self._array
        if kind_of(array.dtype) == "bfloat16":
            raise AttributeError("bfloat16 has no name in __cuda_array_interface__: use DLPack")
        return {
            "shape": array.shape,
            "strides": None if array.is_dense else array.strides,
            "typestr": array.dtype.str,
            "data": (array.address, False),
            "stream": array.place.stream or _LEGACY,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._array.place.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        from fastxent.interchange import capsules

        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("this memory is shown where it is, and not copied")
        theirs = _LEGACY if stream is None else stream
        place = self._array.place
        if theirs not in (_NO_ORDER, place.stream or _LEGACY):
            self._wait(Place(place.device, theirs), place.stream)
        return capsules.capsule_of(self._array)

    def __repr__(self) -> str:
        return f"DeviceMemory({self.dtype}, shape={self.shape})"


class _Memory(Library):
    """No library: anything that shows memory of a GPU."""

    def owns(self, value: Any) -> bool:
        told = dlpack.device_of(value)
        if told is not None:
            return told[0] not in _DEVICES_OF_CPU
        return hasattr(value, "__cuda_array_interface__")

    def why_not(self, value: Any, name: str) -> str | None:
        return (
            "it lives on a GPU, and is to be in the CPU's memory here: copy it, or pass all arrays "
            "of the call on that GPU"
        )

    def read(self, value: Any) -> Array:
        raise NotImplementedError

    def give(self, result: Array, like: Any) -> Any:
        raise NotImplementedError

    def is_on_device(self, value: Any) -> bool:
        told = dlpack.device_of(value)
        return told is None or told[0] == dlpack.CUDA

    def read_on_device(self, value: Any) -> DeviceArray:
        has_dlpack = dlpack.device_of(value) is not None
        return from_dlpack(value) if has_dlpack else from_interface(value)

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        return DeviceMemory(result, wait)


LIBRARY = _Memory()
