"""Launches of a call, kept to be made again for other arrays of the same shapes.

To choose kernels and to name their arguments takes the host longer than a small call takes the
GPU. All of that depends on shapes only, so it is done once, with arrays whose addresses are not
real: number `i` of them begins at ``i * ADDRESS_STEP``, plus what its alignment asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from fastxent.backends.contract import ADDRESS_STEP
from fastxent.backends.cuda.arguments import pack_of
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import ARGUMENTS, KernelSpec
from fastxent.backends.cuda.tables import Table
from fastxent.device_array import Place

__all__ = ["NotRecorded", "Recorder"]


class _Launch(NamedTuple):
    """One kernel and its arguments.

    Attributes
    ----------
    addresses : tuple of (int, int, int)
        Of each argument that is an address: its place among the arguments, the number of the array,
        and the bytes from its beginning.
    """

    spec: KernelSpec
    grid: int
    arguments: list[Any]
    pack: Callable[..., bytes]
    addresses: tuple[tuple[int, int, int], ...]


class NotRecorded(Exception):
    """Something else than a launch was asked for."""


class Recorder:
    """Stands for a `Runtime`, and launches nothing.

    Parameters
    ----------
    runtime : Runtime
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.driver, self.capability = runtime.driver, runtime.capability
        self.place, self.plan = runtime.place, runtime.plan
        self._launches: list[_Launch] = []
        self._tables: list[Table] = []

    def upload(self, *_: Any) -> NoReturn:
        """Numbers of the host are another's at the next call."""
        raise NotRecorded

    def table(self, numbers: tuple[int, ...], place: Place) -> int:
        """Address of a table, which is kept for as long as the launches are."""
        self._tables.append(self._runtime.tables.find(numbers, place))
        return self._tables[-1].address

    def launch(self, spec: KernelSpec, grid: int, place: Place, given: dict[str, Any]) -> None:
        """Keep a launch."""
        if not grid:
            return
        integers, reals = ARGUMENTS[spec.module]
        layout = struct.Struct(f"={len(integers)}q{len(reals)}d")
        arguments = list(layout.unpack(pack_of(spec.module)(given)))
        addresses = tuple(
            (at, *divmod(value, ADDRESS_STEP))
            for at, value in enumerate(arguments[: len(integers)])
            if value >= ADDRESS_STEP
        )
        self._launches.append(_Launch(spec, grid, arguments, layout.pack, addresses))

    def replay(self, place: Place, beginnings: tuple[int, ...]) -> None:
        """Start all kernels; `beginnings` are the addresses of the arrays, that of number 1 first.

        What the address of an array had beyond its step is part of `beginnings`.
        """
        for table in self._tables:
            self._runtime.tables.prepare(table, place)
        launch, device, stream = self.driver.launch, place.device, place.stream
        for spec, grid, arguments, pack, addresses in self._launches:
            values = arguments.copy()
            for at, number, offset in addresses:
                values[at] = beginnings[number - 1] + offset
            launch(spec, grid, pack(*values), device, stream)
