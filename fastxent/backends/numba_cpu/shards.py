"""The verbs for classes of which only some are here: partial, merge and partial_backward.

What is known of a call becomes the records PASS and SHARD. Blocks are those of a whole row, and the
sums of a row are finished by the same code: merged in order, they give the bits of `forward` for
more than TILE_CLASSES classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu import cache, forks
from fastxent.backends.numba_cpu.arguments import Memory, address, label_arguments, matrix_of
from fastxent.backends.numba_cpu.by_shard import backward_unit, merge_chunk, partial_unit
from fastxent.backends.numba_cpu.fields import pass_at, shard_at
from fastxent.backends.numba_cpu.forward import ELEMENTS, side_by_side
from fastxent.backends.numba_cpu.jit import parallel, serial
from fastxent.backends.numba_cpu.kernels import Twins, next_chunk, put_total
from fastxent.backends.numba_cpu.lanes import pointer
from fastxent.backends.numba_cpu.launch import most_workers, run
from fastxent.backends.numba_cpu.records import SHARD
from fastxent.backends.numba_cpu.schedule import (
    BLOCK_SUMS,
    chunk_rows_of,
    over,
    pieces_of,
    rows_of_chunk,
)
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.backends.contract import Outputs, PartialSums
    from fastxent.problem import Problem

__all__ = ["merge", "partial", "partial_backward"]

_FLOAT64 = np.dtype(np.float64)


@serial
def _partial_serial(
    numbers: int, shard: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p, s = pass_at(numbers), shard_at(shard)
    for unit in range(p.chunks * p.pieces):
        partial_unit(p, s, unit, massed, of_soft, prepared, zero)


@parallel
def _partial_parallel(
    numbers: int, shard: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p = pass_at(numbers)
    for _ in prange(p.workers):
        q, s = pass_at(numbers), shard_at(shard)  # a parallel loop takes numbers along
        unit = next_chunk(q.counter)
        while unit < q.chunks * q.pieces:
            partial_unit(q, s, unit, massed, of_soft, prepared, zero)
            unit = next_chunk(q.counter)


@serial
def _merge_serial(numbers: int, shard: int, zero: Any) -> None:
    p, s = pass_at(numbers), shard_at(shard)
    for chunk in range(p.chunks):
        pointer(p.totals, chunk, 0.0)[0] = merge_chunk(p, s, chunk, p.scratch, zero)
    put_total(p)


@parallel
def _merge_parallel(numbers: int, shard: int, zero: Any) -> None:
    p = pass_at(numbers)
    for worker in prange(p.workers):
        q, s = pass_at(numbers), shard_at(shard)
        scratch = q.scratch + worker * q.scratch_bytes
        chunk = next_chunk(q.counter)
        while chunk < q.chunks:
            pointer(q.totals, chunk, 0.0)[0] = merge_chunk(q, s, chunk, scratch, zero)
            chunk = next_chunk(q.counter)
    put_total(p)


@serial
def _backward_serial(
    numbers: int, shard: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p, s = pass_at(numbers), shard_at(shard)
    for unit in range(p.chunks * p.pieces):
        backward_unit(p, s, unit, massed, of_soft, prepared, zero)


@parallel
def _backward_parallel(
    numbers: int, shard: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p = pass_at(numbers)
    for _ in prange(p.workers):
        q, s = pass_at(numbers), shard_at(shard)
        unit = next_chunk(q.counter)
        while unit < q.chunks * q.pieces:
            backward_unit(q, s, unit, massed, of_soft, prepared, zero)
            unit = next_chunk(q.counter)


_PARTIAL = Twins(_partial_serial, _partial_parallel)
_MERGE = Twins(_merge_serial, _merge_parallel)
_BACKWARD = Twins(_backward_serial, _backward_parallel)
cache.attach([*_PARTIAL, *_MERGE, *_BACKWARD])
forks.prepare(_PARTIAL, _MERGE, _BACKWARD)


class _Shard:
    """A call on its way to the kernels.

    Attributes
    ----------
    numbers, shard : dict
        The fields of PASS and SHARD that are known so far.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._memory, self._own = problem, Memory(), Memory()
        self.kind = "float64" if problem.precision.kind == "float64" else "float32"
        self.numbers: dict[str, Any] = {
            "rows": problem.rows,
            "logit_scale": problem.logit_scale,
            "softcap": problem.softcap or 0.0,
            "z_loss": problem.z_loss,
            "background_total": problem.background_total,
            "counter": self._memory.address,
        }
        self.shard: dict[str, Any] = {
            "class_offset": problem.class_offset,
            "num_classes": problem.num_classes,
        }
        if problem.target is not None:
            self.numbers.update(label_arguments(problem.target, problem.skip))
            self._put_factor("spike", problem.spike, _FLOAT64)

    def _put_factor(self, name: str, value: float | Array, dtype: np.dtype[Any]) -> None:
        self.numbers[name], self.numbers[name + "_step"] = self._memory.factor(value, dtype)

    def put_addresses(self, **arrays: Array | None) -> None:
        """Give arrays of SHARD."""
        for name, array in arrays.items():
            self.shard[name] = address(array)

    def put_merging(self, sums: PartialSums, out: Outputs) -> int:
        """Give what is merged, and where to; the workers."""
        problem, numbers = self._problem, self.numbers
        parts, chunk_rows = len(sums.max), rows_of_chunk(problem.num_classes)
        chunks = over(problem.rows, chunk_rows)
        workers = max(1, min(most_workers(problem.num_threads), chunks))
        self._memory.allocate(workers, 8 * BLOCK_SUMS * parts, 8 * chunks)
        if problem.target is None:
            # the mass is that of the parts
            numbers["soft"] = matrix_of(sums.max, "float64")
        for name in ("loss", "total", "row_max", "row_sum", "log_prob", "entropy", "argmax"):
            numbers[name] = address(getattr(out, name))
        numbers |= {
            "classes": problem.num_classes,
            "blocks": parts,
            "chunk_rows": chunk_rows,
            "chunks": chunks,
            "workers": workers,
            "totals": self._memory.totals,
            "scratch": self._memory.scratch,
            "scratch_bytes": self._memory.own,
        }
        return workers

    def put_classes(self) -> int:
        """Give the logits and what belongs to classes; the workers."""
        problem, numbers, compute = self._problem, self.numbers, self._problem.precision.compute
        classes, rows = problem.classes, problem.rows
        chunk_rows = chunk_rows_of(classes)
        chunks, most = over(rows, chunk_rows), most_workers(problem.num_threads)
        pieces = pieces_of(classes, chunks, most)
        workers = max(1, min(most, chunks * pieces))
        self._put_factor("row_scale", problem.row_scale, _FLOAT64)
        if problem.soft is not None:
            directly = problem.soft_kind == self.kind and side_by_side(problem.soft)
            numbers["soft"] = matrix_of(problem.soft, problem.soft_kind)
            numbers["soft_directly"] = int(directly and problem.gain is None)
            if problem.gain is not None:
                background = 0.0 if problem.background is None else problem.background
                self._put_factor("gain", problem.gain, compute)
                self._put_factor("background", background, compute)
        elif problem.background is not None:
            self._put_factor("background", problem.background, compute)
        bare = problem.softcap is None and problem.logit_scale == 1.0
        numbers |= {
            "classes": classes,
            "logits": matrix_of(problem.logits, problem.precision.kind),
            "reads_directly": int(bare and self.directly(problem.logits)),
            "chunk_rows": chunk_rows,
            "chunks": chunks,
            "blocks": over(classes, BLOCK),
            "pieces": pieces,
            "workers": workers,
        }
        return workers

    def put_grad(self, grad: Array) -> None:
        """Give the gradient's place."""
        self.numbers["grad"] = matrix_of(grad, self._problem.precision.kind)
        self.numbers["writes_directly"] = int(self.directly(grad))

    def directly(self, array: Array) -> bool:
        """Whether numbers of the logits' kind lie as they are computed."""
        return self._problem.precision.kind == self.kind and side_by_side(array)

    def run_classes(self, twins: Twins, workers: int, plain: bool) -> None:
        """Run a kernel over classes; `plain` tells that nothing needs memory of its own."""
        problem, soft = self._problem, self._problem.soft is not None
        plain = plain and bool(self.numbers["reads_directly"])
        plain = plain and (not soft or bool(self.numbers["soft_directly"]))
        self.run(
            twins,
            workers,
            0.0 if soft or problem.background is not None else None,
            0.0 if soft else None,
            None if plain else ELEMENTS[problem.precision.kind],
        )

    def run(self, twins: Twins, workers: int, *variant: Any) -> None:
        """Run a kernel."""
        zero = np.float64(0) if self.kind == "float64" else np.float32(0)
        run(
            twins,
            workers,
            self._memory.with_pass(self.numbers),
            self._own.with_pass(self.shard, SHARD),
            *variant,
            zero,
        )


