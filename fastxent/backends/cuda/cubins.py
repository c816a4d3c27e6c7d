"""Kernels as machine code of one GPU: from the disk, or compiled, which needs no GPU.

Numba compiles a kernel to PTX, and nvJitLink that to a cubin. Numba's dispatcher is not used: its
launches cost more than a small call has, and its cache is that of `numba_cpu`, with its faults. A
kernel that lies on the disk is loaded without importing Numba.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends import disk_cache
from fastxent.backends.cuda.specs import ARGUMENTS, KernelSpec

__all__ = ["Capability", "Cubin", "compiled", "cubin", "directory", "link", "ptx", "stamp"]

Capability = tuple[int, int]

# What takes part in a compilation. The libraries have other names for CUDA 12; those of a toolkit
# that is no Python package are not seen here.
_PACKAGES = (
    *("numba-cuda", "numba", "llvmlite", "cuda-bindings"),
    *("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"),
)
_LOCK = threading.RLock()


class Cubin(NamedTuple):
    """Machine code with one kernel in it, and the kernel's name there."""

    code: bytes
    name: str


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def stamp(sources: Path = Path(__file__).parent) -> bytes:
    """Hash of everything that a cubin depends on, the spec and the capability aside."""
    package = sources.parents[1]
    files = [*sorted(sources.rglob("*.py")), package / "backends" / "contract.py"]
    versions = (*map(_version, _PACKAGES), np.__version__, sys.version)
    return disk_cache.stamp_of([*files, package / "version.py"], versions)


@functools.cache
def directory() -> tuple[Path | None, str, bytes]:
    """Where cubins are kept, or why they are not; and the stamp they carry."""
    state = stamp()
    return (*disk_cache.place("cuda", state), state)


def cubin(spec: KernelSpec, capability: Capability) -> Cubin:
    """Machine code of a kernel for GPUs of this compute capability."""
    place, _, state = directory()
    if place is None:
        return Cubin(compiled(spec, capability), _entry(spec))
    key = hashlib.sha256(repr(spec).encode()).hexdigest()[:32]
    file = place / f"{spec.module}-{_architecture(capability)}-{key}.cubin"
    code = None
    with contextlib.suppress(OSError):  # most often it is not there yet
        code = disk_cache.read(file, state)
    if code is None:
        code = compiled(spec, capability)
        with contextlib.suppress(OSError):  # a full disk takes nothing from the call
            disk_cache.write(file, state, code)
    return Cubin(code, _entry(spec))


def _entry(spec: KernelSpec) -> str:
    """What profilers show, instead of the name that Numba makes."""
    return f"fastxent_{spec.module}"


def _architecture(capability: Capability) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def compiled(spec: KernelSpec, capability: Capability) -> bytes:
    """Compile a kernel, whatever is on the disk."""
    return link(ptx(spec, capability), capability)


def ptx(spec: KernelSpec, capability: Capability) -> str:
    """Compile a kernel to PTX."""
    # numba-cuda warns at its import of what it will not need here, and NVVM of what it ignores
    with _LOCK, warnings.catch_warnings(), _row_stack(), _without_collections():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"fastxent.backends.cuda.kernels.{spec.module}")
        kernel = module.make(spec.variant, spec.geometry)
        cuda: Any = importlib.import_module("numba.cuda")
        integers, reals = ARGUMENTS[spec.module]
        if tuple(inspect.signature(kernel).parameters) != (*integers, *reals):
            raise TypeError(f"the arguments of kernel {spec.module!r} are not those of ARGUMENTS")
        words = [cuda.types.int64] * len(integers) + [cuda.types.float64] * len(reals)
        with _compiling_for(capability):
            text, _ = cuda.compile(
                kernel,
                cuda.types.void(*words),
                device=False,
                debug=False,
                opt=True,
                abi="numba",
                cc=capability,
                launch_bounds=(spec.threads, spec.min_blocks),
                output="ptx",
            )
    return _with_cluster(_renamed(text, _entry(spec)), spec.cluster)


def _renamed(text: str, name: str) -> str:
    (given,) = re.findall(r"\.visible \.entry ([\w$]+)\(", text)
    return text.replace(given, name)


def _with_cluster(text: str, blocks: int) -> str:
    """Fix the blocks of a cluster, so that an ordinary launch makes clusters of them."""
    if blocks == 1:
        return text
    before, end_of_parameters, after = text.partition("\n)\n")
    return (
        f"{before}{end_of_parameters}.explicitcluster\n.reqnctapercluster {blocks}, 1, 1\n{after}"
    )


def link(text: str, capability: Capability) -> bytes:
    """Assemble PTX."""
    linker: Any = importlib.import_module("cuda.bindings.nvjitlink")
    source = text.encode()
    options = [f"-arch={_architecture(capability)}"]
    handle = linker.create(len(options), options)
    try:
        linker.add_data(handle, linker.InputType.PTX, source, len(source), "kernel.ptx")
        linker.complete(handle)
        code = bytearray(linker.get_linked_cubin_size(handle))
        linker.get_linked_cubin(handle, code)
    except linker.nvJitLinkError as error:
        log = bytearray(linker.get_error_log_size(handle))
        linker.get_error_log(handle, log)
        error.add_note(log.decode(errors="replace").strip("\0\n"))
        raise
    finally:
        linker.destroy(handle)
    return bytes(code)


# --- What numba-cuda must be told beside the arguments of its `compile` -------------------------


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Let no garbage be collected: 14 to 27 % of a compilation went by in looking for it.

    What a compilation makes is nearly all kept. The collector is one for all threads: those that
    run meanwhile go without it too, and one that turns it off meanwhile finds it on again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _row_stack() -> Iterator[None]:
    """Lend NumPy 2.5 the name that numba-cuda overloads when it first compiles something."""
    if hasattr(np, "row_stack"):
        yield
        return
    lent: Any = np
    lent.row_stack = np.vstack
    try:
        yield
    finally:
        del lent.row_stack


@contextlib.contextmanager
def _compiling_for(capability: Capability) -> Iterator[None]:
    """Let this thread compile without a GPU, and without contraction.

    Numba asks the current device what it is when it compiles functions that kernels call, and has
    no argument for NVVM's contraction of a product and a sum to one operation. Contraction depends
    on the code around: the gradient must have the same bits in each kernel that computes it.
    """
    dispatcher: Any = importlib.import_module("numba.cuda.dispatcher")
    nvvm: Any = importlib.import_module("numba.cuda.cudadrv.nvvm")
    device = types.SimpleNamespace(compute_capability=capability)
    uncontracted = functools.partial(nvvm.compile_ir, fma=False)
    with (
        _replaced(dispatcher, "get_current_device", lambda: device),
        _replaced(nvvm, "compile_ir", uncontracted),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put a function in another's place, for this thread; others go on with theirs."""
    before, here = getattr(owner, name), threading.get_ident()

    def either(*arguments: Any, **options: Any) -> Any:
        chosen = function if threading.get_ident() == here else before
        return chosen(*arguments, **options)

    setattr(owner, name, either)
    try:
        yield
    finally:
        setattr(owner, name, before)
