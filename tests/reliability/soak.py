"""Mixed calls from several threads for a long time: nothing grows, and no result ever differs.

usage: python -m reliability.soak [--minutes N] [--threads N]

Example: PYTHONPATH=.:tests python -m reliability.soak --minutes 20

The calls (reliability/mixture.py) are those of every public function on every CPU backend, with all
dtypes, options and layouts, refused calls among them, and those of `fastxent.torch`. What each has
to give is computed before; then the threads draw calls by chance. Now and then they stop, and
resident memory, threads and file descriptors of the process are counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastxent as fx
from reliability import mixture, records

# Threads of a call that does not say how many: the same for all, so that none come and go.
WORKERS = 2
# A sample that comes later than this means that a caller hangs.
LONGEST_WAIT = 300.0
# The bound on the growth: the allocator's own ups and downs, and for each call less than the
# smallest object of Python (16 bytes), so that nothing can be left behind by every call.
MOST_BYTES = 4 * 2**20
MOST_BYTES_OF_A_CALL = 8.0
# The first samples, in which the allocator finds its size, do not count.
SETTLING = 0.25


@dataclass
class Sample:
    """What the process holds while all callers wait."""

    seconds: float
    calls: int
    resident: int
    threads: int
    descriptors: int


@dataclass
class Found:
    """What came of the run."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: int = 0


def held(seconds: float, calls: int) -> Sample:
    """Count memory, threads and file descriptors of this process, garbage aside."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that glibc keeps is no leak
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    descriptors = len(list(Path("/proc/self/fd").iterdir())) - 1  # the listing has one of its own
    resident = int(status["VmRSS"].split()[0]) * 1024
    return Sample(seconds, calls, resident, int(status["Threads"]), descriptors)


class Callers:
    """Threads that draw calls and check what they give, all stopped at once for each sample."""

    def __init__(
        self, calls: list[mixture.Call], expected: dict[str, str], threads: int, seed: int
    ) -> None:
        self._calls, self._expected, self._found = calls, expected, Found()
        self._stop_at = 0.0
        self._over = False
        self._counts = [0] * threads
        self._refused = [0] * threads
        self._gate = threading.Barrier(threads + 1)
        self._threads = [
            threading.Thread(target=self._work, args=(number, seed), daemon=True)
            for number in range(threads)
        ]

    def _check(self, number: int, call: mixture.Call) -> None:
        try:
            outcome = mixture.outcome(call)
        except Exception as error:  # what fastxent does not raise on purpose is a fault
            self._found.faults.append(f"{call.name}: {type(error).__name__}: {error}")
            return
        self._counts[number] += 1
        self._refused[number] += ": " in outcome
        if outcome != self._expected[call.name]:
            self._found.faults.append(f"{call.name}: another result than alone")

    def _work(self, number: int, seed: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for call in chance.sample(self._calls, len(self._calls)):
            self._check(number, call)
        while not self._over:
            while time.monotonic() < self._stop_at:
                self._check(number, chance.choice(self._calls))
            self._gate.wait(LONGEST_WAIT)
            self._gate.wait(LONGEST_WAIT)

    def run(self, seconds: float, every: float) -> Found:
        """Let each thread make every call once, then draw for so long."""
        self._stop_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        begin = shown = 0.0
        with records.progress("warming up", total=round(seconds)) as advance:
            while not self._over:
                self._gate.wait(LONGEST_WAIT)  # all have stopped
                now = time.monotonic()
                begin, shown = begin or now, shown or now
                self._found.samples.append(held(now - begin, sum(self._counts)))
                self._over = now - begin >= seconds
                self._stop_at = now if self._over else time.monotonic() + every
                self._gate.wait(LONGEST_WAIT)
                advance(round(now - shown), "mixed calls")
                shown += round(now - shown)
        for thread in self._threads:
            thread.join(LONGEST_WAIT)
        self._found.refused = sum(self._refused)
        return self._found


def growth_of(samples: list[Sample]) -> float:
    """Bytes by which the line through the samples rises, from the first to the last."""
    line = statistics.linear_regression(
        [sample.seconds for sample in samples], [sample.resident for sample in samples]
    )
    return line.slope * (samples[-1].seconds - samples[0].seconds)


def judged(found: Found) -> tuple[dict[str, Any], list[str]]:
    """Figures of the record, and what was wrong."""
    settled = found.samples[int(SETTLING * len(found.samples)) :]
    first, last = settled[0], settled[-1]
    growth, calls = growth_of(settled), last.calls - first.calls
    faults = sorted(set(found.faults))
    bound = max(MOST_BYTES, MOST_BYTES_OF_A_CALL * calls)
    if growth > bound:
        faults.append(f"resident memory grew by {growth / 2**20:.1f} MB, bound {bound / 2**20:.1f}")
    half = len(settled) // 2
    for name in ("threads", "descriptors"):
        before, after = (
            max(getattr(sample, name) for sample in part)
            for part in (settled[:half], settled[half:])
        )
        if after > before:
            faults.append(f"{name}: {after} in the second half, {before} in the first")
    figures = {
        "minutes": round(found.samples[-1].seconds / 60, 1),
        "samples": len(settled),
        "calls": found.samples[-1].calls,
        "refused": found.refused,
        "different_results": len(found.faults),
        "growth_mb": round(growth / 2**20, 2),
        "growth_bytes_of_a_call": round(growth / max(1, calls), 2),
        "bound_mb": round(bound / 2**20, 1),
        "resident_mb": round(last.resident / 2**20),
        "process_threads": max(sample.threads for sample in settled),
        "descriptors": max(sample.descriptors for sample in settled),
    }
    return figures, faults


def arguments(given: Iterable[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Example: PYTHONPATH=.:tests python -m reliability.soak --minutes 20",
    )
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="default: 20")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that call; default: 4")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what they draw")
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="S", help="seconds between samples; default: 5"
    )
    parser.add_argument(
        "--share", type=float, default=0.2, metavar="P", help="of the suite's cases; default: 0.2"
    )
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    return parser.parse_args(list(given))


def main(given: list[str]) -> int:
    """Run, print what came of it, keep it; 0 where all was well."""
    asked = arguments(given)
    import torch

    torch.set_num_threads(WORKERS)
    fx.set_num_threads(WORKERS)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        calls = mixture.calls(asked.share, Path(folder))
        expected = {call.name: mixture.outcome(call) for call in calls}
        found = Callers(calls, expected, asked.threads, asked.seed).run(
            60 * asked.minutes, asked.every
        )
    figures, faults = judged(found)
    figures |= {"threads": asked.threads, "kinds": len(calls), "seed": asked.seed}
    records.keep("soak", figures, not faults, time.monotonic() - begin, faults, asked.out)
    for name, value in figures.items():
        print(f"{name:24s} {value}")
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
