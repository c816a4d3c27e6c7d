"""Global memory of the simulated GPU: a table of allocations; every access is checked and counted.

Addresses are those of the host. Memory given back is kept for a while, so that its addresses are
not handed out again at once, and an access to it is found.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
from collections import deque

import numpy as np

from gpu.simulation.fault import Fault
from gpu.simulation.races import History

__all__ = ["MEMORY", "Allocation", "Memory"]

# What cudaMalloc guarantees.
ALIGNMENT = 256
# Of what is given back: bytes and pieces that are kept to find an access to them.
KEPT_AFTER_FREE = 32 << 20
KEPT_COUNT = 200


class Allocation:
    """One piece of global memory, seen as elements of each width, and the bytes moved so far.

    The views begin at `base`, the first multiple of 16 at or below `start`, and their items are
    legal only as far as [start, end) reaches.
    """

    __slots__ = (
        *(
            "start",
            "end",
            "base",
            "owner",
            "foreign",
            "freed",
            "read",
            "written",
            "bytes",
            "history",
        ),
        *("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"),
    )

    def __init__(self, start: int, nbytes: int, owner: object, foreign: bool = False) -> None:
        self.start, self.end = start, start + nbytes
        self.owner, self.foreign = owner, foreign
        self.base = start & -16
        self.freed = False
        self.history = History("global")
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
        self._table: dict[int, Allocation] = {}
        self._start_of: dict[int, int] = {}  # by what was handed out
        self._kept: deque[Allocation] = deque()
        self._read_before = self._written_before = 0
        self._lock = threading.RLock()

    def allocate(self, nbytes: int, offset: int = 0) -> int:
        """Address of new memory, so many bytes behind the start of an allocation.

        It holds NaN in any kind of number.
        """
        room = np.full(offset + max(nbytes, 1) + 2 * ALIGNMENT, 0xFF, np.uint8)
        start = (room.ctypes.data + ALIGNMENT - 1) & -ALIGNMENT
        self._insert(Allocation(start, offset + nbytes, room))
        self._start_of[start + offset] = start
        return start + offset

    def register(self, array: np.ndarray) -> int:
        """Let kernels use the memory of a contiguous NumPy array; its address."""
        assert array.flags.c_contiguous
        self._insert(Allocation(array.ctypes.data, array.nbytes, array, foreign=True))
        self._start_of[array.ctypes.data] = array.ctypes.data
        return array.ctypes.data

    def free(self, address: int) -> None:
        """Give memory back; it holds NaN from then on, unless it is a registered array's.

        This may come at any time, out of the garbage collection within another method: the table
        stays as it is.
        """
        allocation = self._table.get(self._start_of.pop(address, -1))
        if allocation is None or allocation.freed:
            raise Fault(f"free: {address:#x} is no allocation")
        allocation.freed = True
        if allocation.foreign:
            allocation.owner = None
        else:
            allocation.bytes[:] = 0xFF
        self._kept.append(allocation)

    def _insert(self, new: Allocation) -> None:
        with self._lock:
            kept = sum(one.nbytes for one in list(self._kept))
            while kept > KEPT_AFTER_FREE or len(self._kept) > KEPT_COUNT:
                kept -= self._kept[0].nbytes
                self._remove(self._kept.popleft())
            for old in [one for one in self._kept if _overlap(one, new)]:
                self._kept.remove(old)  # a registered array that was collected
                self._remove(old)
            if any(_overlap(old, new) for old in self._near(new.start, new.nbytes)):
                raise Fault("this memory is allocated or registered already")
            self._table[new.start] = new
            bisect.insort(self._starts, new.start)

    def _remove(self, old: Allocation) -> None:
        self._starts.remove(old.start)
        del self._table[old.start]
        self._read_before += old.read
        self._written_before += old.written

    def _near(self, address: int, nbytes: int) -> list[Allocation]:
        first = max(0, bisect.bisect_right(self._starts, address) - 1)
        last = bisect.bisect_right(self._starts, address + nbytes)
        return [self._table[start] for start in self._starts[first : last + 1]]

    def find(self, address: int, nbytes: int, what: str = "access") -> Allocation:
        """Return the live allocation that holds these bytes."""
        found = self.at(address, nbytes)
        if found is None:
            raise Fault(self._explain(address, nbytes, what))
        return found

    def at(self, address: int, nbytes: int) -> Allocation | None:
        """Return the live allocation that holds these bytes, if there is one."""
        starts = self._starts
        place = bisect.bisect_right(starts, address) - 1
        if place >= 0:
            found = self._table[starts[place]]
            if address + nbytes <= found.end and not found.freed:
                return found
        return None

    def _explain(self, address: int, nbytes: int, what: str) -> str:
        text = f"{what} of {nbytes} bytes at {address:#x}"
        if not address:
            return f"{text}: the address of an absent array"
        near = self._near(address, nbytes)
        for allocation in near:
            touched = allocation.start < address + nbytes and address < allocation.end
            if allocation.freed and touched:
                return f"{text}: {address - allocation.start} bytes into memory given back"
        places = [
            f"{address - one.start} bytes from the start of one of {one.nbytes}"
            for one in near
            if not one.freed
        ]
        where = ", or ".join(places or ["none near"])
        return f"{text}: out of bounds of every allocation; {where}"

    def allocation(self, address: int) -> Allocation:
        """Return the live allocation that an address lies in: its counters and its bytes."""
        return self.find(address, 0)

    def forget_accesses(self) -> None:
        """A kernel has ended: what comes now comes after all that it did."""
        for one in list(self._table.values()):
            one.history.clear()

    @property
    def live(self) -> list[Allocation]:
        """What is allocated or registered."""
        return [one for one in list(self._table.values()) if not one.freed]

    def counts(self) -> tuple[int, int]:
        """Bytes read and written by kernels so far."""
        table = list(self._table.values())
        read = self._read_before + sum(one.read for one in table)
        return read, self._written_before + sum(one.written for one in table)


def _overlap(one: Allocation, other: Allocation) -> bool:
    # an empty one has no byte in common with another, but its place in the table
    same = one.start == other.start
    return same or (one.start < other.end and other.start < one.end)


# Like the memory of a GPU there is only one.
MEMORY = Memory()
