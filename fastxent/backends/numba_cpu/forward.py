"""One pass, put together from a problem's arrays and factors, and run.

What is known of a pass becomes the record PASS; which variant of the kernels runs it, and how it is
cut up, is decided here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent.backends.contract import TILE_CLASSES, HessRule, Outputs
from fastxent.backends.numba_cpu.arguments import Memory, address, matrix_of
from fastxent.backends.numba_cpu.schedule import LEAST_RUN, MOST_COLUMN_CLASSES, schedule_of
from fastxent.precision import Array

__all__ = ["ELEMENTS", "Forward", "side_by_side"]

_FLOAT32, _FLOAT64 = np.float32(0), np.float64(0)


# A number of the dtype that stands for each kind in compiled code: see storage.py.
ELEMENTS = {
    "float32": _FLOAT32,
    "float64": _FLOAT64,
    "float16": np.int16(0),
    "bfloat16": np.uint16(0),
}


def side_by_side(array: Array) -> bool:
    """Whether classes are."""
    return array.strides[-1] == array.itemsize or array.shape[-1] <= 1


def _column_run(logits: Array) -> int:
    """How many rows lie side by side in memory, class by class; 0 where too few do."""
    run, step = logits.shape[-2], logits.strides[-2]
    if step != logits.itemsize or run < LEAST_RUN or logits.shape[-1] > MOST_COLUMN_CLASSES:
        return 0
    return 0 if side_by_side(logits) else run


class Forward:
    """A pass over rows of logits.

    Attributes
    ----------
    numbers : dict
        The fields of PASS that are known so far.
    """

    def __init__(self, launch: Any, logits: Array, kind: str, num_threads: int) -> None:
        self._launch = launch
        self._most_workers: int = launch.most_workers(num_threads)
        self._kind = "float64" if kind == "float64" else "float32"  # of the compute dtype
        self._columns = _column_run(logits)
        self._in_place = kind == self._kind and side_by_side(logits)
        self._memory = Memory()
        self.numbers: dict[str, Any] = {
            "rows": math.prod(logits.shape[:-1]),
            "classes": logits.shape[-1],
            "logits": matrix_of(logits, kind),
            "logit_scale": 1.0,
            "softcap": 0.0,
            "writes_directly": 1,
        }
        self._stored, self._total = kind, 0

    def put_factor(self, name: str, value: float | Array, dtype: np.dtype[Any]) -> None:
        """Give a factor of rows or classes, and its step."""
        place, step = self._memory.factor(value, dtype)
        self.numbers[name], self.numbers[name + "_step"] = place, step

    def put_soft(self, soft: Array, kind: str | None) -> None:
        """Give probabilities, before their gain."""
        self.numbers["soft"] = matrix_of(soft, kind)
        self.numbers["soft_directly"] = int(kind == self._kind and side_by_side(soft))

    def put_statistics(self, out: Outputs) -> None:
        """Ask for what is one number a row."""
        self._total = address(out.total)
        for name in ("loss", "row_max", "row_sum", "log_prob", "entropy", "argmax"):
            array = getattr(out, name)
            if array is not None:
                self.numbers[name] = address(array)

    def put_hess(self, hess: Array | None, proba: Array | None, rule: HessRule) -> None:
        """Ask for the diagonal of the Hessian, and for probabilities beside the gradient."""
        numbers = self.numbers
        numbers["proba"] = matrix_of(proba, self._stored)
        numbers["hess"] = matrix_of(hess, self._stored)
        numbers["hess_is_distance"] = int(rule.kind == "distance")
        numbers["hess_factor"], numbers["hess_floor"] = rule.factor, rule.floor

    def put_classes(self, grad: Array | None = None, log_proba: Array | None = None) -> None:
        """Ask for what has the kind of the logits and a number for each class."""
        self.numbers["grad"] = matrix_of(grad, self._stored)
        self.numbers["log_proba"] = matrix_of(log_proba, self._stored)
        written = log_proba if grad is None else grad
        if written is not None:
            direct = self._stored == self._kind and side_by_side(written)
            self.numbers["writes_directly"] = int(direct)

    def put_target_grad(self, target_grad: Array | None, kind: str | None) -> None:
        """Ask for the gradient with respect to probabilities."""
        if target_grad is not None:
            self.numbers["target_grad"] = matrix_of(target_grad, kind)

    def run(self, *, massed: bool = False) -> None:
        """Run the pass; `massed` tells that there is mass besides the labels'."""
        numbers, given = self.numbers, self.numbers.get
        capped = numbers["softcap"] != 0.0
        tiled = bool(self._columns) or numbers["classes"] <= TILE_CLASSES
        reads_directly = (
            self._in_place and not capped and numbers["logit_scale"] == 1.0 and not self._columns
        )
        if given("gain"):
            numbers["soft_directly"] = 0
        soft, entropy, argmax = bool(given("soft")), bool(given("entropy")), bool(given("argmax"))
        target_grad, log_proba = bool(given("target_grad")), bool(given("log_proba"))
        keeps_logits = (capped and bool(given("grad"))) or target_grad or entropy
        if tiled:
            keeps_logits = keeps_logits or log_proba or argmax
        else:
            keeps_logits = keeps_logits or (log_proba and not reads_directly)
        plain = (
            reads_directly
            and numbers["writes_directly"]
            and (not soft or numbers["soft_directly"])
            and not (entropy or argmax or target_grad or given("proba") or given("hess"))
        )
        variant = (
            0.0 if massed else None,
            0.0 if soft else None,
            None if plain else ELEMENTS[self._stored],
            _FLOAT64 if self._kind == "float64" else _FLOAT32,
        )
        schedule = schedule_of(
            numbers["rows"],
            numbers["classes"],
            8 if self._kind == "float64" else 4,
            self._columns,
            not plain,
            self._workers_to_plan(tiled, variant),
        )
        memory, launch = self._memory, self._launch
        workers = min(schedule.workers, self._most_workers)
        state_bytes = launch.STATE_BYTES if schedule.shared_bytes else 0
        memory.allocate(
            workers,
            schedule.scratch_bytes,
            8 * schedule.chunks,
            schedule.shared_bytes + state_bytes,
        )
        numbers |= schedule._asdict()
        for name in ("shared_bytes", "scratch_bytes", "workers"):
            del numbers[name]
        numbers |= {
            "columns": int(bool(self._columns)),
            "reads_directly": int(reads_directly),
            "keeps_logits": int(keeps_logits),
            "totals": memory.totals,
            "shared_rows": memory.shared if schedule.shared_bytes else 0,
        }
        place = memory.with_pass(numbers)
        if schedule.pieces > 1:
            launch.run_turns(
                launch.SHARED(*variant),
                place,
                memory,
                2 * numbers["rows"],
                numbers["classes"],
                schedule.pieces,
                workers,
                state=memory.shared + schedule.shared_bytes,
                chunks=schedule.chunks,
                total=self._total,
            )
            return
        launch.run_chunks(
            launch.FORWARD(0.0 if tiled else None, *variant),
            place,
            memory,
            schedule.chunks,
            schedule.chunk_rows * numbers["classes"],
            workers,
            totals=memory.totals if self._total else 0,
            total=self._total,
        )

    def _workers_to_plan(self, tiled: bool, variant: tuple[Any, ...]) -> int:
        """Workers for whom a pass is cut up: in a forked child as in its parent.

        A child has one. Where its parent only had rows that workers share, it takes their way too,
        and need not compile another.
        """
        launch = self._launch
        if tiled or not launch.forked() or launch.FORWARD.has(None, *variant):
            return self._most_workers
        return 2 if launch.SHARED.has(*variant) else self._most_workers
