"""Shared memory of a simulated block: bounds, alignment, reads of nothing, and races.

Two accesses of the same bytes by different threads, one of them a store, must have a barrier
between them that both threads pass: of the block, of their warp, or of the cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu.simulation.memory import Fault

__all__ = ["REMOTE", "SharedMemory"]

STATIC_LIMIT = 48 << 10
# Bits of a shared address above which stands the rank of the block, plus 1, that it belongs to.
REMOTE = 24


class SharedMemory:
    """One block's. What is tracked is tracked for every two bytes, the smallest access."""

    __slots__ = (
        *("_room", "size", "sites", "u16", "u32", "f32", "f64"),
        *("last_store", "last_load", "other_load", "remote_arrivals"),
    )

    def __init__(self) -> None:
        self.size = 0
        self.sites: dict[Any, int] = {}
        self.remote_arrivals = -1
        self._grow(0)

    def _grow(self, size: int) -> None:
        room = np.zeros(size, np.uint8)
        if size:
            room[: self.size] = self._room
            more = [None] * ((size - self.size) // 2)
            for history in (self.last_store, self.last_load, self.other_load):
                history.extend(more)
        else:
            self.last_store: list[Any] = []
            self.last_load: list[Any] = []
            self.other_load: list[Any] = []
        self._room, self.size = room, size
        view = memoryview(room)
        self.u16, self.u32 = view.cast("H"), view.cast("I")
        self.f32, self.f64 = room.view(np.float32), room.view(np.float64)

    def reserve(self, site: Any, size: int) -> int:
        """Address of the piece of one call in the source, a multiple of 16."""
        key = (site, size)
        address = self.sites.get(key)
        if address is None:
            address = self.size
            if address + size > STATIC_LIMIT:
                raise Fault(f"more than {STATIC_LIMIT} bytes of shared memory")
            self._grow(address + ((size + 15) & -16))
            self.sites[key] = address
        return address

    def before_load(self, thread: Any, address: int, nbytes: int) -> None:
        """Check a load and remember it."""
        if address < 0 or address + nbytes > self.size:
            raise Fault(f"load of {nbytes} bytes at {address} of {self.size} of shared memory")
        if address & (nbytes - 1):
            raise Fault(f"misaligned load of {nbytes} bytes at {address} of shared memory")
        stamp = thread.stamp
        last_store, last_load = self.last_store, self.last_load
        for half in range(address >> 1, (address + nbytes) >> 1):
            store = last_store[half]
            if store is not stamp:
                if store is None:
                    raise Fault(f"load at {address} of shared memory: nothing was stored there")
                if store[0] is not thread and not _ordered(store, thread):
                    raise Fault(_race("load", thread, address, "store", store))
            load = last_load[half]
            if load is None or load[0] is thread or _ordered(load, thread):
                last_load[half] = stamp
            else:
                self.other_load[half] = stamp

    def before_store(self, thread: Any, address: int, nbytes: int) -> None:
        """Check a store and remember it."""
        if address < 0 or address + nbytes > self.size:
            raise Fault(f"store of {nbytes} bytes at {address} of {self.size} of shared memory")
        if address & (nbytes - 1):
            raise Fault(f"misaligned store of {nbytes} bytes at {address} of shared memory")
        stamp = thread.stamp
        last_store, last_load, other_load = self.last_store, self.last_load, self.other_load
        for half in range(address >> 1, (address + nbytes) >> 1):
            store = last_store[half]
            if store is not None and store[0] is not thread and not _ordered(store, thread):
                raise Fault(_race("store", thread, address, "store", store))
            load = last_load[half]
            if load is not None:
                if load[0] is not thread and not _ordered(load, thread):
                    raise Fault(_race("store", thread, address, "load", load))
                last_load[half] = None
                load = other_load[half]
                if load is not None:
                    if load[0] is not thread and not _ordered(load, thread):
                        raise Fault(_race("store", thread, address, "load", load))
                    other_load[half] = None
            last_store[half] = stamp

    def check_end(self, block: Any) -> None:
        """No block may end while another one of its cluster still reads its memory."""
        for thread in block.threads:
            if thread.cluster_waits <= self.remote_arrivals:
                raise Fault(
                    f"block {block.index} may end before the last load from its shared memory:"
                    " a barrier of the cluster is missing"
                )


def _ordered(stamp: Any, thread: Any) -> bool:
    """Whether what was marked comes before what `thread` does now, in every order of threads."""
    other, block_passes, warp_passes, arrivals = stamp
    if other.block is thread.block:
        if thread.block_passes > block_passes:
            return True
        if other.warp_index == thread.warp_index and thread.warp_passes > warp_passes:
            return True
    return bool(thread.cluster_waits > arrivals)


def _race(what: str, thread: Any, address: int, earlier: str, stamp: Any) -> str:
    other = stamp[0]
    return (
        f"race: {what} at {address} of shared memory after a {earlier} by block"
        f" {other.block.index}, thread {other.index}, and no barrier between"
    )
