"""The loop: logits of a chunk, their loss and gradient in place, and the products with these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.linear.kept import KeptClasses
from fastxent.linear.kernel import Kernel
from fastxent.linear.needs import Needs
from fastxent.linear.problem import LinearGrads, LinearProblem
from fastxent.linear.products import Bias, Buffers, WeightGrad, Weights, class_blocks
from fastxent.linear.rows import moved_rows, read_rows, runs, write_rows
from fastxent.precision import Array, kind_of

__all__ = ["Chunks"]


class Chunks:
    """One call on its way through its rows."""

    def __init__(
        self, call: LinearProblem, needs: Needs, kernel: Kernel, grads: LinearGrads
    ) -> None:
        self._call, self._needs, self._kernel = call, needs, kernel
        self._plan = plan = needs.plan
        self._has_grads = any(grad is not None for grad in grads)
        problem = call.problem
        self._rows, self._classes, self._features = problem.rows, problem.classes, call.features
        self._buffers = buffers = Buffers(problem.precision.compute)
        self._hidden = moved_rows(call.hidden, problem.axis)
        self._weights = Weights(call.weight, plan.block, buffers)
        self._bias = Bias(call.bias, grads.linear_bias, buffers)
        self._weight_grad: WeightGrad | None = None
        if grads.linear_weight is not None:
            self._weight_grad = WeightGrad(
                grads.linear_weight, plan.block, buffers, needs.has_weight_sums
            )
        self._hidden_grad: Array | None = None
        if grads.hidden is not None:
            self._hidden_grad = moved_rows(grads.hidden, problem.axis)
        self._kept: KeptClasses | None = None
        if call.grad_filter:
            self._kept = KeptClasses(call.grad_filter, plan.block, buffers)

    def run(self) -> None:
        """Fill the gradients and what the kernel gathers."""
        start = 0
        if self._kept is not None and self._weight_grad is not None:
            self._weight_grad.sums.fill(0)
        if self._needs.first_rows:
            start = self._needs.first_rows
            self._first_rows(start)
        with np.errstate(all="ignore"):
            for begin in range(start, self._rows, self._plan.rows):
                self._chunk(begin, min(begin + self._plan.rows, self._rows), begin == 0)
        if self._weight_grad is not None:
            if not self._rows:
                self._weight_grad.sums.fill(0)
            self._weight_grad.finish()
        self._bias.finish()

    def _chunk(self, start: int, stop: int, is_first: bool) -> None:
        live = self._live(start, stop)
        count = stop - start if live is None else len(live)
        hidden = self._read(start, stop, live, count)
        logits = self._buffers.matrix("logits", count, self._classes)
        self._weights.logits(hidden, logits)
        self._bias.add_to(logits)
        self._kernel.run(start, stop, live, logits, self._has_grads)
        if not self._has_grads:
            return
        into, is_buffered = self._grad_rows(start, stop, count)
        if self._kept is not None:
            scale = self._scale(start, stop, live)
            self._kept.products(
                logits, hidden, scale, self._weights, into, self._weight_grad, self._bias
            )
        else:
            self._bias.add_grad(logits)
            if self._weight_grad is not None:
                self._weight_grad.add(logits, hidden, is_first)
            if into is not None:  # last, as it may go over the hidden rows
                self._weights.hidden_grad(logits, into)
        if into is not None and is_buffered:
            self._write(start, stop, live, into)

    def _live(self, start: int, stop: int) -> Array | None:
        """Which rows count, from `start`; None where all do."""
        problem = self._call.problem
        if not self._needs.has_skipped:
            return None
        assert problem.target is not None
        is_live = problem.target[start:stop] != problem.skip
        return None if is_live.all() else np.flatnonzero(is_live)

    def _scale(self, start: int, stop: int, live: Array | None) -> Any:
        scale = self._call.problem.row_scale
        if not isinstance(scale, np.ndarray):
            return scale
        part = scale[start:stop]
        return (part if live is None else part[live])[:, None]

    def _read(self, start: int, stop: int, live: Array | None, count: int) -> Array:
        """Hidden rows as BLAS reads them."""
        if not self._needs.copies_hidden:
            return self._hidden[start:stop]
        kind = kind_of(self._call.hidden.dtype)
        assert kind is not None
        copied = self._buffers.matrix("hidden", count, self._features)
        for begin, end, at in _stretches(start, stop, live):
            read_rows(self._hidden, kind, begin, end, copied[at : at + end - begin])
        return copied

    def _grad_rows(self, start: int, stop: int, count: int) -> tuple[Array | None, bool]:
        """Where the gradient of the hidden rows is computed, and whether that is a buffer."""
        if self._hidden_grad is None:
            return None, False
        if not self._needs.copies_hidden_grad:
            return self._hidden_grad[start:stop], False
        return self._buffers.matrix("hidden grad", count, self._features), True

    def _write(self, start: int, stop: int, live: Array | None, values: Array) -> None:
        grad = self._hidden_grad
        assert grad is not None
        kind = kind_of(grad.dtype)
        assert kind is not None
        done = start
        for begin, end, at in _stretches(start, stop, live):
            clear_rows(grad, done, begin)
            write_rows(values[at : at + end - begin], grad, kind, begin, end)
            done = end
        clear_rows(grad, done, stop)

    def _first_rows(self, count: int) -> None:
        """Compute the first rows with their logits in the memory of the weights' gradient.

        A chunk of few rows makes the products slow: 112 rows of 128,256 classes take 1.3 times
        their share. The gradient has D entries a class and holds nothing yet, so that D rows of
        logits find room in it.
        """
        assert self._weight_grad is not None
        weight_grad, weights = self._weight_grad.direct, self._weights.direct
        assert weight_grad is not None
        assert weights is not None
        hidden = self._hidden[:count]
        columns = weight_grad[:, :count]
        np.matmul(weights, hidden.T, out=columns)
        logits = columns.T
        self._bias.add_to(logits)
        self._kernel.run(0, count, None, logits, True)
        self._bias.add_grad(logits)
        if self._hidden_grad is not None:
            step = self._plan.rows if self._needs.copies_hidden_grad else count
            for start in range(0, count, step):
                stop = min(start + step, count)
                into, is_buffered = self._grad_rows(start, stop, stop - start)
                assert into is not None
                self._weights.hidden_grad(logits[start:stop], into)
                if is_buffered:
                    self._write(start, stop, None, into)
        for block in class_blocks(self._classes, self._plan.block):
            part = self._buffers.matrix("weight part", block.stop - block.start, count)
            part[...] = columns[block]
            np.matmul(part, hidden, out=weight_grad[block])


def clear_rows(rows: Array, start: int, stop: int) -> None:
    """Write zeros."""
    for _, _, index in runs(rows.shape[:-1], start, stop):
        rows[index] = 0


def _stretches(start: int, stop: int, live: Array | None) -> Iterator[tuple[int, int, int]]:
    """Rows side by side among those that count: from, to, and how many came before."""
    if live is None:
        yield start, stop, 0
        return
    if not len(live):
        return
    cuts = np.flatnonzero(np.diff(live) > 1) + 1
    firsts = [0, *cuts.tolist()]
    for at, until in zip(firsts, [*firsts[1:], len(live)], strict=True):
        yield start + int(live[at]), start + int(live[until - 1]) + 1, at
