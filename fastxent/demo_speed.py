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
from fastxent.demo import SEED, textbook_loss
from fastxent.precision import Array

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Timing", "measure", "speed_table"]

SHAPES = ((8192, 1000), (1024, 32000))
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

    @property
    def gigabytes_per_second(self) -> float:
        """Counted bytes over time: the logits read once, the gradient written once, in float32."""
        rows, classes = self.shape
        return 2 * 4 * rows * classes / self.milliseconds / 1e6


def _agree(one: tuple[Any, Array], other: tuple[Any, Array]) -> bool:
    loss_error = abs(float(one[0]) - float(other[0])) / abs(float(other[0]))
    grad_error = float(np.abs(one[1] - other[1]).max()) * len(one[1])
    return loss_error <= SAME and grad_error <= SAME


def measure(shape: tuple[int, int], repeats: int = REPEATS) -> list[Timing]:
    """Time every able backend against the textbook, turn and turn about; the textbook is first."""
    rng = np.random.default_rng(SEED)
    logits = 4 * rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    gradient = np.empty_like(logits)
    calls: dict[str, Callable[[], tuple[Any, Array]]] = {
        "textbook": partial(textbook_loss, logits, labels)
    }
    for name, reason in fx.backends().items():
        if reason is None:
            calls[name] = partial(
                fx.cross_entropy_and_grad, logits, labels, backend=name, out=gradient
            )
    truth = calls["textbook"]()
    # This first call also compiles what is compiled on demand.
    agrees = {name: _agree(call(), truth) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return [
        Timing(shape, name, agrees[name], 1e3 * statistics.median(seconds[name])) for name in calls
    ]


def speed_table(console: Console) -> bool:
    """Print the table of times; tell whether all results agree."""
    from rich.table import Table

    table = Table()
    table.add_column("shape")
    table.add_column("implementation")
    for heading in ("ms", "GB/s", "speed-up"):
        table.add_column(heading, justify="right")
    agree = True
    for shape in SHAPES:
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
        f"Loss and gradient of float32 logits and class indices: median of {REPEATS} calls, "
        f"{fx.get_num_threads()} threads at most",
        soft_wrap=True,
    )
    console.print(table)
    console.print(
        "GB/s counts one read of the logits and one write of the gradient. fastxent writes into a "
        "buffer that is used again (out=), the textbook allocates.",
        soft_wrap=True,
    )
    return agree
