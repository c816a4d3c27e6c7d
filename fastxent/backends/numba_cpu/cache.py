"""Kernels that Numba compiled, kept on disk: never stale, never fatal.

A file is an executable pickle, so all rules of `disk_cache` count; one that fails to load in any
other way is compiled again, too. Where nothing can be written, kernels live in memory.
Numba's own `cache=True` looks only at the file of one function, and fails at import on a read-only
install, on truncated files, and for a home directory that cannot be written.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np

from fastxent.backends import disk_cache
from fastxent.backends.numba_cpu.jit import numba

__all__ = ["attach"]

# What else of Numba's configuration the code depends on.
_SETTINGS = (
    *("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"),
    *("EXTEND_VARIABLE_LIFETIMES", "LLVM_REFPRUNE_PASS", "LLVM_REFPRUNE_FLAGS"),
    "DISABLE_INTEL_SVML",
)


def stamp() -> bytes:
    """Hash of everything that compiled code depends on, the CPU and the signature aside."""
    here = Path(__file__).parent
    package = here.parents[1]
    sources = [*sorted(here.glob("*.py")), package / "backends" / "contract.py"]
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    return disk_cache.stamp_of([*sources, package / "version.py"], versions)


class _KernelCache:
    """What a Numba dispatcher asks for compiled code; the interface of numba.core.caching."""

    def __init__(self, directory: Path, state: bytes, dispatcher: Any) -> None:
        self.cache_path = str(directory)
        self._directory, self._stamp = directory, state
        function = dispatcher.py_func
        self._name = function.__name__
        self._whole_name = f"{function.__module__}.{function.__qualname__} {function.__name__}"

    def _file(self, signature: Any, codegen: Any) -> Path:
        """File for these argument types on this CPU, compiled with these settings."""
        settings = [str(getattr(numba.config, name, None)) for name in _SETTINGS]
        parts = (self._whole_name, str(signature), codegen.magic_tuple(), settings)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return self._directory / f"{self._name}-{key}.nbc"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Compiled code for a signature, None if there is none that can be used."""
        target_context.refresh()
        try:
            file = self._file(signature, target_context.codegen())
            content = disk_cache.read(file, self._stamp)
            if content is None:
                return None
            reduced = pickle.loads(content)
            return numba.core.compiler.CompileResult._rebuild(target_context, *reduced)
        except Exception:  # whatever is wrong with the file, compiling anew is the cure
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep compiled code, if that is possible."""
        if result.library.has_dynamic_globals:
            return
        try:
            content = numba.core.serialize.dumps(result._reduce())
            disk_cache.write(self._file(signature, result.codegen), self._stamp, content)
        except Exception:  # a full disk takes nothing from the call: the code is in memory
            return

    def enable(self) -> None:
        """Part of Numba's interface; this cache is always enabled."""

    def disable(self) -> None:
        """Part of Numba's interface; this cache is always enabled."""

    def flush(self) -> None:
        """Part of Numba's interface: what `recompile` asks for."""
        for path in self._directory.glob(f"{self._name}-*.nbc"):
            path.unlink(missing_ok=True)


def attach(dispatchers: Iterable[Any]) -> str:
    """Keep these kernels on disk; give the place, or why there is none."""
    if numba.config.DISABLE_JIT:
        return "off: nothing is compiled"
    try:
        state = stamp()
    except OSError as error:  # a program packed without the sources of its libraries
        return f"off: no sources to tell kernels by: {error}"
    directory, reason = disk_cache.place("numba", state)
    if directory is not None:
        for dispatcher in dispatchers:
            dispatcher._cache = _KernelCache(directory, state, dispatcher)
    return reason
