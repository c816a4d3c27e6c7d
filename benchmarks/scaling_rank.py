"""What one process of benchmarks/scaling.py does: time calls and exchanges together with the rest.

usage: python benchmarks/scaling_rank.py {torch,mpi} ROWS CLASSES REPEATS

Rank 0 prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastxent as fx

# Numbers that are exchanged at a time to see what an exchange costs: float64, as in a call.
NUMBERS = (1, 1024, 16_384, 262_144)
# Classes of a call whose time is that of its rows.
FEW = 128
# Rows that are drawn; the others repeat them.
DRAWN = 64


class TorchRank:
    """A process of torch.distributed over gloo."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        store = dist.FileStore(os.environ["SCALING_STORE"], int(os.environ["WORLD_SIZE"]))
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size)
        self._torch, self._dist = torch, dist

    def barrier(self) -> None:
        self._dist.barrier()

    def exchange(self, numbers: int) -> Callable[[], None]:
        values = self._torch.ones(numbers, dtype=self._torch.float64)
        return lambda: self._dist.all_reduce(values, op=self._dist.ReduceOp.MAX)

    def call(self, logits: np.ndarray, target: np.ndarray, merge: str) -> Callable[[], None]:
        from fastxent.torch import vocab_parallel_cross_entropy

        local = self._torch.from_numpy(logits).requires_grad_()
        labels = self._torch.from_numpy(target)

        def step() -> None:
            local.grad = None
            vocab_parallel_cross_entropy(local, labels, merge=merge, num_threads=1).backward()

        return step

    def largest(self, seconds: float) -> float:
        values = self._torch.tensor([seconds], dtype=self._torch.float64)
        self._dist.all_reduce(values, op=self._dist.ReduceOp.MAX)
        return float(values[0])

    def close(self) -> None:
        self._dist.destroy_process_group()


class MPIRank:
    """A process of an MPI job."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def barrier(self) -> None:
        self._comm.Barrier()

    def exchange(self, numbers: int) -> Callable[[], None]:
        values = np.ones(numbers)
        return lambda: self._comm.Allreduce(self._mpi.IN_PLACE, values, self._mpi.MAX)

    def call(self, logits: np.ndarray, target: np.ndarray, merge: str) -> Callable[[], None]:
        from fastxent.mpi import vocab_parallel_cross_entropy_and_grad

        out = np.empty_like(logits)
        return lambda: vocab_parallel_cross_entropy_and_grad(
            logits, target, merge=merge, out=out, num_threads=1
        )

    def largest(self, seconds: float) -> float:
        return float(self._comm.allreduce(seconds, self._mpi.MAX))

    def close(self) -> None:
        """MPI ends with the process."""


ENGINES: dict[str, type[TorchRank | MPIRank]] = {"torch": TorchRank, "mpi": MPIRank}


def alone(logits: np.ndarray, target: np.ndarray, first: int, classes: int) -> Callable[[], None]:
    """Give a rank's own passes over its logits: without agreement and exchange."""
    given: dict[str, Any] = {"class_offset": first, "num_classes": classes, "num_threads": 1}
    stats = [fx.partial_stats(logits, target, **given)]
    # any logits will do for the classes of the others; these take no memory
    for start, stop in ((0, first), (first + logits.shape[1], classes)):
        zeros = np.broadcast_to(np.float32(0), (len(target), stop - start))
        stats.append(fx.partial_stats(zeros, target, **given | {"class_offset": start}))
    whole = fx.merge_stats(*stats)
    out = np.empty_like(logits)

    def step() -> None:
        fx.partial_stats(logits, target, **given)
        fx.grad_from_stats(logits, target, whole, out=out, **given)

    return step


def call_of_few(
    rank: TorchRank | MPIRank, logits: np.ndarray, target: np.ndarray
) -> Callable[[], None]:
    """Give a call with the first of the classes: the same rows, `FEW` logits of each in all."""
    count = FEW * (rank.rank + 1) // rank.size - FEW * rank.rank // rank.size
    return rank.call(np.ascontiguousarray(logits[:, :count]), target % FEW, "reduce")


def seconds(rank: TorchRank | MPIRank, step: Callable[[], None], repeats: int) -> float:
    """Median over the rounds, which all ranks begin together; of the slowest rank."""
    times = []
    step()
    for _ in range(repeats):
        rank.barrier()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return rank.largest(statistics.median(times))


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: list[str]) -> None:
    """Measure, and print what came of it."""
    engine, (rows, classes, repeats) = arguments[0], map(int, arguments[1:])
    rank = ENGINES[engine]()
    first, stop = (classes * part // rank.size for part in (rank.rank, rank.rank + 1))
    logits = np.empty((rows, stop - first), np.float32)
    np.random.default_rng(rank.rank).standard_normal(dtype=np.float32, out=logits[:DRAWN])
    for start in range(DRAWN, rows, DRAWN):
        logits[start : start + DRAWN] = logits[: min(DRAWN, rows - start)]
    target = np.random.default_rng(0).integers(0, classes, rows)
    rank.call(np.ascontiguousarray(logits[:8]), target[:8], "reduce")()
    before = peak_bytes()
    call = seconds(rank, rank.call(logits, target, "reduce"), repeats)
    found = {
        "ranks": rank.size,
        "call": call,
        # the gradient belongs to the caller
        "memory": rank.largest(peak_bytes() - before - logits.nbytes),
        "few_classes": FEW,
        "call_of_few": seconds(rank, call_of_few(rank, logits, target), repeats),
        "in_order": seconds(rank, rank.call(logits, target, "in_order"), repeats),
        "passes": seconds(rank, alone(logits, target, first, classes), repeats),
        "exchanges": {
            str(numbers): seconds(rank, rank.exchange(numbers), 10 * repeats) for numbers in NUMBERS
        },
    }
    if rank.rank == 0:
        print(json.dumps(found), flush=True)
    rank.close()


if __name__ == "__main__":
    main(sys.argv[1:])
