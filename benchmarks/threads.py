"""What the choice of threads costs: each shape on one thread, on all, and as the library chooses.

usage: python benchmarks/threads.py [BACKEND]

Prints the model of fastxent/threads.py beside the measured time of one thread. `waste` is the
chosen time over the better of the two others; the aim is 1.1 at most. Times are the best of many,
taken turn and turn about.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fastxent as fx
from fastxent import threads

SHAPES = [
    *((rows, 2) for rows in (64, 1024, 4096, 16384, 262144)),
    *((rows, 10) for rows in (32, 512, 2048, 8192, 65536)),
    *((rows, 100) for rows in (8, 128, 512, 2048, 32768)),
    *((rows, 1000) for rows in (1, 16, 64, 256, 2048)),
    *((rows, 32000) for rows in (1, 2, 4, 16, 256)),
    (1, 8192),
    (1, 131072),
    (1, 1048576),
]
SECONDS_PER_SHAPE = 0.5


def measured(backend: str, rows: int, classes: int) -> dict[int | None, float]:
    """Best time in microseconds on one thread, on all, and on as many as are chosen (None)."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, classes), np.float32)
    labels = rng.integers(0, classes, rows)
    grad = np.empty_like(logits)
    best: dict[int | None, float] = dict.fromkeys((1, fx.get_num_threads(), None), float("inf"))
    end = time.perf_counter() + SECONDS_PER_SHAPE
    while time.perf_counter() < end:
        for count in best:
            start = time.perf_counter()
            fx.cross_entropy_and_grad(logits, labels, out=grad, backend=backend, num_threads=count)
            best[count] = min(best[count], 1e6 * (time.perf_counter() - start))
    return best


def main(backend: str = "cython") -> None:
    most = fx.get_num_threads()
    table = Table(title=f"{backend}, float32, {most} threads at most, microseconds")
    for heading in ("shape", "model", "1 thread", f"{most} threads", "chosen", "threads", "waste"):
        table.add_column(heading, justify="left" if heading == "shape" else "right")
    for rows, classes in track(SHAPES, description="measuring", console=Console(stderr=True)):
        best = measured(backend, rows, classes)
        size = 4 * rows * classes
        model = rows * threads.NANOSECONDS_PER_ROW + size * threads.NANOSECONDS_PER_BYTE
        table.add_row(
            f"{rows} x {classes}",
            f"{model / 1e3:.1f}",
            f"{best[1]:.1f}",
            f"{best[most]:.1f}",
            f"{best[None]:.1f}",
            str(threads.plan(None, rows, size)),
            f"{best[None] / min(best[1], best[most]):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:2])
