"""The FASTXENT_* environment variables that choose code; threads.py reads the one that counts."""

from __future__ import annotations

import os
from pathlib import Path

from fastxent import checks

__all__ = [
    "INSTRUCTION_LEVELS",
    "cache_directory",
    "instruction_level",
    "jax_ffi",
    "keep_kernels",
    "openmp_is_shared",
]

INSTRUCTION_LEVELS = ("baseline", "v3", "v4")


def instruction_level() -> str | None:
    """FASTXENT_ISA: the highest x86-64 level that compiled kernels may use, None for any."""
    name = os.environ.get("FASTXENT_ISA", "").strip()
    return checks.check_choice(name, "FASTXENT_ISA", INSTRUCTION_LEVELS) if name else None


def keep_kernels() -> bool:
    """FASTXENT_NUMBA_CACHE: whether kernels that Numba compiled are kept on disk; 0 is no."""
    return os.environ.get("FASTXENT_NUMBA_CACHE") != "0"


def cache_directory() -> Path | None:
    """FASTXENT_CACHE_DIR: where they are kept, None for the user's own cache directory."""
    asked = os.environ.get("FASTXENT_CACHE_DIR")
    return Path(asked) if asked else None


def jax_ffi() -> bool:
    """FASTXENT_JAX_FFI: whether fastxent.jax calls its kernels through XLA's FFI; 0 is no."""
    return os.environ.get("FASTXENT_JAX_FFI") != "0"


def openmp_is_shared() -> bool:
    """FASTXENT_SHARE_OPENMP: whether importing fastxent does `share_openmp`; 1 is yes."""
    return os.environ.get("FASTXENT_SHARE_OPENMP") == "1"
