"""Shared memory of a simulated block: bounds, alignment, reads of nothing, and races."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu.simulation.fault import Fault
from gpu.simulation.races import History

__all__ = ["REMOTE", "SharedMemory"]

STATIC_LIMIT = 48 << 10
# Bits of a shared address above which stands the rank of the block, plus 1, that it belongs to.
REMOTE = 24


class SharedMemory:
    """One block's."""

    __slots__ = (
        *("_room", "size", "sites", "u16", "u32", "f32", "f64"),
        *("history", "remote_arrivals"),
    )

    def __init__(self) -> None:
        self.sites: dict[Any, int] = {}
        self.remote_arrivals = -1
        self.history = History("shared")
        self._room = np.zeros(0, np.uint8)
        self._grow(0)

    def _grow(self, size: int) -> None:
        room = np.zeros(size, np.uint8)
        room[: self._room.size] = self._room
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
        stores = self.history.last_store
        if address >> 1 not in stores or address + nbytes - 1 >> 1 not in stores:
            raise Fault(f"load at {address} of shared memory: nothing was stored there")
        self.history.load(thread, address, nbytes)

    def before_store(self, thread: Any, address: int, nbytes: int) -> None:
        """Check a store and remember it."""
        if address < 0 or address + nbytes > self.size:
            raise Fault(f"store of {nbytes} bytes at {address} of {self.size} of shared memory")
        if address & (nbytes - 1):
            raise Fault(f"misaligned store of {nbytes} bytes at {address} of shared memory")
        self.history.store(thread, address, nbytes)

    def check_end(self, block: Any) -> None:
        """No block may end while another one of its cluster still reads its memory."""
        for thread in block.threads:
            if thread.cluster_waits <= self.remote_arrivals:
                raise Fault(
                    f"block {block.index} may end before the last load from its shared memory:"
                    " a barrier of the cluster is missing"
                )
