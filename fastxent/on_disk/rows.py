"""A backend whose rows come from files a window at a time; another one computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastxent import threads
from fastxent.backends.contract import Backend, Outputs
from fastxent.layout import OutputRows, empty_aligned, output_rows, rows_of
from fastxent.long_sum import LongSum
from fastxent.on_disk.arrays import Source
from fastxent.on_disk.files import NewFile
from fastxent.on_disk.progress import Bar
from fastxent.on_disk.windows import Window, windows_of
from fastxent.precision import Array, kernel_dtype
from fastxent.problem import Problem

__all__ = ["Gradient", "Windows", "bytes_of_row"]

_OF_ROWS = ("loss", "row_max", "row_sum", "log_prob", "argmax", "entropy")


def bytes_of_row(logits: Source, soft: Source | None, classes: int) -> int:
    """Memory that a row takes on its way."""
    sources = [logits] if soft is None else [logits, soft]
    return sum(source.copies * source.dtype.itemsize * classes for source in sources)


def _memory(source: Source, rows: int, classes: int) -> Array:
    return empty_aligned((rows * classes * source.dtype.itemsize,), np.dtype(np.uint8))


@dataclass(slots=True)
class Gradient:
    """The gradient's place in files: what stands where others have an array for it."""

    into: Source | NewFile
    shape: tuple[int, ...]
    axis: int
    most_rows: int

    def fill(self, value: float) -> None:
        """Write the same number everywhere."""
        for window in windows_of(self.shape, self.axis, self.most_rows):
            self.into.write(window, np.full(window.shape, value, self.into.dtype))


@dataclass(slots=True)
class Windows:
    """Computes `forward` of rows that are not in memory, by the verb of `backend`.

    Attributes
    ----------
    backend : Backend
    logits : Source
    soft : Source or None
        The probabilities; None for class indices. Where these are, the problem has zeros of the
        same shape, which take no memory.
    into : Source, NewFile or None
        Where the gradient goes.
    most_rows : int
        Rows in a window.
    num_threads : int or None
        As the caller gave it.
    bar : Bar
    """

    backend: Backend
    logits: Source
    soft: Source | None
    into: Source | NewFile | None
    most_rows: int
    num_threads: int | None
    bar: Bar

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill what is not None; where `out.grad` is not, the gradient goes to `into`."""
        total = LongSum()
        for window, part, logits in self._parts(problem):
            of_rows: dict[str, Any] = {x: _of(getattr(out, x), window) for x in _OF_ROWS}
            outputs = Outputs(**of_rows)
            if out.total is not None:
                outputs.total = np.empty(1)
            if out.grad is not None:
                # over the logits, which are a copy: a window is in memory once
                outputs.grad = logits.rows
            self.backend.forward(part, outputs)
            if outputs.total is not None:
                total.add(float(outputs.total[0]))
            if out.grad is not None:
                assert self.into is not None
                self.into.write(window, logits.deliver())
            self.bar.advance(logits.array.nbytes)
        if out.total is not None:
            out.total[0] = total.value

    def _parts(self, problem: Problem) -> Iterator[tuple[Window, Problem, OutputRows]]:
        """The windows, each with its problem and with its logits, which may be written over."""
        most_rows, classes = min(self.most_rows, problem.rows), problem.classes
        memory = _memory(self.logits, most_rows, classes)
        soft_memory = None if self.soft is None else _memory(self.soft, most_rows, classes)
        kernel = problem.precision.kernel
        for window in windows_of(problem.given.shape, problem.axis, most_rows):
            array = self.logits.read(window, memory)
            rows = rows_of(array, problem.axis, kernel)
            soft = None
            if soft_memory is not None:
                assert self.soft is not None
                assert problem.soft_kind is not None
                probabilities = self.soft.read(window, soft_memory)
                kind = kernel_dtype(probabilities.dtype, problem.soft_kind)
                soft = rows_of(probabilities, problem.axis, kind)
            count = window.rows.stop - window.rows.start
            scale = problem.row_scale
            part = replace(
                problem,
                given=array,
                logits=rows,
                rows=count,
                target=_of(problem.target, window),
                soft=soft,
                given_target=None,
                row_scale=scale[window.rows] if isinstance(scale, np.ndarray) else scale,
                num_threads=threads.plan(self.num_threads, count, array.nbytes),
            )
            written = output_rows(array, problem.axis, array, array.dtype, kernel)
            yield window, part, written


def _of(values: Array | None, window: Window) -> Array | None:
    """The entries of a window's rows."""
    return None if values is None else values[window.rows]
