"""Global memory of the simulated GPU: a table of allocations; every access is checked and counted.

Addresses are those of the host. Memory given back is kept for a while, so that its addresses are
not handed out again at once, and an access to it is found.
"""

from __future__ import annotations

import bisect
import ctypes
from collections import deque

import numpy as np

__all__ = ["MEMORY", "Allocation", "Fault", "Memory"]

# What cudaMalloc guarantees.
ALIGNMENT = 256
KEPT_AFTER_FREE = 32 << 20


class Fault(Exception):
    """What a GPU, or a tool that watches it, would have stopped at, or worse: would not have."""


class Allocation:
    """One piece of global memory, seen as elements of each width, and the bytes moved so far.

    The views begin at `base`, the first multiple of 16 at or below `start`, and their items are
    legal only as far as [start, end) reaches.
    """

    __slots__ = (
        *("start", "end", "base", "owner", "foreign", "freed", "read", "written", "bytes"),
        *("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"),
    )

    def __init__(self, start: int, nbytes: int, owner: object, foreign: bool = False) -> None:
        self.start, self.end = start, start + nbytes
        self.owner, self.foreign = owner, foreign
        self.base = start & -16
        self.freed = False
        self.read = self.written = 0
        length = max(16, (self.end - self.base + 15) & -16)
        whole = (ctypes.c_uint8 * length).from_address(self.base)
        view = memoryview(whole).cast("B")
        self.bytes = np.frombuffer(view, np.uint8)[start - self.base : self.end - self.base]
        self.u8, self.i8 = view, view.cast("b")
        self.u16, self.i16 = view.cast("H"), view.cast("h")
        self.u32, self.i32 = view.cast("I"), view.cast("i")
        self.u64, self.i64 = view.cast("Q"), view.cast("q")
        # elements of an array are NumPy scalars: float32 arithmetic stays float32
        self.f32, self.f64 = np.frombuffer(view, np.float32), np.frombuffer(view, np.float64)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class Memory:
    """The table."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._table: list[Allocation] = []
        self._kept: deque[Allocation] = deque()
        self._kept_bytes = 0
        self._read_before = self._written_before = 0

    def allocate(self, nbytes: int) -> int:
        """Address of new memory; it holds NaN in any kind of number."""
        room = np.full(max(nbytes, 1) + 2 * ALIGNMENT, 0xFF, np.uint8)
        start = (room.ctypes.data + ALIGNMENT - 1) & -ALIGNMENT
        self._insert(Allocation(start, nbytes, room))
        return start

    def register(self, array: np.ndarray) -> int:
        """Let kernels use the memory of a contiguous NumPy array; its address."""
        assert array.flags.c_contiguous
        self._insert(Allocation(array.ctypes.data, array.nbytes, array, foreign=True))
        return array.ctypes.data

    def free(self, address: int) -> None:
        """Give memory back; it holds NaN from then on, unless it is a registered array's."""
        at = self._place(address)
        if at < 0 or self._table[at].start != address or self._table[at].freed:
            raise Fault(f"free: {address:#x} is no allocation")
        allocation = self._table[at]
        allocation.freed = True
        if allocation.foreign:
            allocation.owner = None
        else:
            allocation.bytes[:] = 0xFF
        self._kept.append(allocation)
        self._kept_bytes += allocation.nbytes
        while self._kept_bytes > KEPT_AFTER_FREE:
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.nbytes
            self._remove(oldest)

    def _insert(self, new: Allocation) -> None:
        for old in [old for old in self._kept if old.start < new.end and new.start < old.end]:
            self._kept.remove(old)  # a registered array, freed and collected
            self._kept_bytes -= old.nbytes
            self._remove(old)
        at = bisect.bisect_right(self._starts, new.start)
        before = self._table[at - 1] if at else None
        after = self._table[at] if at < len(self._table) else None
        if (before and before.end > new.start) or (after and after.start < new.end):
            raise Fault("this memory is allocated or registered already")
        self._starts.insert(at, new.start)
        self._table.insert(at, new)

    def _remove(self, old: Allocation) -> None:
        at = self._table.index(old)
        del self._starts[at], self._table[at]
        self._read_before += old.read
        self._written_before += old.written

    def _place(self, address: int) -> int:
        return bisect.bisect_right(self._starts, address) - 1

    def find(self, address: int, nbytes: int, what: str = "access") -> Allocation:
        """Return the live allocation that holds these bytes, aligned to their number."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0:
            found = self._table[at]
            if address + nbytes <= found.end and not found.freed:
                return found
        raise Fault(self._explain(address, nbytes, what))

    def _explain(self, address: int, nbytes: int, what: str) -> str:
        text = f"{what} of {nbytes} bytes at {address:#x}"
        if not address:
            return f"{text}: the address of an absent array"
        at = self._place(address)
        near = self._table[at : at + 2] if at >= 0 else self._table[:1]
        for allocation in near:
            if (
                allocation.freed
                and allocation.start < address + nbytes
                and address < allocation.end
            ):
                return f"{text}: {address - allocation.start} bytes into memory given back"
        live = [allocation for allocation in near if not allocation.freed]
        places = [
            f"{address - allocation.start} bytes from the start of one of {allocation.nbytes}"
            for allocation in live
        ]
        return f"{text}: out of bounds of every allocation; " + ", or ".join(
            places or ["none near"]
        )

    def allocation(self, address: int) -> Allocation:
        """Return the live allocation that an address lies in: its counters and its bytes."""
        return self.find(address, 0)

    @property
    def live(self) -> list[Allocation]:
        return [allocation for allocation in self._table if not allocation.freed]

    def counts(self) -> tuple[int, int]:
        """Bytes read and written by kernels so far."""
        read = self._read_before + sum(one.read for one in self._table)
        return read, self._written_before + sum(one.written for one in self._table)


# Like the memory of a GPU there is only one.
MEMORY = Memory()
