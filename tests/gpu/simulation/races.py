"""Races: who loaded and stored what last, and whether something ordered it before what comes now.

Two accesses of the same bytes by different threads, one of them a store, must have a barrier
between them that both threads pass: of the block, of their warp, or of the cluster. A thread marks
its accesses with its stamp: itself, and how many barriers of each kind it has passed.
"""

from __future__ import annotations

from typing import Any

from gpu.simulation.fault import Fault

__all__ = ["History"]


class History:
    """The last accesses of a piece of memory, for every two bytes."""

    __slots__ = ("_last_load", "_other_load", "last_store", "place")

    def __init__(self, place: str) -> None:
        self.place = place
        self.last_store: dict[int, Any] = {}
        self._last_load: dict[int, Any] = {}
        self._other_load: dict[int, Any] = {}  # by another thread than the last one

    def clear(self) -> None:
        """Forget all of it."""
        self.last_store.clear()
        self._last_load.clear()
        self._other_load.clear()

    def load(self, thread: Any, address: int, nbytes: int) -> None:
        """Check a load and remember it."""
        stamp = thread.stamp
        last_store, last_load = self.last_store, self._last_load
        for half in range(address >> 1, address + nbytes >> 1):
            if last_store:
                store = last_store.get(half)
                if store is not None and store[0] is not thread and not _ordered(store, thread):
                    raise Fault(self._race("load", address, "store", store))
            load = last_load.get(half)
            if load is None or load[0] is thread or _ordered(load, thread):
                last_load[half] = stamp
            else:
                self._other_load[half] = stamp

    def store(self, thread: Any, address: int, nbytes: int) -> None:
        """Check a store and remember it."""
        stamp = thread.stamp
        last_store, last_load, other_load = self.last_store, self._last_load, self._other_load
        for half in range(address >> 1, address + nbytes >> 1):
            store = last_store.get(half)
            if store is not None and store[0] is not thread and not _ordered(store, thread):
                raise Fault(self._race("store", address, "store", store))
            load = last_load.pop(half, None)
            if load is not None:
                if load[0] is not thread and not _ordered(load, thread):
                    raise Fault(self._race("store", address, "load", load))
                load = other_load.pop(half, None)
                if load is not None and load[0] is not thread and not _ordered(load, thread):
                    raise Fault(self._race("store", address, "load", load))
            last_store[half] = stamp

    def _race(self, what: str, address: int, earlier: str, stamp: Any) -> str:
        other = stamp[0]
        return (
            f"race: {what} at {address:#x} of {self.place} memory after a {earlier} by block"
            f" {other.block.index}, thread {other.index}, and no barrier between"
        )


def _ordered(stamp: Any, thread: Any) -> bool:
    """Whether what was marked comes before what `thread` does now, in every order of threads."""
    other, block_passes, warp_passes, arrivals = stamp
    block = thread.block
    if other.block is block:
        if thread.block_passes > block_passes:
            return True
        if other.warp_index == thread.warp_index and thread.warp_passes > warp_passes:
            return True
    elif other.block.cluster is not block.cluster:
        return False
    return bool(thread.cluster_waits > arrivals)
