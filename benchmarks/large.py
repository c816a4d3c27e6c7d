"""Time per element in place, below and above 2**31 elements: does a large index cost anything?

usage: python benchmarks/large.py [--large-elements N] [--small-elements N]

Needs about 9 GB of memory. Puts its times into benchmarks/results/latest.json, unless N shows that
the run was to show only that it works; `make bench-large` writes the tables then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench.aims import LARGE_ELEMENTS
from fastxent.bench.document import Document
from fastxent.bench.machine import available_bytes

CLASSES = 1024
REPEATS = 3
LATEST = Path(__file__).parent / "results" / "latest.json"


def seconds_per_element(logits: np.ndarray, labels: np.ndarray, backend: str) -> float:
    """Give the median of some calls over the logits; they stay finite, whatever is in them."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loss, _ = fx.cross_entropy_and_grad(logits, labels, out=logits, backend=backend)
        times.append(time.perf_counter() - start)
        assert np.isfinite(loss)
    return statistics.median(times) / logits.size


def measured(small_rows: int, large_rows: int) -> dict[str, Any]:
    """Measure the backends in turns."""
    rng = np.random.default_rng(0)
    large = np.empty((large_rows, CLASSES), np.float32)
    pattern = rng.standard_normal((small_rows, CLASSES), np.float32)
    for begin in range(0, large_rows, small_rows):
        part = large[begin : begin + small_rows]
        part[:] = pattern[: len(part)]
    labels = rng.integers(0, CLASSES, large_rows)
    times: dict[str, dict[str, float]] = {}
    for backend in ("cython", "numba"):
        reason = fx.backends()[backend]
        if reason is not None:
            print(f"{backend} skipped: {reason}")
            continue
        fx.cross_entropy_and_grad(pattern, labels[:small_rows], out=pattern, backend=backend)
        times[backend] = {
            "small": seconds_per_element(pattern, labels[:small_rows], backend),
            "large": seconds_per_element(large, labels, backend),
        }
        ratio = times[backend]["large"] / times[backend]["small"]
        print(f"{backend}: {1e9 * times[backend]['large']:.4f} ns an element, {ratio:.3f} times")
    return {
        "small_elements": small_rows * CLASSES,
        "large_elements": large_rows * CLASSES,
        "seconds_per_element": times,
    }


def main(arguments: list[str]) -> None:
    """Measure, and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small-elements", type=int, default=10**8, metavar="N")
    parser.add_argument("--large-elements", type=int, default=2**31 + 2**20, metavar="N")
    parser.add_argument("--into", type=Path, default=LATEST, metavar="FILE", help="the results")
    asked = parser.parse_args(arguments)
    small_rows, large_rows = (
        max(1, elements // CLASSES) for elements in (asked.small_elements, asked.large_elements)
    )
    needed = (small_rows + large_rows) * CLASSES * 4
    free = available_bytes()
    if free is not None and free < needed:
        print(f"skipped: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        return
    found = measured(small_rows, large_rows)
    if asked.into == LATEST and found["large_elements"] <= LARGE_ELEMENTS:
        print(f"not kept, for these are not more than 2**31 elements: {json.dumps(found)}")
        return
    document = Document.load(asked.into) if asked.into.exists() else Document()
    document.large = found
    document.save(asked.into)


if __name__ == "__main__":
    main(sys.argv[1:])
