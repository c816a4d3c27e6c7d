"""The driver of the simulated GPU: the methods of `fastxent.backends.cuda.driver.Driver`."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.cuda.specs import ARGUMENTS, KernelSpec
from gpu.simulation import executor
from gpu.simulation.fault import Fault
from gpu.simulation.loading import make
from gpu.simulation.memory import MEMORY

__all__ = ["Launch", "SimulatedDriver"]

# By capability: the Turing that is the least one, and cards of the two that cubins are checked for.
_NAMES = {(7, 5): "simulated T4", (8, 0): "simulated A100", (9, 0): "simulated H200"}
# Clusters of blocks exist from Hopper on; more than 8 blocks need a permission.
_CLUSTERS_FROM, _MOST_BLOCKS = (9, 0), 8
_MOST_IN_GRID = (1 << 31) - 1


class Launch(NamedTuple):
    """One launch, and the bytes of global memory that its kernel moved.

    `moved` has those read and written, by the name of the argument that is the address of an array,
    in the whole allocation where that lies.
    """

    spec: KernelSpec
    grid: int
    arguments: dict[str, Any]
    stream: int
    read: int
    written: int
    moved: dict[str, tuple[int, int]]


class SimulatedDriver:
    """Copies memory at once and runs a kernel to its end when it is launched.

    Attributes
    ----------
    compute_capability : tuple of int
    seed : int or None
        Of the order of threads and clusters, another one in each launch; see `executor.run`.
    offset : int
        Bytes from a multiple of 256 to where memory that is allocated begins.
    launches : list of Launch
        All launches so far.
    capturing : bool
        Whether streams say that they are captured.
    running : bool
        Whether no event is past, unless somebody waits.
    events : list of tuple
        What streams were told of events: ("wait", stream, stream of the event), ("wait on host",
        stream of the event).
    """

    def __init__(self, compute_capability: tuple[int, int] = (9, 0)) -> None:
        self.compute_capability = compute_capability
        self.seed: int | None = None
        self.offset = 0
        self.launches: list[Launch] = []
        self.capturing = self.running = False
        self.events: list[tuple[Any, ...]] = []
        self._streams: dict[int, int | None] = {}
        self._kernels: dict[KernelSpec, Any] = {}

    def why_not(self) -> str | None:
        """None: Python is always there."""
        return None

    def device_count(self) -> int:
        return 1

    def first_device(self) -> int:
        return 0

    def capability(self, device: int) -> tuple[int, int]:
        return self.compute_capability

    def name(self, device: int) -> str:
        return _NAMES[self.compute_capability]

    def multiprocessors(self, device: int) -> int:
        return 132

    def version(self) -> str:
        return "13.0"

    def device_of(self, address: int) -> int:
        MEMORY.find(address, 1, "device")
        return 0

    def allocate(self, nbytes: int, device: int, stream: int | None = None) -> int:
        address = MEMORY.allocate(nbytes, self.offset)
        self._streams[address] = stream
        return address

    def free(self, address: int, device: int, stream: int | None = None) -> None:
        """Give memory back, with the stream that it was allocated for."""
        if self._streams.pop(address, stream) != stream:
            raise Fault(f"{address:#x} is not of stream {stream}")
        MEMORY.free(address)

    def upload(self, address: int, array: np.ndarray, stream: int, device: int) -> None:
        """Copy a contiguous array to the device."""
        there = self._bytes(address, array)
        there[:] = array.reshape(-1).view(np.uint8)

    def download(self, array: np.ndarray, address: int, stream: int, device: int) -> None:
        """Copy from the device into a contiguous array."""
        there = self._bytes(address, array)
        array.reshape(-1).view(np.uint8)[:] = there

    @staticmethod
    def _bytes(address: int, array: np.ndarray) -> np.ndarray:
        if not array.flags.c_contiguous:
            raise Fault("copies to and from the device are of contiguous arrays")
        allocation = MEMORY.find(address, array.nbytes, "copy")
        first = address - allocation.start
        return allocation.bytes[first : first + array.nbytes]

    def is_capturing(self, stream: int, device: int) -> bool:
        return self.capturing

    def wait(self, stream: int, other: int, device: int) -> None:
        """Nothing is under way on any stream."""

    def record(self, stream: int, device: int) -> int:
        """Event: its stream."""
        return stream

    def is_past(self, event: int) -> bool:
        return not self.running

    def wait_for(self, stream: int, event: int) -> None:
        """Nothing is under way on any stream."""
        self.events.append(("wait", stream, event))

    def wait_on_host(self, event: int) -> None:
        """Nothing is under way."""
        self.events.append(("wait on host", event))

    def synchronize(self, stream: int = 0, device: int = 0) -> None:
        """Nothing is under way."""

    def launch(self, spec: KernelSpec, grid: int, arguments: Any, device: int, stream: int) -> None:
        """Run a kernel; the arguments are packed, 8 bytes each."""
        if spec.cluster > 1 and self.compute_capability < _CLUSTERS_FROM:
            raise Fault(f"{self.name(device)} has no clusters")
        if spec.cluster > _MOST_BLOCKS or not 0 < grid <= _MOST_IN_GRID or spec.threads % 32:
            raise Fault(f"no launch of {grid} blocks, {spec}")
        kernel = self._kernels.get(spec)
        if kernel is None:
            kernel = self._kernels[spec] = make(*spec)
        integers, reals = ARGUMENTS[spec.module]
        layout = f"={len(integers)}q{len(reals)}d"
        if memoryview(arguments).nbytes != struct.calcsize(layout):
            raise Fault(f"{memoryview(arguments).nbytes} bytes of arguments for {spec.module}")
        values = struct.unpack(layout, arguments)
        split = len(integers)
        given = [*values[:split], *(np.float64(value) for value in values[split:])]
        named = dict(zip((*integers, *reals), values, strict=True))
        arrays = {name: MEMORY.at(named[name], 1) for name in integers}
        before = {name: (one.read, one.written) for name, one in arrays.items() if one}
        read, written = MEMORY.counts()
        seed = None if self.seed is None else self.seed + len(self.launches)
        executor.run(kernel, grid, spec.threads, spec.cluster, given, seed)
        read_now, written_now = MEMORY.counts()
        moved = {
            name: (arrays[name].read - before_read, arrays[name].written - before_written)
            for name, (before_read, before_written) in before.items()
        }
        counts = (read_now - read, written_now - written)
        self.launches.append(Launch(spec, grid, named, stream, *counts, moved))
