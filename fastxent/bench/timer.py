"""Times of several callables, turn and turn about, so that all see the same machine.

The speed of a shared machine changes from minute to minute. What runs in the same round sees the
same machine, so times of one run may be divided by each other; times of two runs may not.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Call", "Plan", "Timing", "interleave"]

# The first call of a turn is not timed: it finds the caches as the one before left them, and
# threads of another library that still spin (libgomp's do so for milliseconds, with two cores a
# second pool then gets half of the machine). A call so long hardly notices.
UNDISTURBED = 0.1  # seconds


@dataclass(frozen=True)
class Call:
    """Something to time.

    Attributes
    ----------
    run : callable
        What is timed. What it returns is given back to the system after the clock has stopped.
    reset : callable, optional
        Brings the inputs back, where `run` overwrites them. Not timed.
    allocates_output : bool
        Whether the gradient comes in memory that the call asks for.
    read : callable, optional
        Makes NumPy arrays of what `run` returned, where NumPy cannot do so itself. Not timed.
    """

    run: Callable[[], Any]
    reset: Callable[[], object] | None = None
    allocates_output: bool = True
    read: Callable[[Any], Any] | None = None

    def __call__(self) -> Any:
        """Run once, on fresh inputs, and give what can be checked."""
        if self.reset is not None:
            self.reset()
        result = self.run()
        return result if self.read is None else self.read(result)


@dataclass(frozen=True)
class Plan:
    """How long to time: about `seconds` for each callable, within these numbers of rounds."""

    seconds: float = 0.5
    fewest: int = 5
    most: int = 41

    def rounds(self, seconds_of_a_call: float) -> int:
        """Rounds that a callable of this length takes part in."""
        calls = 1 if seconds_of_a_call >= UNDISTURBED else 2
        fit = int(self.seconds / (calls * max(seconds_of_a_call, 1e-9)))
        return min(self.most, max(self.fewest, fit))


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, the quartiles as its spread, the best."""

    median: float
    lower: float
    upper: float
    best: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Sum up the times of all rounds."""
        lower, median, upper = (float(q) for q in np.percentile(seconds, (25, 50, 75)))
        return cls(median, lower, upper, min(seconds), len(seconds))

    def times(self, factor: float) -> Timing:
        """Give the times of so many times the work."""
        seconds = (self.median, self.lower, self.upper, self.best)
        median, lower, upper, best = (factor * one for one in seconds)
        return Timing(median, lower, upper, best, self.rounds)

    def as_dict(self) -> dict[str, float]:
        """Give the fields for JSON, times to 4 digits."""
        fields = asdict(self)
        return {k: v if k == "rounds" else float(f"{v:.4g}") for k, v in fields.items()}


def interleave(
    calls: Mapping[str, Call],
    plan: Plan,
    progress: Callable[[float], object] = lambda share: None,
) -> dict[str, Timing]:
    """Time every callable once a round, in rotating order.

    Slow ones sit out some rounds, evenly spread, so that the fast ones get enough of them.

    Parameters
    ----------
    calls : mapping of str to Call
    plan : Plan
    progress : callable, optional
        Is told the share of the rounds that are done.

    Returns
    -------
    dict of str to Timing
    """
    with _no_collection():
        first = {name: _estimate(call) for name, call in calls.items()}
        turns = {name: plan.rounds(seconds) for name, seconds in first.items()}
        rounds = max(turns.values(), default=0)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for current in range(rounds):
            shift = current % len(names)
            for name in names[shift:] + names[:shift]:
                if (current + 1) * turns[name] // rounds > current * turns[name] // rounds:
                    warm = first[name] < UNDISTURBED
                    seconds[name].append(_turn(calls[name], warm))
            progress((current + 1) / rounds)
    return {name: Timing.of(times) for name, times in seconds.items()}


def _estimate(call: Call) -> float:
    """Seconds of a call: the best of three, or of one, if that is long."""
    seconds = _turn(call, warm=True)
    if seconds < UNDISTURBED:
        seconds = min(seconds, _turn(call, warm=False), _turn(call, warm=False))
    return seconds


def _turn(call: Call, warm: bool) -> float:
    if warm:
        call.run()
    if call.reset is not None:
        call.reset()
    start = time.perf_counter()
    result = call.run()
    seconds = time.perf_counter() - start
    del result  # only now is its memory given back
    return seconds


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
