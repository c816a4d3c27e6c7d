"""Time per element in place, below and above 2**31 elements: does a large index cost anything?

usage: python benchmarks/large.py

Needs about 9 GB of memory; writes benchmarks/results/large.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

import fastxent as fx

CLASSES = 1024
SMALL_ROWS = 10**8 // CLASSES
LARGE_ROWS = (2**31 + 2**20) // CLASSES
REPEATS = 3
RESULT = Path(__file__).parent / "results" / "large.json"


def seconds_per_element(logits: np.ndarray, labels: np.ndarray, backend: str) -> float:
    """Give the median of some calls over the logits; they stay finite, whatever is in them."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loss, _ = fx.cross_entropy_and_grad(logits, labels, out=logits, backend=backend)
        times.append(time.perf_counter() - start)
        assert np.isfinite(loss)
    return statistics.median(times) / logits.size


def main() -> None:
    """Measure the backends in turns, and keep what came of it."""
    needed = LARGE_ROWS * CLASSES * 4 * 1.05
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if free < needed:
        print(f"skipped: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        return
    rng = np.random.default_rng(0)
    large = np.empty((LARGE_ROWS, CLASSES), np.float32)
    pattern = rng.standard_normal((SMALL_ROWS, CLASSES), np.float32)
    for begin in range(0, LARGE_ROWS, SMALL_ROWS):
        part = large[begin : begin + SMALL_ROWS]
        part[:] = pattern[: len(part)]
    labels = rng.integers(0, CLASSES, LARGE_ROWS)
    times: dict[str, dict[str, float]] = {}
    for backend in ("cython", "numba"):
        reason = fx.backends()[backend]
        if reason is not None:
            print(f"{backend} skipped: {reason}")
            continue
        fx.cross_entropy_and_grad(pattern, labels[:SMALL_ROWS], out=pattern, backend=backend)
        times[backend] = {
            "small": seconds_per_element(pattern, labels[:SMALL_ROWS], backend),
            "large": seconds_per_element(large, labels, backend),
        }
        ratio = times[backend]["large"] / times[backend]["small"]
        print(f"{backend}: {1e9 * times[backend]['large']:.4f} ns an element, {ratio:.3f} times")
    document = {
        "small_elements": SMALL_ROWS * CLASSES,
        "large_elements": LARGE_ROWS * CLASSES,
        "seconds_per_element": times,
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
