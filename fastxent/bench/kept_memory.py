"""JAX where glibc keeps freed memory, which by default it gives back for every large array.

``python -m fastxent.bench.kept_memory`` prints the contests; `contests` runs it in a process with
the variables that glibc reads when it starts.
"""

from __future__ import annotations

import json
import sys

from fastxent.bench import children
from fastxent.bench.contest import FASTXENT, Contest
from fastxent.bench.measure import measure
from fastxent.bench.peers import named
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import Workload

__all__ = ["ENVIRONMENT", "contests"]

# No array gets a mapping of its own, and the heap is not given back.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
SHAPES = ((1_024, 32_000), (256, 128_256))


def contests(plan: Plan, threads: int) -> list[Contest]:
    """Hold `fastxent.jax` against JAX in a process that keeps its memory."""
    arguments = (json.dumps(vars(plan)), str(threads))
    found = children.answer("kept_memory", *arguments, environment=ENVIRONMENT)
    return [Contest.from_dict(fields) for fields in found]


def _contest(shape: tuple[int, int], plan: Plan, threads: int) -> Contest:
    found = measure(Workload(*shape, threads=threads), [named("fastxent.jax"), named("JAX")], plan)
    title = f"jitted value_and_grad, {shape[0]} x {shape[1]}, memory kept by glibc"
    names = {FASTXENT: "fastxent.jax", "JAX": "JAX"}
    timings = {ours: found.timings[peer] for ours, peer in names.items() if peer in found.timings}
    return Contest(title, timings, found.skipped)


def main(plan: str, threads: str) -> None:
    """Print the contests."""
    held = [_contest(shape, Plan(**json.loads(plan)), int(threads)) for shape in SHAPES]
    print("\n" + json.dumps([contest.as_dict() for contest in held]))


if __name__ == "__main__":
    main(*sys.argv[1:])
