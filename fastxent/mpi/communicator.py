"""A communicator of MPI as the channel through which ranks exchange their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from fastxent.precision import Array

__all__ = ["Communicator"]


class Communicator:
    """A communicator, with the calls of `fastxent.sharding.exchange.Channel` on NumPy arrays.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    """

    arrays: Any = np

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def gather_bytes(self, mine: Array) -> Array:
        """Descriptors of all ranks, (ranks, bytes)."""
        found = np.empty((self.size, mine.size), np.uint8)
        self.comm.Allgather(mine, found)
        return found

    def all_max(self, numbers: Array) -> None:
        """Largest of each entry over the ranks, in place."""
        self.comm.Allreduce(MPI.IN_PLACE, numbers, MPI.MAX)

    def all_min(self, numbers: Array) -> None:
        """Least of each entry over the ranks, in place."""
        self.comm.Allreduce(MPI.IN_PLACE, numbers, MPI.MIN)

    def all_sum(self, numbers: Array) -> None:
        """Sum of each entry over the ranks, in place."""
        # MPI requires that all ranks get identical results (MPI 4.1, 6.9.6)
        self.comm.Allreduce(MPI.IN_PLACE, numbers, MPI.SUM)

    def gather(self, numbers: Array, counts: Sequence[int]) -> list[Array]:
        """The numbers of every rank, of which rank r has ``counts[r]``."""
        found = np.empty(sum(counts))
        self.comm.Allgatherv(numbers, (found, list(counts)))
        return np.split(found, np.cumsum(counts)[:-1])
