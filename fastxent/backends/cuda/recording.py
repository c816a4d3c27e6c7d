"""What a call launches, kept for the next call with arrays of the same kinds, shapes and layouts.

Nothing on the device depends on what the host does with a result, and nothing on the host on the
numbers of the device. So all that Python decides in a call, which kernels with which arguments, is
the same the next time, but for the addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastxent.backends.cuda.specs import ARGUMENTS, KernelSpec

__all__ = ["Launches", "Recorder", "RecordingDriver"]

# Integer arguments that are no addresses, beside pitches and strides; tables stay where they are.
_NUMBERS = {
    *("rows", "classes", "skip", "has_skip", "label_kind", "partials", "count", "divisor"),
    *("zero_when_empty", "elements", "dims", "layout"),
}


class _Launch(NamedTuple):
    """One launch: the arguments, and where in their bytes the address of which array goes."""

    spec: KernelSpec
    grid: int
    arguments: bytes
    addresses: tuple[tuple[int, int], ...]


class Recorder(NamedTuple):
    """See `fastxent.backends.contract.Recorder`."""

    backend: Any
    driver: RecordingDriver

    def launches(self, addresses: Sequence[int]) -> Launches | None:
        """What was launched, for arrays at these addresses; None where it cannot be repeated."""
        return self.driver.launches(addresses)


class RecordingDriver:
    """A driver that does what it is told, and keeps what it was told to launch.

    Parameters
    ----------
    driver : Driver
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._launched: list[tuple[KernelSpec, int, bytes]] = []
        self._depends_on_host = False

    def __getattr__(self, name: str) -> Any:
        # of what is copied, or lies in memory that goes back, the next call would see nothing
        if name in ("allocate", "upload", "download", "wait"):
            self._depends_on_host = True
        return getattr(self._driver, name)

    def launch(
        self, spec: KernelSpec, grid: int, arguments: bytes, device: int, stream: int
    ) -> None:
        """Start a kernel."""
        self._driver.launch(spec, grid, arguments, device, stream)
        self._launched.append((spec, grid, arguments))

    def launches(self, addresses: Sequence[int]) -> Launches | None:
        """What was launched, for arrays at these addresses; None where it cannot be repeated."""
        number_of = {address: number for number, address in enumerate(addresses) if address}
        if self._depends_on_host or len(number_of) < sum(map(bool, addresses)):
            return None  # what is two arrays in one memory, may be two the next time
        found = []
        for spec, grid, arguments in self._launched:
            places = _places(spec, arguments, number_of)
            if places is None:
                return None
            found.append(_Launch(spec, grid, arguments, places))
        return Launches(self._driver, found)


def _places(
    spec: KernelSpec, arguments: bytes, number_of: dict[int, int]
) -> tuple[tuple[int, int], ...] | None:
    """Byte of each address among the arguments, and its array; None where an array is unknown."""
    integers, _ = ARGUMENTS[spec.module]
    found = []
    values = struct.unpack_from(f"={len(integers)}q", arguments)
    for place, (name, value) in enumerate(zip(integers, values, strict=True)):
        if not value or name in _NUMBERS or name.endswith(("_pitch", "_stride")):
            continue
        if value not in number_of:
            return None
        found.append((8 * place, number_of[value]))
    return tuple(found)


class Launches:
    """See `fastxent.backends.contract.Launches`.

    Parameters
    ----------
    driver : Driver
    launches : list of _Launch
    """

    def __init__(self, driver: Any, launches: list[_Launch]) -> None:
        self._driver, self._launches = driver, launches

    def repeat(self, addresses: Sequence[int], device: int, stream: int) -> None:
        """Launch the same for arrays at other addresses, aligned as those were."""
        for spec, grid, arguments, places in self._launches:
            given = bytearray(arguments)
            for at, number in places:
                _PUT(given, at, addresses[number])
            self._driver.launch(spec, grid, bytes(given), device, stream)


_PUT = struct.Struct("=q").pack_into
