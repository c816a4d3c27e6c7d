"""Kernels compiled by Numba: explicit SIMD lanes, any number of threads, the same bits on each.

This file turns a Problem and its Outputs into numbers. Numba is imported when the backend is first
asked whether it can run, not before.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import BLOCK, LABEL_CHUNK, LabelSummary, Outputs
from fastxent.backends.numba_cpu.arguments import (
    LabelCheck,
    Memory,
    Pass,
    address,
    label_arguments,
    stride,
)
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["BACKEND"]

# Elements a chunk of rows: a few microseconds of work.
_CHUNK_ELEMENTS = 1 << 15

_FLOAT64 = np.dtype(np.float64)

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
        """Numba is missing or does not work here, or the logits have a dtype without kernels."""
        if problem is not None and problem.logits.dtype.char not in "fd":
            return f"it has no kernels for logits of dtype {problem.logits.dtype}"
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
        chunks = -(-len(target) // LABEL_CHUNK)
        workers = launch.workers_for(num_threads, chunks)
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
        """Fill `loss`, `grad`, `row_max`, `row_sum`, as far as they are not None."""
        compute = problem.precision.compute
        memory, numbers = _begin(problem)
        numbers.update(
            loss=address(out.loss),
            row_max=address(out.row_max),
            row_sum=address(out.row_sum),
            grad=address(out.grad),
            out_stride=stride(out.grad),
        )
        row_scale = memory.factor(problem.row_scale, _FLOAT64)
        numbers["row_scale"], numbers["row_scale_step"] = row_scale
        background, stored = problem.background, None
        if problem.soft is not None:
            stored = _STORED[problem.soft.itemsize]
            numbers["soft"], numbers["soft_stride"] = address(problem.soft), stride(problem.soft)
            gain = memory.factor(1.0 if problem.gain is None else problem.gain, compute)
            numbers["gain"], numbers["gain_step"] = gain
            background = 0.0 if background is None else background
        elif problem.target is not None:
            numbers.update(label_arguments(problem.target, problem.skip))
            spike = memory.factor(problem.spike, _FLOAT64)
            numbers["spike"], numbers["spike_step"] = spike
        if background is not None:
            on_all = memory.factor(background, compute)
            numbers["background"], numbers["background_step"] = on_all
            numbers["background_total"] = problem.background_total
        if out.total is not None and out.loss is None:
            loss = np.empty(len(problem.logits), problem.precision.loss)
            numbers["loss"] = address(loss)
        _run(_launch().FORWARD, problem, numbers, stored)
        if out.total is not None:
            out.total[0] = np.sum(loss if out.loss is None else out.loss, dtype=np.float64)

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba`, `log_proba`, `row_max`, `row_sum`, as far as they are not None."""
        if out.proba is not None and out.log_proba is not None:
            passes = [replace(out, log_proba=None), replace(out, proba=None)]
            if np.may_share_memory(out.proba, problem.logits):
                passes.reverse()  # what goes over the logits comes last
            for one in passes:
                self.softmax(problem, one)
            return
        _memory, numbers = _begin(problem)
        numbers.update(
            row_max=address(out.row_max),
            row_sum=address(out.row_sum),
            proba=address(out.proba),
            log_proba=address(out.log_proba),
            out_stride=stride(out.log_proba if out.proba is None else out.proba),
        )
        _run(_launch().SOFTMAX, problem, numbers)

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """None."""
        return None


def _begin(problem: Problem) -> tuple[Memory, dict[str, Any]]:
    """Memory for a pass over the rows, which must outlive it, and the numbers known so far."""
    rows, classes = problem.logits.shape
    chunk_rows = max(1, _CHUNK_ELEMENTS // classes)
    workers = _launch().workers_for(problem.num_threads, -(-rows // chunk_rows))
    # one block of exps, and four numbers for each block of a row
    memory = Memory(workers, own=8 * (BLOCK + 4 * -(-classes // BLOCK)))
    return memory, {
        "rows": rows,
        "classes": classes,
        "logits": address(problem.logits),
        "logits_stride": stride(problem.logits),
        "chunk_rows": chunk_rows,
        "workers": workers,
        "counter": memory.address,
        "scratch": memory.scratch,
        "scratch_bytes": memory.own,
    }


def _run(twins: Any, problem: Problem, numbers: dict[str, Any], *dummies: Any) -> None:
    zero = problem.precision.compute.type(0)
    _launch().run(twins, numbers["workers"], tuple(Pass(**numbers)), *dummies, zero)


BACKEND = NumbaBackend()
