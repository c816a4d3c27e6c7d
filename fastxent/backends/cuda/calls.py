"""Calls of NVIDIA's driver: through its bindings, in the primary context of a device."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from fastxent import checks
from fastxent.backends.cuda.launch import Library, open_library

__all__ = ["Calls"]


class Calls:
    """Functions of the driver's API, with devices as numbers.

    The primary context of a device is used, which other libraries share, and the caller's current
    context is left as it was.

    Parameters
    ----------
    bindings, library : optional
        What stands for cuda.bindings.driver and for the driver's library. Both are looked for
        when they are first needed.
    """

    def __init__(self, bindings: Any = None, library: Any = None) -> None:
        self._given_bindings, self._given_library = bindings, library
        self._context = functools.cache(self._primary_context)

    @functools.cached_property
    def _bindings(self) -> Any:
        return self._given_bindings or importlib.import_module("cuda.bindings.driver")

    @functools.cached_property
    def _library(self) -> Library:
        return Library(self._given_library or open_library())

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the bindings; what they report is raised."""
        code, *results = getattr(self._bindings, name)(*arguments)
        if int(code):
            checks.raise_backend(f"{name}: {self._words(code)}")
        return results[0] if results else None

    def _words(self, code: Any) -> str:
        _, text = self._bindings.cuGetErrorString(code)
        said = text.decode() if isinstance(text, bytes) else "unknown error"
        return f"{said} (CUDA error {int(code)})"

    def _attribute(self, device: int, name: str) -> int:
        attribute = getattr(self._bindings.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        handle = self._call("cuDeviceGet", device)
        return int(self._call("cuDeviceGetAttribute", attribute, handle))

    def _primary_context(self, device: int) -> int:
        handle = self._call("cuDeviceGet", device)
        return int(self._call("cuDevicePrimaryCtxRetain", handle))

    def _within(self, device: int) -> contextlib.AbstractContextManager[None]:
        return self._library.within(self._context(device))

    @contextlib.contextmanager
    def _beside_captures(self, device: int) -> Iterator[None]:
        """The same for what would spoil a capture that is going on anywhere, like an allocation."""
        relaxed = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        with self._within(device):
            before = self._call("cuThreadExchangeStreamCaptureMode", relaxed)
            try:
                yield
            finally:
                self._call("cuThreadExchangeStreamCaptureMode", before)

    def is_capturing(self, stream: int, device: int) -> bool:
        """Whether work given to the stream is recorded in a graph and not done."""
        with self._within(device):
            code, status = self._bindings.cuStreamIsCapturing(stream)
        # the legacy stream may not be asked while one is captured that waits for it
        if code == self._bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
            return True
        if int(code):
            checks.raise_backend(f"cuStreamIsCapturing: {self._words(code)}")
        none = self._bindings.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        return bool(status != none)
