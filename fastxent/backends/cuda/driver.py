"""NVIDIA's driver: which GPUs there are, and kernels that start on them."""

from __future__ import annotations

import importlib.util
import os
import threading
from typing import Any, NamedTuple

from fastxent import checks
from fastxent.backends.cuda import cubins
from fastxent.backends.cuda.memory import Memory
from fastxent.backends.cuda.specs import KernelSpec

__all__ = ["LEAST_CAPABILITY", "Driver"]

# CUDA 13 makes code for nothing older.
LEAST_CAPABILITY = (7, 5)

_INSTALL = "pip install 'fastxent[cuda]'"
# A larger cluster is not on every GPU that has clusters, and must be asked for.
_PORTABLE_CLUSTER = 8


class _Loaded(NamedTuple):
    """A kernel on a device."""

    function: int
    context: int
    threads: int


class Driver(Memory):
    """The driver's API; see `Calls` and `Memory`."""

    def __init__(self, bindings: Any = None, library: Any = None) -> None:
        super().__init__(bindings, library)
        self._kernels: dict[tuple[KernelSpec, int], _Loaded] = {}
        self._lock = threading.RLock()
        self._asked: tuple[int, str | None] | None = None

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
        reasons = list(map(self._why_not_device, devices))
        return None if None in reasons else reasons[0]

    def _why_not_device(self, device: int) -> str | None:
        capability = self.capability(device)
        if capability >= LEAST_CAPABILITY:
            return None
        has, needed = ("{}.{}".format(*pair) for pair in (capability, LEAST_CAPABILITY))
        return f"{self.name(device)} has compute capability {has}, and {needed} is needed"

    def first_device(self) -> int:
        """The first GPU that kernels run on; `why_not` has told that there is one."""
        devices = range(self.device_count())
        return next(device for device in devices if self._why_not_device(device) is None)

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
        if self.is_capturing(stream, device):
            checks.raise_backend(
                "backend 'cuda' has not loaded this kernel before and cannot do so while the "
                "stream is captured: run the call once before the capture"
            )
        reason = self._why_not_device(device)
        if reason is not None:
            checks.raise_backend(f"backend 'cuda' cannot run: {reason}")
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
