"""What a small call costs: the best of many of the whole public call.

``python -m fastxent.bench.latency`` prints the seconds of everybody: a fresh process, in which no
large arrays have been.
"""

from __future__ import annotations

import json
import time

from fastxent.bench.measure import Measurement, checked_calls
from fastxent.bench.peers import adapters, others, own
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload

__all__ = ["WORKLOAD", "best_seconds"]

WORKLOAD = Workload(32, 10)
CALLS, ROUNDS = 50, 200


def best_seconds(calls: dict[str, Call], rounds: int = ROUNDS) -> dict[str, float]:
    """Give the best mean of 50 calls in a row, over many rounds in which everybody has a turn."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            run = call.run
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            best[name] = min(best[name], (time.perf_counter() - start) / CALLS)
    return best


def main() -> None:
    """Print the best seconds by name."""
    calls = checked_calls(Measurement(WORKLOAD), own(("out",)) + adapters() + others())
    print("\n" + json.dumps({k: float(f"{v:.4g}") for k, v in best_seconds(calls).items()}))


if __name__ == "__main__":
    main()