def partial(problem: Problem, sums: PartialSums) -> None:
    """Fill the sums of the blocks that are here."""
    if problem.classes == 0 or problem.rows == 0:
        if sums.label_logit is not None:
            sums.label_logit.fill(0)
        return
    call = _Shard(problem)
    workers = call.put_classes()
    names = ("max", "sum", "mass", "dot", "spread", "argmax", "label_logit")
    call.put_addresses(**{name: getattr(sums, name) for name in names})
    call.run_classes(_PARTIAL, workers, sums.spread is None and sums.argmax is None)


def merge(problem: Problem, sums: PartialSums, out: Outputs) -> None:
    """Fill the outputs of rows from the sums of all their classes."""
    call = _Shard(problem)
    workers = call.put_merging(sums, out)
    names = ("max", "sum", "mass", "dot", "spread", "argmax", "label_logit")
    call.put_addresses(**{name: getattr(sums, name) for name in names}, row_mass=out.mass)
    call.run(_MERGE, workers)


def partial_backward(
    problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
) -> None:
    """Fill the gradient of the classes that are here."""
    if problem.classes == 0 or problem.rows == 0:
        return
    call = _Shard(problem)
    workers = call.put_classes()
    call.put_grad(grad)
    call.put_addresses(row_max=row_max, row_sum=row_sum, row_mass=row_mass)
    call.run_classes(_BACKWARD, workers, bool(call.numbers["writes_directly"]))
