"""Kernels compiled by Numba: explicit SIMD lanes, any number of threads, the same bits on each.

This file turns a Problem and its Outputs into numbers. Numba is imported when the backend is first
asked whether it can run, not before.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import (
    LABEL_CHUNK,
    TILE_CLASSES,
    BinaryOutputs,
    LabelSummary,
    Outputs,
)
from fastxent.backends.not_yet import not_yet
from fastxent.backends.numba_cpu.arguments import (
    LabelCheck,
    Memory,
    Pass,
    address,
    label_arguments,
    over,
    schedule_of,
    stride,
)
from fastxent.backends.numba_cpu.binary_arguments import run_binary
from fastxent.backends.numba_cpu.plain import INT64, are_plain, is_plain_output
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem
    from fastxent.jacobian import JacobianProblem
    from fastxent.problem import Problem

__all__ = ["BACKEND"]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# A number of the dtype in which probabilities are stored, by its bytes: it selects the variant.
_STORED = {1: np.uint8(0), 4: np.float32(0), 8: np.float64(0)}


@functools.cache
def _launch() -> Any:
    from fastxent.backends.numba_cpu import launch

    return launch


@functools.cache
def _reason() -> str | None:
    try:
        reason: str | None = _launch().why_not()
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # for instance ImportError for a NumPy that is too new for Numba
        return f"numba cannot be used: {error}"
    return reason


class NumbaBackend:
    """See `fastxent.backends.contract.Backend`."""

    name = "numba"

    def why_not(self, problem: Problem | None = None) -> str | None:
        """Numba is missing or does not work here, or there are no kernels for the problem."""
        return _reason() or not_yet(problem)

    def info(self) -> dict[str, str]:
        """Facts for a bug report."""
        info: dict[str, str] = {} if _reason() is not None else _launch().info()
        return info

    def check_labels(
        self,
        target: Array,
        num_classes: int,
        skip: int | None,
        class_mass: Array | None,
        row_mass: Array | None,
        num_threads: int,
    ) -> LabelSummary:
        """Find the first bad label, count the live rows and add up their mass."""
        launch = _launch()
        chunks = over(len(target), LABEL_CHUNK)
        workers = max(1, min(launch.most_workers(num_threads), chunks))
        memory = Memory(workers=1, own=24 * chunks)
        arguments = LabelCheck(
            rows=len(target),
            classes=num_classes,
            class_mass=memory.array_of(class_mass, _FLOAT64),
            row_mass=memory.array_of(row_mass, _FLOAT64),
            chunks=chunks,
            found=memory.scratch,
            workers=workers,
            counter=memory.address,
            **label_arguments(target, skip),
        )
        return LabelSummary(*launch.run(launch.CHECK_LABELS, workers, tuple(arguments)))

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `proba` and `log_proba`, as far as they are not None."""
        compute = problem.precision.compute
        memory, numbers = _begin(problem.logits, problem.num_threads, out, out.grad)
        row_scale = memory.factor(problem.row_scale, _FLOAT64)
        numbers["row_scale"], numbers["row_scale_step"] = row_scale
        numbers["background_total"] = problem.background_total
        on_all, stored = problem.background, None
        if problem.soft is not None:
            stored = _STORED[problem.soft.itemsize]
            numbers["soft"], numbers["soft_stride"] = address(problem.soft), stride(problem.soft)
            on_all = problem.gain
            if on_all is not None:
                numbers["gain"], numbers["gain_step"] = memory.factor(on_all, compute)
        elif problem.target is not None:
            numbers.update(label_arguments(problem.target, problem.skip))
            numbers["spike"], numbers["spike_step"] = memory.factor(problem.spike, _FLOAT64)
        if on_all is not None:
            background = 0.0 if problem.background is None else problem.background
            place = memory.factor(background, compute)
            numbers["background"], numbers["background_step"] = place
        _run(numbers, None if on_all is None else 0.0, stored, compute.type(0))

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` with the bits that `forward` gives it; the statistics are computed anew."""
        self.forward(problem, Outputs(grad=grad))

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""
        written = out.log_proba if out.proba is None else out.proba
        memory, numbers = _begin(problem.logits, problem.num_threads, out, written)
        numbers.update(
            grad=address(out.proba), log_proba=address(out.log_proba), background_total=1.0
        )
        numbers["row_scale"], numbers["row_scale_step"] = memory.factor(1.0, _FLOAT64)
        _run(numbers, None, None, problem.precision.compute.type(0))

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """Mean loss and gradient of a call without options, or None."""
        dtype = logits.dtype
        if (
            num_threads == 1
            and target.dtype is INT64
            and (dtype is _FLOAT32 or dtype is _FLOAT64)
            and logits.ndim == 2
            and target.ndim == 1
            # what else Numba's type of an array depends on: there is one variant a dtype
            and logits.flags.carray
            and target.flags.carray
            and (grad is None or (grad.dtype is dtype and grad.ndim == 2 and grad.flags.carray))
            and (classes := logits.shape[1]) <= _launch().MOST_CLASSES
        ):
            has_skip, label = (False, 0) if skip is None else (True, skip)
            wants_grad, written = (False, logits) if grad is None else (True, grad)
            tiled = 0.0 if classes <= TILE_CLASSES else None
            kernel = _launch().MEAN_LOSS
            mean: float | None = kernel(logits, target, has_skip, label, written, wants_grad, tiled)
            return mean
        if not are_plain(logits, target):
            return None
        if grad is not None and not is_plain_output(grad, logits, target):
            return None
        found = self.check_labels(target, logits.shape[1], skip, None, None, num_threads)
        if found.bad_row >= 0 or found.live == 0:
            return None
        out = Outputs(grad=grad, total=np.empty(1))
        memory, numbers = _begin(logits, num_threads, out, grad)
        numbers.update(label_arguments(target, skip))
        numbers["row_scale"], numbers["row_scale_step"] = memory.factor(1.0 / found.mass, _FLOAT64)
        numbers["spike"], numbers["spike_step"] = memory.factor(1.0, _FLOAT64)
        _run(numbers, None, None, dtype.type(0))
        assert out.total is not None
        return float(out.total[0]) / found.mass

    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1."""
        return run_binary(_launch(), problem, out)

    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out` with the Jacobian product."""
        from fastxent.backends.numba_cpu.jacobian import softmax_backward

        softmax_backward(problem, out)


def _begin(
    logits: Array, num_threads: int, out: Outputs, written: Array | None
) -> tuple[Memory, dict[str, Any]]:
    """Memory for a pass over the rows, which must outlive it, and the numbers known so far."""
    rows, classes = logits.shape
    schedule = schedule_of(rows, classes, _launch().most_workers(num_threads))
    rows_at_a_time = schedule.workers if schedule.pieces == 1 else 1
    memory = Memory(rows_at_a_time, own=schedule.scratch_bytes, shared=8 * schedule.chunks)
    return memory, {
        "rows": rows,
        "classes": classes,
        "logits": address(logits),
        "logits_stride": stride(logits),
        "loss": address(out.loss),
        "total": address(out.total),
        "row_max": address(out.row_max),
        "row_sum": address(out.row_sum),
        "grad": address(out.grad),
        "out_stride": stride(written),
        "counter": memory.address,
        "totals": memory.shared,
        "scratch": memory.scratch,
        **schedule._asdict(),
        "scratch_bytes": memory.own,
    }


def _run(numbers: dict[str, Any], on_all: Any, stored: Any, zero: Any) -> None:
    launch = _launch()
    tiled = 0.0 if numbers["classes"] <= TILE_CLASSES else None
    arguments = tuple(Pass(**numbers))
    launch.run(launch.FORWARD, numbers["workers"], arguments, tiled, on_all, stored, zero)


BACKEND = NumbaBackend()
