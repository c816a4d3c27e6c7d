"""Tables of sizes and strides on the device, which kernels for any strides read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.device_array import DeviceArray, Place

__all__ = ["MOST_TABLES", "Table", "Tables"]

# Layouts recur from call to call; shapes that change from step to step must not pile up.
MOST_TABLES = 256


class Table:
    """Numbers of int64 on the device.

    Attributes
    ----------
    array : DeviceArray
    copied : Event or None
        End of the copy to the device; None once it is known to be done.
    """

    __slots__ = ("array", "copied")

    def __init__(self, array: DeviceArray, copied: Any) -> None:
        self.array, self.copied = array, copied

    @property
    def address(self) -> int:
        """Where it is; `Tables.prepare` says from when on."""
        return self.array.address


class Tables:
    """The tables of a driver, for the layouts that were used last.

    Parameters
    ----------
    driver : Driver
    allocate : callable
        New memory of a place that is of no stream: what uses a table is on any.
    """

    def __init__(self, driver: Any, allocate: Callable[..., DeviceArray]) -> None:
        self._driver, self._allocate = driver, allocate
        self._found: OrderedDict[tuple[int, tuple[int, ...]], Table] = OrderedDict()
        self._of_graphs: set[Table] = set()
        self._lock = threading.Lock()

    def find(self, numbers: tuple[int, ...], place: Place) -> Table:
        """Table of these numbers; a new one is being copied when this returns."""
        key = place.device, numbers
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
                return found
        if self._driver.is_capturing(place.stream, place.device):
            checks.raise_backend(
                "backend 'cuda' has not seen arrays of this layout before and cannot prepare "
                "for them while the stream is captured: run the call once before the capture"
            )
        array = self._allocate((len(numbers),), np.dtype(np.int64), place)
        self._driver.upload(array.address, np.array(numbers, np.int64), place.stream, place.device)
        table = Table(array, self._driver.record(place.stream, place.device))
        with self._lock:
            self._found[key] = table
            oldest = self._found.popitem(last=False) if len(self._found) > MOST_TABLES else None
        del oldest  # beside the lock: giving memory back waits
        return table

    def prepare(self, table: Table, place: Place) -> None:
        """Let what is launched on the place from now on find the numbers there."""
        driver, stream = self._driver, place.stream
        is_captured = driver.is_capturing(stream, place.device)
        if is_captured:
            self._of_graphs.add(table)  # a replay reads it again, at any time
        event = table.copied
        if event is None:
            return
        if driver.is_past(event):
            table.copied = None
        elif is_captured:
            # a stream that is captured may not wait for what is not
            driver.wait_on_host(event)
            table.copied = None
        else:
            driver.wait_for(stream, event)
