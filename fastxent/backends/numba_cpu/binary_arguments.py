"""What crosses into the kernel of the verb binary: see arguments.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import CHUNK_ELEMENTS, KINDS, BinaryOutputs, HessRule
from fastxent.backends.numba_cpu.arguments import Memory, address
from fastxent.backends.numba_cpu.records import BINARY
from fastxent.backends.numba_cpu.schedule import over
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem

__all__ = ["run_binary"]


class _Layout:
    """Shape and strides of some arrays in memory of their own, by their addresses."""

    def __init__(self, shape: tuple[int, ...], arrays: int) -> None:
        self._dims, self._used = len(shape), 1
        self._numbers = np.empty((1 + arrays, len(shape)), np.int64)
        self._numbers[0] = shape
        self.shape = address(self._numbers)

    def strides(self, array: Array) -> int:
        """Address of an array's strides."""
        self._numbers[self._used] = array.strides
        self._used += 1
        return self.shape + 8 * self._dims * (self._used - 1)


def run_binary(launch: Any, problem: BinaryProblem, out: BinaryOutputs) -> bool:
    """Run the kernel that the module `launch` has."""
    count = problem.logits.size
    chunks = over(count, CHUNK_ELEMENTS)
    workers = max(1, min(launch.most_workers(problem.num_threads), chunks))
    memory = Memory()
    memory.allocate(1, 16 * chunks)
    layout = _Layout(problem.logits.shape, arrays=9)
    rule = problem.hess_rule or HessRule()
    numbers: dict[str, Any] = {}
    arrays = {"logits": problem.logits, "target": problem.target, "loss": out.loss}
    arrays |= {"grad": out.grad, "proba": out.proba, "hess": out.hess}
    for name, array in arrays.items():
        numbers[name] = address(array)
        numbers[f"{name}_strides"] = 0 if array is None else layout.strides(array)
    factors = {"ones": problem.ones, "factor": problem.factor, "upstream": problem.upstream}
    for name, factor in factors.items():
        array, constant = (factor, 0.0) if isinstance(factor, np.ndarray) else (None, factor)
        numbers[name] = address(array)
        numbers[f"{name}_strides"] = 0 if array is None else layout.strides(array)
        numbers[f"{name}_constant"] = constant
    numbers |= {
        "dims": problem.logits.ndim,
        "shape": layout.shape,
        "elements": count,
        "chunks": chunks,
        "compute_kind": KINDS.index(problem.compute.name),
        "logits_kind": KINDS.index(problem.logits_kind),
        "target_kind": KINDS.index(problem.target_kind),
        "gain": problem.gain,
        "background": problem.background,
        "hess_is_distance": int(rule.kind == "distance"),
        "hess_factor": rule.factor,
        "hess_floor": rule.floor,
        "total": address(out.total),
        "found": memory.scratch,
    }
    place = memory.with_pass(numbers, BINARY)
    body = launch.BINARY(problem.compute.type(0))
    launch.run_chunks(body, place, memory, chunks, CHUNK_ELEMENTS, workers)
    bad: bool = launch.binary_summary(place)
    return bad
