"""What is computed in every process and thread: a few calls whose bits must be the same everywhere.

The calls take the paths that differ in how they are spread over threads: labels checked in chunks,
rows in chunks, tiles of rows, and a long row that all workers share.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fastxent as fx

__all__ = ["LAYERS", "THREADS", "answers", "check_layer", "measured", "tbb_library"]

# Numba's threading layers, and threads a call asks for.
LAYERS = ("omp", "tbb", "workqueue")
THREADS = 4


def tbb_library() -> Path | None:
    """Where `pip install tbb` puts the library: no loader looks there by itself."""
    path = Path(sys.prefix) / "lib" / "libtbb.so.12"
    return path if path.exists() else None


_LIBRARY = tbb_library() if os.environ.get("NUMBA_THREADING_LAYER") == "tbb" else None
if _LIBRARY is not None:
    ctypes.CDLL(str(_LIBRARY), mode=ctypes.RTLD_GLOBAL)


def check_layer(asked: str) -> None:
    """End the process if Numba has started with another threading layer."""
    import numba

    layer = numba.threading_layer()
    if layer != asked:
        sys.exit(f"Numba's threading layer is {layer}, and {asked} was asked for")


@cache
def _inputs() -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(5)
    shapes = ((400, 1000), (5000, 10), (3, 70_000))
    return [
        (5 * rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0]))
        for shape in shapes
    ]


def answers(backend: str, num_threads: int = THREADS) -> str:
    """Digest of all results."""
    state, options = hashlib.blake2b(digest_size=16), {"backend": backend}
    for logits, labels in _inputs():
        loss, grad = fx.cross_entropy_and_grad(logits, labels, num_threads=num_threads, **options)
        state.update(np.asarray(loss).tobytes() + grad.tobytes())
    logits, _ = _inputs()[0]
    state.update(fx.log_softmax(logits, num_threads=num_threads, **options).tobytes())
    return state.hexdigest()


def measured(backend: str) -> dict[str, Any]:
    """Digest, and what it took: seconds on the clock and of CPUs."""
    clock, cpu = time.perf_counter(), time.process_time()
    digest = answers(backend)
    return {
        "backend": backend,
        "digest": digest,
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - cpu,
        "threads": fx.get_num_threads(),
        "process": os.getpid(),
    }
