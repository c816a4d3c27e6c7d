"""NVIDIA's driver: which GPUs there are, their memory, and kernels that start on them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent import checks
from fastxent.backends.cuda import cubins
from fastxent.backends.cuda.launch import Library, open_library
from fastxent.backends.cuda.specs import KernelSpec
from fastxent.precision import Array

__all__ = ["LEAST_CAPABILITY", "Driver"]

# CUDA 13 makes code for nothing older.
LEAST_CAPABILITY = (7, 5)

_INSTALL = "pip install 'fastxent[cuda]'"
_OUT_OF_MEMORY = 2
# A larger cluster is not on every GPU that has clusters, and must be asked for.
_PORTABLE_CLUSTER = 8
# Up to here an upload is copied before the call returns, by us where the driver need not.
_SMALL_UPLOAD = 1 << 16


class _Loaded(NamedTuple):
    """A kernel on a device."""

    function: int
    context: int
    threads: int


class Driver:
    """The driver's API, with devices as numbers and addresses, streams as integers.

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
        self._kernels: dict[tuple[KernelSpec, int], _Loaded] = {}
        self._lock = threading.RLock()
        self._context = functools.cache(self._primary_context)
        self._asked: tuple[int, str | None] | None = None

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

    # --- Can it be used, and what is there

    def why_not(self) -> str | None:
        """Why no kernel can run in this process, and what to do about it."""
        if self._asked is None:
            with self._lock:
                self._asked = os.getpid(), self._reason()
        process, reason = self._asked
        if reason is None and process != os.getpid():
            return "this process was forked from one that uses the GPU: start it by 'spawn'"
        return reason

    def _reason(self) -> str | None:
        if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
            return "NUMBA_ENABLE_CUDASIM is set"
        if not _is_installed("numba_cuda"):
            return f"numba-cuda is not installed: {_INSTALL}"
        if self._given_bindings is None and not _is_installed("cuda.bindings"):
            return f"cuda-bindings is not installed: {_INSTALL}"
        try:
            (code,) = self._bindings.cuInit(0)
        except Exception as error:  # the bindings' own, of a library that is not there
            return f"NVIDIA's driver cannot be loaded: {error}"
        if int(code):
            return f"no GPU of NVIDIA can be used: {self._words(code)}"
        version, compiled = self._call("cuDriverGetVersion"), self._bindings.CUDA_VERSION
        if version // 1000 < compiled // 1000:
            return (
                f"NVIDIA's driver is for CUDA {version // 1000}, the installed packages for CUDA "
                f"{compiled // 1000}: update the driver, or install numba-cuda[cu{version // 1000}]"
            )
        if not (devices := range(self.device_count())):
            return "no GPU of NVIDIA is visible"
        if all(self.capability(device) < LEAST_CAPABILITY for device in devices):
            needed, has = ("{}.{}".format(*pair) for pair in (LEAST_CAPABILITY, self.capability(0)))
            return f"{self.name(0)} has compute capability {has}, and {needed} is needed"
        return None

    def version(self) -> str:
        """The CUDA that the driver is for."""
        version = self._call("cuDriverGetVersion")
        return f"{version // 1000}.{version % 1000 // 10}"

    def device_count(self) -> int:
        """How many GPUs this process sees."""
        return int(self._call("cuDeviceGetCount"))

    def capability(self, device: int) -> cubins.Capability:
        """Compute capability."""
        major, minor = (
            self._attribute(device, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")
        )
        return major, minor

    def multiprocessors(self, device: int) -> int:
        """How many multiprocessors a GPU has."""
        return self._attribute(device, "MULTIPROCESSOR_COUNT")

    def name(self, device: int) -> str:
        """What NVIDIA calls it."""
        name: bytes = self._call("cuDeviceGetName", 256, self._call("cuDeviceGet", device))
        return name.partition(b"\0")[0].decode()  # what follows is not set

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

    # --- Memory

    def allocate(self, nbytes: int, device: int) -> int:
        """Address of new memory; it is aligned to 256 bytes."""
        with self._beside_captures(device):
            code, address = self._bindings.cuMemAlloc(max(nbytes, 1))
        if int(code) == _OUT_OF_MEMORY:
            raise MemoryError(f"{self.name(device)} has no {nbytes} bytes of memory left")
        if int(code):
            checks.raise_backend(f"cuMemAlloc: {self._words(code)}")
        return int(address)

    def device_of(self, address: int) -> int:
        """Number of the GPU whose memory an address lies in."""
        ordinal = self._bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self._call("cuPointerGetAttribute", ordinal, address))

    def free(self, address: int, device: int) -> None:
        """Give memory back; this waits for all work on the device."""
        if sys.is_finalizing():
            return  # it goes with the process, and the driver may be gone already
        with self._beside_captures(device):
            self._call("cuMemFree", address)

    def upload(self, address: int, array: Array, stream: int, device: int) -> None:
        """Copy a contiguous array to the device; it may change as soon as this returns."""
        if array.nbytes == 0:
            return
        if self.is_capturing(stream):
            checks.raise_backend(
                "numbers of the host cannot be copied to the GPU while the stream is captured: "
                "a replay would read them again"
            )
        is_small = array.nbytes <= _SMALL_UPLOAD
        # the driver copies pageable memory before it returns; the caller's may be page-locked
        source = np.array(array, copy=True) if is_small else array
        with self._within(device):
            self._call("cuMemcpyHtoDAsync", address, source.ctypes.data, source.nbytes, stream)
            if not is_small:
                self._call("cuStreamSynchronize", stream)

    def download(self, array: Array, address: int, stream: int, device: int) -> None:
        """Copy to a contiguous array, and wait for it."""
        if array.nbytes:
            with self._within(device):
                self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)
                self._call("cuStreamSynchronize", stream)

    # --- Streams

    def synchronize(self, stream: int, device: int) -> None:
        """Wait for all work in a stream."""
        with self._within(device):
            self._call("cuStreamSynchronize", stream)

    def wait(self, stream: int, other: int, device: int) -> None:
        """Let what a stream is given from now on wait for what another one has been given."""
        if stream == other:
            return
        flags = self._bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING
        with self._within(device):
            event = self._call("cuEventCreate", int(flags))
            try:
                self._call("cuEventRecord", event, other)
                self._call("cuStreamWaitEvent", stream, event, 0)
            finally:
                self._call("cuEventDestroy", event)

    def is_capturing(self, stream: int) -> bool:
        """Whether work given to the stream is recorded in a graph and not done."""
        code, status = self._bindings.cuStreamIsCapturing(stream)
        # without a current context nothing is captured; the legacy stream may not be asked while
        # another one is, and that is an error of its own
        errors = self._bindings.CUresult
        if code == errors.CUDA_ERROR_INVALID_CONTEXT:
            return False
        if code == errors.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
            return True
        if int(code):
            checks.raise_backend(f"cuStreamIsCapturing: {self._words(code)}")
        none = self._bindings.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        return bool(status != none)

    # --- Kernels

    def launch(
        self, spec: KernelSpec, grid: int, arguments: bytes, device: int, stream: int
    ) -> None:
        """Start so many blocks of a kernel; the first time it is loaded, or compiled."""
        kernel = self._kernels.get((spec, device))
        if kernel is None:
            kernel = self._load(spec, device, stream)
        function, context, threads = kernel
        code = self._library.launch(function, context, grid, threads, arguments, stream)
        if code:  # also of what was started before: the driver tells of errors when it can
            checks.raise_backend(f"cuLaunchKernel: {self._words(self._bindings.CUresult(code))}")

    def _load(self, spec: KernelSpec, device: int, stream: int) -> _Loaded:
        if self.is_capturing(stream):
            checks.raise_backend(
                "backend 'cuda' has not loaded this kernel before and cannot do so while the "
                "stream is captured: run the call once before the capture"
            )
        with self._lock:
            if (spec, device) in self._kernels:
                return self._kernels[spec, device]
            code, name = cubins.cubin(spec, self.capability(device))
            with self._beside_captures(device):
                module = self._call("cuModuleLoadData", code)
                function = self._call("cuModuleGetFunction", module, name.encode())
                if spec.cluster > _PORTABLE_CLUSTER:
                    attribute = self._bindings.CUfunction_attribute
                    allowed = attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
                    self._call("cuFuncSetAttribute", function, allowed, 1)
            loaded = _Loaded(int(function), self._context(device), spec.threads)
            self._kernels[spec, device] = loaded
            return loaded


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
