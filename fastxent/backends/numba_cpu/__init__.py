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
    HessRule,
    LabelSummary,
    Outputs,
    PartialSums,
)
from fastxent.backends.numba_cpu.arguments import LabelCheck, Memory, label_arguments
from fastxent.backends.numba_cpu.binary_arguments import run_binary
from fastxent.backends.numba_cpu.forward import Forward
from fastxent.backends.numba_cpu.plain import INT64, are_plain, is_plain_output
from fastxent.backends.numba_cpu.schedule import over
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem
    from fastxent.jacobian import JacobianProblem
    from fastxent.problem import Problem

__all__ = ["BACKEND"]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


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


@functools.cache
def _shards() -> Any:
    from fastxent.backends.numba_cpu import shards

    return shards


class NumbaBackend:
    """See `fastxent.backends.contract.Backend`."""

    name = "numba"

    def why_not(self, problem: Problem | None = None) -> str | None:
        """Numba is missing or does not work here: there is nothing that its kernels cannot do."""
        return _reason()

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
        memory = Memory()
        memory.allocate(1, 24 * chunks)
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
        """Fill all outputs but `log_proba`, as far as they are not None."""
        compute = problem.precision.compute
        work = Forward(_launch(), problem.logits, problem.precision.kind, problem.num_threads)
        numbers = work.numbers
        numbers["z_loss"] = problem.z_loss
        numbers["softcap"] = problem.softcap or 0.0
        numbers["logit_scale"] = problem.logit_scale
        numbers["background_total"] = problem.background_total
        work.put_factor("row_scale", problem.row_scale, _FLOAT64)
        massed = problem.background is not None
        if problem.soft is not None:
            massed = True
            work.put_soft(problem.soft, problem.soft_kind)
            if problem.gain is not None:
                work.put_factor("gain", problem.gain, compute)
                background = 0.0 if problem.background is None else problem.background
                work.put_factor("background", background, compute)
        elif problem.target is not None:
            numbers.update(label_arguments(problem.target, problem.skip))
            work.put_factor("spike", problem.spike, _FLOAT64)
            if problem.background is not None:
                work.put_factor("background", problem.background, compute)
        work.put_statistics(out)
        work.put_classes(grad=out.grad)
        if out.hess is not None or out.proba is not None:
            work.put_hess(out.hess, out.proba, problem.hess_rule or HessRule())
        work.put_target_grad(out.target_grad, problem.target_grad_kind)
        work.run(massed=massed)

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` with the bits that `forward` gives it; the statistics are computed anew."""
        self.forward(problem, Outputs(grad=grad))

    def partial(self, problem: Problem, sums: PartialSums) -> None:
        """Fill what is not None with the sums of each block of classes of `problem`."""
        _shards().partial(problem, sums)

    def merge(self, problem: Problem, sums: PartialSums, out: Outputs) -> None:
        """Fill outputs of rows from the sums of all classes, in class order."""
        _shards().merge(problem, sums, out)

    def partial_backward(
        self, problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
    ) -> None:
        """Fill `grad`, rows like those of `problem`, from the statistics of all classes."""
        _shards().partial_backward(problem, row_max, row_sum, row_mass, grad)

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""
        work = Forward(_launch(), problem.logits, problem.precision.kind, problem.num_threads)
        work.numbers["background_total"] = 1.0
        work.put_factor("row_scale", 1.0, _FLOAT64)
        work.put_statistics(out)
        work.put_classes(grad=out.proba, log_proba=out.log_proba)
        work.run()

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
            and (classes := logits.shape[1]) <= (launch := _launch()).MOST_CLASSES
            and not (launch.LONG_WAY and (dtype, classes <= TILE_CLASSES) in launch.LONG_WAY)
        ):
            has_skip, label = (False, 0) if skip is None else (True, skip)
            wants_grad, written = (False, logits) if grad is None else (True, grad)
            ways = (0.0, None) if classes <= TILE_CLASSES else (None, 0.0)
            mean: float | None = launch.MEAN_LOSS(
                logits, target, has_skip, label, written, wants_grad, *ways
            )
            return mean
        if not are_plain(logits, target):
            return None
        if grad is not None and not is_plain_output(grad, logits, target):
            return None
        found = self.check_labels(target, logits.shape[1], skip, None, None, num_threads)
        if found.bad_row >= 0 or found.live == 0:
            return None
        out = Outputs(grad=grad, total=np.empty(1))
        work = Forward(_launch(), logits, dtype.name, num_threads)
        work.numbers.update(label_arguments(target, skip))
        work.put_factor("row_scale", 1.0 / found.mass, _FLOAT64)
        work.put_factor("spike", 1.0, _FLOAT64)
        work.put_statistics(out)
        work.put_classes(grad=grad)
        work.run()
        assert out.total is not None
        return float(out.total[0]) / found.mass

    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1."""
        return run_binary(_launch(), problem, out)

    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out` with the Jacobian product."""
        from fastxent.backends.numba_cpu.jacobian import softmax_backward

        softmax_backward(problem, out)


BACKEND = NumbaBackend()
