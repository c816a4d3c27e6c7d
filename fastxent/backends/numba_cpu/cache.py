"""Compiled kernels on disk: never stale, never fatal.

The files lie in a directory of their own for each state of the sources and versions that they were
made from, so nothing old is ever found. A file is an executable pickle: the directory must belong
to the user alone. Each file carries a checksum; one that is cut short or altered, or that fails to
load in any other way, is compiled again. Where nothing can be written, kernels live in memory.
Numba's own `cache=True` looks only at the file of one function, and fails at import on a read-only
install, on truncated files, and for a home directory that cannot be written.

FASTXENT_CACHE_DIR chooses the place, FASTXENT_NUMBA_CACHE=0 turns the cache off.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np

from fastxent import environment
from fastxent.backends.numba_cpu.jit import numba

__all__ = ["attach"]

_DIGEST_BYTES = 32


def stamp() -> bytes:
    """Hash of everything that compiled code depends on, the CPU and the signature aside."""
    here = Path(__file__).parent
    package = here.parents[1]
    sources = [*sorted(here.glob("*.py")), package / "backends" / "contract.py"]
    state = hashlib.sha256()
    for source in [*sources, package / "version.py"]:
        state.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    state.update(repr(versions).encode())
    return state.digest()


def _root() -> Path:
    asked = environment.cache_directory()
    if asked is not None:
        return asked
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fastxent"


def _private(directory: Path) -> bool:
    """Whether no other user can write into a directory, nor put another in its place."""
    if not hasattr(os, "geteuid"):
        return True
    own, above = directory.lstat(), directory.parent.stat()
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.geteuid()
        and not own.st_mode & 0o022
        and above.st_uid in (os.geteuid(), 0)
        and (not above.st_mode & 0o022 or bool(above.st_mode & stat.S_ISVTX))
    )


def _place() -> tuple[Path | None, str]:
    """Directory for the compiled kernels, made if need be; or None and the reason."""
    try:
        directory = _root() / f"numba-{stamp().hex()[:16]}"
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        if not _private(directory):
            return None, f"other users could write to {directory}"
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        return None, f"no directory to write: {error}"
    return directory, str(directory)


def _write_whole(path: Path, data: bytes) -> None:
    """Write in one step: another process finds the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


class _KernelCache:
    """What a Numba dispatcher asks for compiled code; the interface of numba.core.caching."""

    def __init__(self, directory: Path, dispatcher: Any) -> None:
        self.cache_path = str(directory)
        self._directory, self._stamp = directory, stamp()
        self._name = dispatcher.py_func.__name__

    def _file(self, signature: Any, codegen: Any) -> Path:
        """File for these argument types on this CPU."""
        key = repr((str(signature), codegen.magic_tuple())).encode()
        return self._directory / f"{self._name}-{hashlib.sha256(key).hexdigest()[:32]}.nbc"

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._stamp + content).digest()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Compiled code for a signature, None if there is none that can be used."""
        target_context.refresh()
        try:
            data = self._file(signature, target_context.codegen()).read_bytes()
            digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
            if digest != self._digest(content):
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
            _write_whole(self._file(signature, result.codegen), self._digest(content) + content)
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
    if not environment.keep_kernels():
        return "off: FASTXENT_NUMBA_CACHE is 0"
    if numba.config.DISABLE_JIT:
        return "off: nothing is compiled"
    directory, reason = _place()
    if directory is None:
        if environment.cache_directory() is not None:
            warnings.warn(f"kernels are compiled without a cache: {reason}", RuntimeWarning, 2)
        return reason
    for dispatcher in dispatchers:
        dispatcher._cache = _KernelCache(directory, dispatcher)
    return reason
