"""How many threads a process may use and how many it does; a program for other tests.

usage: python limited.py CODE

CODE is run first, and may call `report(**options)`: that prints the limit of fastxent and, for each
compiled backend that runs, how many threads took part in calls with these options.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

import fastxent as fx

# Long enough for every thread of a team to get its share; on a machine that has other things to do,
# where a thread may come too late for all of them, it is tried again with more.
CALLS = (20, 40, 80)


def _nanoseconds() -> dict[str, int]:
    """Time that each thread of the process has had a CPU."""
    spent = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/schedstat", encoding="ascii") as file:
            spent[thread] = int(file.read().split()[0])
    return spent


def used(backend: str, **options: Any) -> int:
    """Threads that took a part of the calls: a tenth of what the busiest took, or more."""
    logits, labels = np.zeros((4000, 1000), np.float32), np.zeros(4000, int)
    fx.cross_entropy(logits, labels, backend=backend, **options)
    limit = options.get("num_threads") or fx.get_num_threads()
    for calls in CALLS:
        before = _nanoseconds()
        for _ in range(calls):
            fx.cross_entropy(logits, labels, backend=backend, **options)
        spent = [time - before.get(thread, 0) for thread, time in _nanoseconds().items()]
        count = sum(time > max(spent) / 10 for time in spent)
        if count >= limit:
            break
    return count


def report(**options: Any) -> None:
    """Print the limit, and the threads that each backend used."""
    print(json.dumps(answer(**options)), flush=True)


def answer(**options: Any) -> dict[str, int]:
    """The limit, and the threads that each backend used."""
    able = [name for name in ("cython", "numba") if fx.backends()[name] is None]
    return {"limit": fx.get_num_threads()} | {name: used(name, **options) for name in able}


if __name__ == "__main__":
    exec(sys.argv[1])
