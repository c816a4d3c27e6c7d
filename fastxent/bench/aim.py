"""One number asked for and what was measured, and how they are drawn from measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fastxent.bench.measure import Measurement
from fastxent.bench.summary import COMPILED, peer_ratio, share

__all__ = [
    "Aim",
    "all_known",
    "for_both",
    "from_measurement",
    "ratios",
    "scaled",
    "smallest",
    "smallest_share",
]


@dataclass(frozen=True)
class Aim:
    """One number asked for, and what was measured; None if it was not.

    Attributes
    ----------
    at_least : bool
        Whether more is better.
    unit : str
        "" for a ratio, or "us", "ms", "s", "MB".
    """

    title: str
    backend: str
    asked: float
    measured: float | None
    at_least: bool = True
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Give pass, miss, or not measured."""
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.asked if self.at_least else self.measured <= self.asked
        return "pass" if reached else "miss"

    @property
    def asked_text(self) -> str:
        """What was asked, with its direction and unit."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.asked:g} {self.unit}".rstrip()

    @property
    def measured_text(self) -> str:
        """What was measured, to the digits that matter."""
        if self.measured is None:
            return "-"
        digits = 2 if self.measured < 10 else 1
        return f"{self.measured:.{digits}f} {self.unit}".rstrip()


def for_both(
    title: str,
    asked: tuple[float, float],
    measured: Callable[[str], float | None],
    at_least: bool = True,
    unit: str = "",
) -> Iterator[Aim]:
    """Give an aim for cython and one for numba."""
    for backend, number in zip(COMPILED, asked, strict=True):
        yield Aim(title, backend, number, measured(backend), at_least, unit)


def from_measurement(
    found: Measurement | None, number: Callable[[Measurement, str], float | None]
) -> Callable[[str], float | None]:
    """Number of a backend in a measurement; None where there is no measurement."""
    return lambda backend: None if found is None else number(found, backend)


def all_known(numbers: list[float | None]) -> list[float] | None:
    """Give the numbers if all of them were measured, and there are any."""
    known = [number for number in numbers if number is not None]
    return known if known and len(known) == len(numbers) else None


def ratios(
    measurements: Sequence[Measurement], name: str, peers: Sequence[str] = ()
) -> list[float] | None:
    """Give the fastest peer's time over that of this name, everywhere; by default of all peers."""
    return all_known([peer_ratio(m, name, peers) for m in measurements])


def smallest(numbers: list[float] | None) -> float | None:
    """Give the smallest, if there are any."""
    return min(numbers) if numbers else None


def smallest_share(measurements: Sequence[Measurement], backend: str) -> float | None:
    """Give the smallest share of the lower ceiling that a backend reaches with ``out=``."""
    return smallest(all_known([share(m, f"{backend}/out") for m in measurements]))


def scaled(number: float | None, factor: float) -> float | None:
    """Multiply a number, if it was measured."""
    return None if number is None else number * factor
