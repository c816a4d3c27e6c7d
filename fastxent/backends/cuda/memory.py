"""Memory of GPUs, copies to and from it, and events: what tells how far a stream has come."""

from __future__ import annotations

import functools
import sys
import threading
from collections import deque
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.cuda.calls import Calls
from fastxent.precision import Array

__all__ = ["Event", "Memory"]

_OUT_OF_MEMORY, _NOT_READY = 2, 600

# A copy of so many bytes or fewer is taken into the driver's own memory, and no wait is needed:
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#concurrent-execution-between-host-and-device
_PIECE = 1 << 16
# Up to here an upload is made of such pieces; beyond, one copy and a wait take less time.
_MOST_IN_PIECES = 1 << 24


class Event:
    """A point in the work of a stream.

    Attributes
    ----------
    device : int
    handle : object or None
        None once it is known to lie in the past.
    """

    __slots__ = ("device", "handle")

    def __init__(self, device: int, handle: Any) -> None:
        self.device, self.handle = device, handle


class Memory(Calls):
    """See `Calls`; streams are integers.

    Memory is of one of two sorts. That of a stream comes from the pool of the device and goes back
    to it in the order of the stream: nothing waits, and whoever works on it must have done so on
    that stream, which must still be there. The rest is for what is handed to others: their work on
    it may be queued on streams that nobody tells of, so it is given back by a call that waits for
    all work on the device.
    """

    def __init__(self, bindings: Any = None, library: Any = None) -> None:
        super().__init__(bindings, library)
        self._has_pools = functools.cache(
            lambda device: self._attribute(device, "MEMORY_POOLS_SUPPORTED") == 1
        )
        # copies of what is being uploaded, until their events are past
        self._sources: deque[tuple[Event, Array]] = deque()
        self._lock_of_events = threading.Lock()

    def allocate(self, nbytes: int, device: int, stream: int | None = None) -> int:
        """Address of new memory, that of a stream or not; it is aligned to 256 bytes."""
        size = max(nbytes, 1)
        with self._beside_captures(device):
            if stream is not None and self._has_pools(device):
                name = "cuMemAllocAsync"
                code, address = self._bindings.cuMemAllocAsync(size, stream)
            else:
                name = "cuMemAlloc"
                code, address = self._bindings.cuMemAlloc(size)
        if int(code) == _OUT_OF_MEMORY:
            raise MemoryError(f"{self.name(device)} has no {nbytes} bytes of memory left")
        if int(code):
            checks.raise_backend(f"{name}: {self._words(code)}")
        return int(address)

    def free(self, address: int, device: int, stream: int | None = None) -> None:
        """Give memory back, with the stream that it is of.

        What is of none waits for all work on the device.
        """
        if sys.is_finalizing():
            return  # it goes with the process, and the driver may be gone already
        with self._beside_captures(device):
            if stream is not None and self._has_pools(device):
                self._call("cuMemFreeAsync", address, stream)
            else:
                self._call("cuMemFree", address)

    def name(self, device: int) -> str:
        """What NVIDIA calls it."""
        name: bytes = self._call("cuDeviceGetName", 256, self._call("cuDeviceGet", device))
        return name.partition(b"\0")[0].decode()  # what follows is not set

    def device_of(self, address: int) -> int:
        """Number of the GPU whose memory an address lies in."""
        ordinal = self._bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self._call("cuPointerGetAttribute", ordinal, address))

    # --- Copies

    def upload(self, address: int, array: Array, stream: int, device: int) -> None:
        """Copy a contiguous array to the device; it may change as soon as this returns.

        Nothing waits for the stream, up to 16 MB.
        """
        if array.nbytes == 0:
            return
        if self.is_capturing(stream, device):
            checks.raise_backend(
                "numbers of the host cannot be copied to the GPU while the stream is captured: "
                "a replay would read them again"
            )
        if array.nbytes > _MOST_IN_PIECES:
            with self._within(device):
                self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)
                self._call("cuStreamSynchronize", stream)
            return
        # the caller's memory may be page-locked, and some systems read any memory as late as that
        source = np.array(array, copy=True)
        with self._within(device):
            for begin in range(0, source.nbytes, _PIECE):
                nbytes = min(_PIECE, source.nbytes - begin)
                there, here = address + begin, source.ctypes.data + begin
                self._call("cuMemcpyHtoDAsync", there, here, nbytes, stream)
        self._keep(source, self.record(stream, device))

    def _keep(self, source: Array, event: Event) -> None:
        with self._lock_of_events:
            sources = [*self._sources, (event, source)]
            self._sources.clear()
        # beside the lock: other threads may keep theirs meanwhile
        left = [one for one in sources if not self.is_past(one[0])]
        with self._lock_of_events:
            self._sources.extend(left)

    def download(self, array: Array, address: int, stream: int, device: int) -> None:
        """Copy to a contiguous array, and wait for it."""
        if array.nbytes:
            with self._within(device):
                self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)
                self._call("cuStreamSynchronize", stream)

    # --- Streams

    def synchronize(self, stream: int, device: int) -> None:
        """Wait for all work in a stream."""
        with self._within(device):
            self._call("cuStreamSynchronize", stream)

    def wait(self, stream: int, other: int, device: int) -> None:
        """Let what a stream is given from now on wait for what another one has been given."""
        if stream == other:
            return
        event = self.record(other, device)
        try:
            self.wait_for(stream, event)
        finally:
            self._forget(event)

    def record(self, stream: int, device: int) -> Event:
        """Name the end of what a stream has been given so far."""
        flags = self._bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING
        with self._within(device):
            event = Event(device, self._call("cuEventCreate", int(flags)))
            self._call("cuEventRecord", event.handle, stream)
        return event

    def is_past(self, event: Event) -> bool:
        """Whether the work up to there is done."""
        with self._lock_of_events:
            if event.handle is None:
                return True
            with self._beside_captures(event.device):
                (code,) = self._bindings.cuEventQuery(event.handle)
        if int(code) == _NOT_READY:
            return False
        if int(code):
            checks.raise_backend(f"cuEventQuery: {self._words(code)}")
        self._forget(event)
        return True

    def wait_for(self, stream: int, event: Event) -> None:
        """Let what a stream is given from now on wait for an event."""
        with self._lock_of_events:
            if event.handle is not None:
                with self._within(event.device):
                    self._call("cuStreamWaitEvent", stream, event.handle, 0)

    def wait_on_host(self, event: Event) -> None:
        """Wait for an event, and for nothing that was given to its stream later."""
        with self._lock_of_events:
            if event.handle is not None:
                with self._beside_captures(event.device):
                    self._call("cuEventSynchronize", event.handle)
        self._forget(event)

    def _forget(self, event: Event) -> None:
        with self._lock_of_events:
            handle, event.handle = event.handle, None
            if handle is not None:
                with self._within(event.device):
                    self._call("cuEventDestroy", handle)
