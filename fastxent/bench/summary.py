"""Numbers that are drawn from measurements: ceilings, shares, ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastxent.bench import ceilings
from fastxent.bench.measure import Measurement

__all__ = [
    "ADAPTERS",
    "COMPILED",
    "IN_FRAMEWORKS",
    "Ceiling",
    "copy_share",
    "fastest_peer",
    "geometric_mean",
    "is_own",
    "is_peer",
    "lower_ceiling",
    "peer_ratio",
    "share",
    "shown",
    "time_ratio",
]

COMPILED = ("cython", "numba")
# fastxent as frameworks call it, by the names of the modules.
ADAPTERS = ("fastxent.torch", "fastxent.jax")
# An adapter, and what the users of its framework would call instead.
IN_FRAMEWORKS = (
    ("fastxent.torch", "PyTorch eager"),
    ("fastxent.torch", "torch.compile"),
    ("fastxent.jax", "JAX"),
)


@dataclass(frozen=True)
class Ceiling:
    """The bound that binds, and the seconds that it leaves."""

    name: str
    seconds: float


def is_own(name: str) -> bool:
    """Whether a timing is fastxent's: a backend and a mode, or an adapter."""
    return "/" in name or name in ADAPTERS


def is_peer(name: str) -> bool:
    """Whether a timing is that of somebody else's loss."""
    return not is_own(name) and not ceilings.is_copy(name)


def shown(name: str) -> str:
    """Name somebody so that a reader sees who is fastxent's."""
    return f"fastxent {name}" if is_own(name) and name not in ADAPTERS else name


def time_ratio(measurement: Measurement, over: str | None, under: str | None) -> float | None:
    """Divide the median of one by that of another; None unless both were timed."""
    one = measurement.timings.get(over or "")
    other = measurement.timings.get(under or "")
    return None if one is None or other is None else one.median / other.median


def _copy_like(name: str) -> str:
    """Name of the copy that touches the same bytes: in place, or from one array to another."""
    return ceilings.COPY_IN_PLACE if name.endswith("in place") else ceilings.COPY


def lower_ceiling(measurement: Measurement, name: str = "") -> Ceiling | None:
    """Give the ceiling that takes longer, for somebody; None if none could be measured."""
    found = []
    copy = measurement.timings.get(_copy_like(name))
    if copy is not None:
        found.append(Ceiling("copy", copy.median))
    if measurement.arithmetic:
        found.append(Ceiling("arithmetic", min(measurement.arithmetic.values())))
    return max(found, key=lambda ceiling: ceiling.seconds, default=None)


def share(measurement: Measurement, name: str) -> float | None:
    """Give the share of the lower ceiling that somebody reaches."""
    ceiling, timing = lower_ceiling(measurement, name), measurement.timings.get(name)
    return None if ceiling is None or timing is None else ceiling.seconds / timing.median


def copy_share(measurement: Measurement, name: str) -> float | None:
    """Give the share of the copy limit that somebody reaches."""
    return time_ratio(measurement, _copy_like(name), name)


def fastest_peer(measurement: Measurement, among: Sequence[str] = ()) -> str | None:
    """Give the name of the fastest implementation that is not fastxent; of these, if any."""
    peers = {
        name: timing.median
        for name, timing in measurement.timings.items()
        if is_peer(name) and (not among or name in among)
    }
    return min(peers, key=lambda name: peers[name], default=None)


def peer_ratio(measurement: Measurement, name: str, among: Sequence[str] = ()) -> float | None:
    """Tell how many times as long as this one the fastest peer takes; the fastest of these."""
    return time_ratio(measurement, fastest_peer(measurement, among), name)


def geometric_mean(numbers: Iterable[float]) -> float:
    """Give the geometric mean."""
    logarithms = [math.log(number) for number in numbers]
    return math.exp(math.fsum(logarithms) / len(logarithms))
