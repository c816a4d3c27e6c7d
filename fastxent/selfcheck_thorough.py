"""`fastxent check --thorough`: random calls and the same bits, on this machine, in two minutes."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from fastxent import selfcheck
from fastxent.cases import Case
from fastxent.determinism import (
    THREADS,
    Sample,
    at_level,
    corpus,
    digest,
    levels_of_equal_bits,
    ways,
)
from fastxent.trials import drawn_trial
from fastxent.version import __version__

__all__ = ["SECONDS", "run"]

SECONDS = 120
# Of the time, for random calls; the rest is for the same bits.
SHARE_OF_TRIALS = 0.6
SEED = 1

HEADINGS = ("backend", "random calls", "wrong", "largest error", "bits compared", "mismatches")

Advance = Callable[[float, str], None]


@dataclass
class Tally:
    """What came of one backend."""

    backend: str
    trials: int = 0
    wrong: int = 0
    largest: float = 0.0
    compared: int = 0
    mismatches: int = 0
    failures: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """Give the texts of one line of the table, in the order of `HEADINGS`."""
        counts = (f"{self.trials:,}", str(self.wrong), f"{self.largest:.0%}")
        return (self.backend, *counts, f"{self.compared:,}", str(self.mismatches))


def run(names: Sequence[str] | None, dtypes: Sequence[str], seconds: float = SECONDS) -> int:
    """Check backends with random calls, then their bits on every way, and print a table.

    Parameters
    ----------
    names : sequence of str or None
        The backends; None for all, of which those that cannot run are listed with their reason.
    dtypes : sequence of str
        From `fastxent.selfcheck.DTYPES`.
    seconds : float
        How long; what is begun is finished. What Numba compiles on the way counts.

    Returns
    -------
    int
        1 if a result was wrong or a bit differed, 2 if there was nothing to check, else 0.

    Raises
    ------
    OptionError, BackendError
        If a backend named does not exist or cannot run.
    """
    reasons = selfcheck.reasons_of(names)
    # the calls are those of arrays of the host, which GPUs are not made for
    able = [name for name, reason in reasons.items() if reason is None and name != "cuda"]
    unknown = {dtype: Case(5, 10).why_not(dtype) for dtype in dtypes}
    known = [dtype for dtype in dtypes if unknown[dtype] is None]
    tallies = [Tally(name) for name in able] if known else []
    for_one = seconds / max(1, len(tallies))
    with _progress(seconds) as advance:
        for tally in tallies:
            _try(tally, known, SHARE_OF_TRIALS * for_one, advance)
            _compare_bits(tally, known, (1 - SHARE_OF_TRIALS) * for_one, advance)

    print(f"fastxent {__version__}: random calls, and the same bits on every way")
    lines = [HEADINGS, *(tally.cells() for tally in tallies)]
    print(selfcheck.table_of(lines, words=1))
    print("largest error: as a share of what is allowed against the float64 reference; what is")
    print("stored in 16 bits comes close to 100% by that rounding alone")
    print(
        f"bits compared: with {', '.join(map(str, THREADS))} threads, again, in place, with out=,"
    )
    print("of the loss alone, of rows in another order" + _levels_text(able))
    for name, reason in (reasons | unknown).items():
        if reason is not None:
            print(f"{name} was not checked: {reason}")
    if "cuda" in reasons and reasons["cuda"] is None:
        print("cuda was not checked: random calls are for the backends of the CPU")
    failures = [failure for tally in tallies for failure in tally.failures]
    for failure in failures:
        print(f"\nFAILED {failure}")
    if not any(tally.trials for tally in tallies):
        print("nothing was checked")
        return 2
    print(f"{len(failures)} failed" if failures else "all passed")
    return 1 if failures else 0


def _try(tally: Tally, dtypes: Sequence[str], seconds: float, advance: Advance) -> None:
    """Make random calls for so long, at least one."""
    for number in _for(seconds, advance, f"{tally.backend}: random calls"):
        rng = np.random.default_rng([SEED, number])
        trial = drawn_trial(rng, [tally.backend], dtypes)
        result = trial.run()
        tally.trials += 1
        if not result.passed:
            tally.wrong += 1
            tally.failures.append(f"{trial!r}\n  {result.explain()}")
        for one in result.comparisons:
            if one.passed and one.tolerance:
                tally.largest = max(tally.largest, one.error / one.tolerance)


def _compare_bits(tally: Tally, dtypes: Sequence[str], seconds: float, advance: Advance) -> None:
    """Make calls of the corpus on every way for so long, at least one, or until all are made."""
    samples = corpus(dtypes)
    order = np.random.default_rng(SEED).permutation(len(samples))
    for number in _for(seconds, advance, f"{tally.backend}: the same bits"):
        if number == len(samples):
            return
        sample = samples[order[number]]
        try:
            for way, same in _all_ways(sample, tally.backend):
                tally.compared += 1
                if not same:
                    tally.mismatches += 1
                    tally.failures.append(f"{tally.backend}, {way}: other bits for {sample}")
        except Exception as error:  # whatever a broken backend raises is a failure of this call
            words = f"raised {type(error).__name__}: {error}"
            tally.failures.append(f"{sample} on {tally.backend} {words}")


def _all_ways(sample: Sample, backend: str) -> Iterator[tuple[str, bool]]:
    yield from ways(sample, backend)
    if backend == "cython":
        levels = levels_of_equal_bits()
        digests = []
        for level in levels:
            with at_level(level):
                digests.append(digest(sample.outputs(backend)))
        for level, found in zip(levels[1:], digests[1:], strict=True):
            yield f"level {level} beside {levels[0]}", found == digests[0]


def _levels_text(able: Sequence[str]) -> str:
    levels = levels_of_equal_bits() if "cython" in able else ()
    return f", at the instruction levels {' and '.join(levels)}" if len(levels) > 1 else ""


def _for(seconds: float, advance: Advance, words: str) -> Iterator[int]:
    """Count until the time is over."""
    start = last = time.perf_counter()
    number = 0
    while number == 0 or last - start < seconds:
        yield number
        number += 1
        now = time.perf_counter()
        # what a kernel takes to compile is no progress beyond the end of the bar
        advance(min(now, start + seconds) - min(last, start + seconds), words)
        last = now


@contextmanager
def _progress(seconds: float) -> Iterator[Advance]:
    """Show how far it is: a bar of rich where that is installed, else one line of a terminal."""
    try:
        bars = importlib.import_module("rich.progress")
        console = importlib.import_module("rich.console").Console(stderr=True)
    except ImportError:
        yield from _plain_progress(seconds)
        return
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TaskProgressColumn())
    with bars.Progress(*columns, bars.TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda done, words: bar.update(task, advance=done, description=words)


def _plain_progress(seconds: float) -> Iterator[Advance]:
    done_so_far = 0.0

    def advance(done: float, words: str) -> None:
        nonlocal done_so_far
        done_so_far += done
        if sys.stderr.isatty():
            share = done_so_far / seconds
            print(f"\r\x1b[K{share:4.0%} {words}", end="", file=sys.stderr, flush=True)

    yield advance
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
