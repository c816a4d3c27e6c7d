"""What `out=` saves: the fused pass into a buffer used before, in place, and into fresh memory.

usage: python benchmarks/fresh_memory.py [ROWS CLASSES]
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

import fastxent as fx

REPEATS = 15


def main(rows: int = 1024, classes: int = 32_000) -> None:
    """Time the three ways in turn and print their medians and the ratio to the first."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, classes), np.float32)
    labels = rng.integers(0, classes, rows)
    buffer, scratch = np.zeros_like(logits), logits.copy()
    ways = {
        "out= a buffer used before": lambda: fx.cross_entropy_and_grad(logits, labels, out=buffer),
        "in place": lambda: fx.cross_entropy_and_grad(scratch, labels, out=scratch),
        "fresh memory": lambda: fx.cross_entropy_and_grad(logits, labels),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, call in ways.items():
            np.copyto(scratch, logits)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    first = statistics.median(times["out= a buffer used before"])
    print(f"{rows} x {classes} float32, {fx.get_num_threads()} threads, median of {REPEATS}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:26s} {1e3 * median:8.2f} ms  {median / first:5.2f} x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
