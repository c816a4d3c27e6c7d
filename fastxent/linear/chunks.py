"""The loop: logits of a chunk, their loss and gradient in place, and the products with these."""

from __future__ import annotations

import numpy as np

from fastxent.linear.buffers import Buffers
from fastxent.linear.factors import row_factors
from fastxent.linear.hidden import HiddenGrad, HiddenRows
from fastxent.linear.kept import KeptClasses
from fastxent.linear.kernel import Kernel
from fastxent.linear.needs import Needs
from fastxent.linear.problem import LinearGrads, LinearProblem
from fastxent.linear.products import Bias, WeightGrad, Weights, class_blocks
from fastxent.linear.soft import copies_soft
from fastxent.precision import Array

__all__ = ["Chunks"]


class Chunks:
    """One call on its way through its rows; the gradients that it is given are filled."""

    def __init__(
        self, call: LinearProblem, needs: Needs, kernel: Kernel, grads: LinearGrads
    ) -> None:
        self._call, self._needs, self._kernel = call, needs, kernel
        self._has_grads = any(grad is not None for grad in grads)
        problem, plan = call.problem, needs.plan
        self._plan, self._rows = plan, problem.rows
        self._buffers = buffers = Buffers(problem.precision.compute, plan.rows, plan.block)
        self._hidden = HiddenRows(call, needs.has_skipped, needs.copies_hidden)
        self._weights = Weights(call.weight, buffers)
        self._bias = Bias(call.bias, grads.linear_bias, buffers)
        self._weight_grad: WeightGrad | None = None
        if grads.linear_weight is not None:
            self._weight_grad = WeightGrad(grads.linear_weight, buffers, needs.has_weight_sums)
        self._hidden_grad: HiddenGrad | None = None
        if grads.hidden is not None:
            buffered = needs.copies_hidden_grad
            self._hidden_grad = HiddenGrad(grads.hidden, problem.axis, buffered, buffers)
        self._kept: KeptClasses | None = None
        if call.grad_filter and self._has_grads:
            self._kept = KeptClasses(call.grad_filter, buffers)

    def run(self) -> None:
        """Fill the gradients and what the kernel gathers."""
        weight_grad, start = self._weight_grad, self._needs.first_rows
        if weight_grad is not None and (self._kept is not None or not self._rows):
            weight_grad.sums.fill(0)
        with np.errstate(all="ignore"):
            if start:
                self._kernel.most_threads = self._needs.most_threads_of_first
                self._first_rows(start)
            self._kernel.most_threads = self._needs.most_threads
            for begin in range(start, self._rows, self._plan.rows):
                self._chunk(begin, min(begin + self._plan.rows, self._rows))
        if weight_grad is not None:
            weight_grad.finish()
        self._bias.finish()
        self._buffers.clear()

    def _chunk(self, start: int, stop: int) -> None:
        live = self._hidden.live(start, stop)
        hidden = self._hidden.read(start, stop, live, self._buffers)
        logits = self._buffers.of_rows("logits", len(hidden), self._weights.classes)
        self._weights.logits(hidden, logits)
        self._bias.add_to(logits)
        self._kernel.run(start, stop, live, logits, self._has_grads)
        if not self._has_grads:
            return
        into: Array | None = None
        if self._hidden_grad is not None:
            into = self._hidden_grad.place(start, stop, len(hidden))
        if self._kept is not None:
            scale = row_factors(self._call, start, stop, live)
            sums = self._weight_grad, self._bias
            self._kept.products(logits, hidden, scale, self._weights, into, *sums)
        else:
            self._bias.add_grad(logits)
            if self._weight_grad is not None:
                self._weight_grad.add(logits, hidden, start == 0)
            if into is not None:  # last, as it may go over the hidden rows
                self._weights.hidden_grad(logits, into)
        if self._hidden_grad is not None and into is not None:
            self._hidden_grad.deliver(start, stop, live, into)

    def _first_rows(self, count: int) -> None:
        """Compute the first rows with their logits in the memory of the weights' gradient.

        A chunk of few rows makes the products slow: with 112 rows of 128,256 classes they take
        1.16 to 1.39 times their share. The gradient has D entries a class and holds nothing yet,
        so that D rows of logits find room in it: 0.98 to 1.06 times.
        """
        assert self._weight_grad is not None
        weight_grad, weights = self._weight_grad.direct, self._weights.direct
        assert weight_grad is not None
        assert weights is not None
        hidden = self._hidden.rows[:count]
        columns = weight_grad[:, :count]
        np.matmul(weights, hidden.T, out=columns)
        logits = columns.T
        self._bias.add_to(logits)
        # probabilities that have to be copied are copied for the rows of a chunk only
        step = self._plan.rows if copies_soft(self._call.soft) else count
        for start in range(0, count, step):
            stop = min(start + step, count)
            self._kernel.run(start, stop, None, logits[start:stop], True)
        self._bias.add_grad(logits)
        if self._hidden_grad is not None:
            step = self._plan.rows if self._hidden_grad.is_buffered else count
            for start in range(0, count, step):
                stop = min(start + step, count)
                into = self._hidden_grad.place(start, stop, stop - start)
                self._weights.hidden_grad(logits[start:stop], into)
                self._hidden_grad.deliver(start, stop, None, into)
        for block in class_blocks(len(columns), self._plan.block):
            part = self._buffers.of_classes("weight part", block.stop - block.start, count)
            part[...] = columns[block]
            np.matmul(part, hidden, out=weight_grad[block])
