"""Times on the card's own clock, turn and turn about."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastxent.bench.timer import Timing

__all__ = ["host_seconds", "interleave"]

_ROUNDS = 15
_WARM_UPS = 3
_CALLS_OF_HOST = 200


def interleave(calls: Mapping[str, Callable[[], Any]], device: str) -> dict[str, Timing]:
    """Time every call once a round, in rotating order; seconds by events of the card.

    Without a card (a rehearsal) by the host's clock.
    """
    for call in calls.values():
        for _ in range(_WARM_UPS):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for current in range(_ROUNDS):
        shift = current % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(_once(calls[name], device))
    return {name: Timing.of(times) for name, times in seconds.items()}


def _once(call: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()  # what others left in the caches is gone, and the queue is not empty when it starts
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * float(start.elapsed_time(end))


def host_seconds(call: Callable[[], Any], device: str) -> float:
    """Seconds that the host spends on a call: the median of batches that nobody waits for."""
    batches = []
    for _ in range(9):
        begin = time.perf_counter()
        for _ in range(_CALLS_OF_HOST):
            call()
        batches.append((time.perf_counter() - begin) / _CALLS_OF_HOST)
        if device != "cpu":
            torch.cuda.synchronize()
    return Timing.of(batches).median
