"""The table of times of `fastxent demo`: one fused pass against the formulas of a textbook."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastxent as fx
from fastxent import demo_binary
from fastxent.demo import SEED, textbook_loss
from fastxent.precision import Array

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Timing", "binary_speed_table", "measure", "measure_binary", "speed_table"]

SHAPES = ((8192, 1000), (1024, 32000))
BINARY_SHAPES = ((1000, 100), (10000, 1000))
REPEATS = 7

# float32 results that are this close are the same: relative for the loss, in units of 1/N for the
# gradient. The textbook formulas themselves are within 1e-6.
SAME = 1e-5


@dataclass(frozen=True)
class Timing:
    """One line of the table of times; `agrees` tells whether the results are the textbook's."""

    shape: tuple[int, int]
    name: str
    agrees: bool
    milliseconds: float
    arrays: int = 2  # of float32 and of this shape, that must be read or written

    @property
    def gigabytes_per_second(self) -> float:
        """Counted bytes over time: each array read or written once, in float32."""
        rows, classes = self.shape
        return self.arrays * 4 * rows * classes / self.milliseconds / 1e6


def _agree(one: tuple[Any, Array], other: tuple[Any, Array], count: int) -> bool:
    loss_error = abs(float(one[0]) - float(other[0])) / abs(float(other[0]))
    grad_error = float(np.abs(one[1] - other[1]).max()) * count
    return loss_error <= SAME and grad_error <= SAME


Call = Callable[[], tuple[Any, Array]]


def _race(
    shape: tuple[int, int],
    textbook: Call,
    fused: Callable[[str], Call],
    count: int,
    repeats: int,
    arrays: int,
) -> list[Timing]:
    """Time every able backend against the textbook; the gradients are those of a mean of `count`.

    Turn and turn about; the textbook is first.
    """
    calls = {"textbook": textbook}
    calls |= {name: fused(name) for name, reason in fx.backends().items() if reason is None}
    truth = textbook()
    # This first call also compiles what is compiled on demand.
    agrees = {name: _agree(call(), truth, count) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return [
        Timing(shape, name, agrees[name], 1e3 * statistics.median(seconds[name]), arrays)
        for name in calls
    ]


def measure(shape: tuple[int, int], repeats: int = REPEATS) -> list[Timing]:
    """Times of the loss of class indices."""
    rng = np.random.default_rng(SEED)
    logits = 4 * rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    gradient = np.empty_like(logits)

    def fused(name: str) -> Call:
        return partial(fx.cross_entropy_and_grad, logits, labels, backend=name, out=gradient)

    return _race(shape, partial(textbook_loss, logits, labels), fused, shape[0], repeats, 2)


def measure_binary(shape: tuple[int, int], repeats: int = REPEATS) -> list[Timing]:
    """Times of the binary loss: as many labels as logits, each 0 or 1."""
    rng = np.random.default_rng(SEED)
    # the textbook's 1 - p is 0 in float32 from a logit of 17 on, and has lost most digits at 10
    logits = rng.standard_normal(shape, np.float32)
    labels = (rng.random(shape, np.float32) < 0.5).astype(np.float32)
    gradient = np.empty_like(logits)
    function = fx.binary_cross_entropy_with_logits_and_grad

    def fused(name: str) -> Call:
        return partial(function, logits, labels, backend=name, out=gradient)

    textbook = partial(demo_binary.textbook_loss, logits, labels)
    return _race(shape, textbook, fused, logits.size, repeats, 3)


def speed_table(console: Console) -> bool:
    """Print the table of times; tell whether all results agree."""
    return _table(console, measure, SHAPES, "class indices", "one read of the logits and one write")


def binary_speed_table(console: Console) -> bool:
    """The same for the binary loss."""
    return _table(
        console,
        measure_binary,
        BINARY_SHAPES,
        "targets of 0 and 1",
        "one read of the logits and of the targets and one write",
    )


def _table(
    console: Console,
    measure: Callable[[tuple[int, int]], list[Timing]],
    shapes: tuple[tuple[int, int], ...],
    targets: str,
    bytes_counted: str,
) -> bool:
    from rich.table import Table

    table = Table()
    table.add_column("shape")
    table.add_column("implementation")
    for heading in ("ms", "GB/s", "speed-up"):
        table.add_column(heading, justify="right")
    agree = True
    for shape in shapes:
        with console.status(
            f"timing {shape[0]} x {shape[1]}: the first call of a backend may have to compile"
        ):
            timings = measure(shape)
        for timing in timings:
            agree = agree and timing.agrees
            own = timing.name == "textbook"
            ratio = timings[0].milliseconds / timing.milliseconds
            table.add_row(
                f"{shape[0]} x {shape[1]}" if own else "",
                "textbook NumPy" if own else f"fastxent, {timing.name}",
                f"{timing.milliseconds:.2f}" if timing.agrees else "WRONG RESULT",
                f"{timing.gigabytes_per_second:.1f}",
                f"{ratio:.1f}",
            )
        table.add_section()
    console.print(
        f"Loss and gradient of float32 logits and {targets}: median of {REPEATS} calls, "
        f"{fx.get_num_threads()} threads at most",
        soft_wrap=True,
    )
    console.print(table)
    console.print(
        f"GB/s counts {bytes_counted} of the gradient. fastxent writes into a "
        "buffer that is used again (out=), the textbook allocates.",
        soft_wrap=True,
    )
    return agree
