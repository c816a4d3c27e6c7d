"""`fastxent check`: the backends of this machine on the table of cases, against the reference."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from fastxent.backends import backends, pick
from fastxent.cases import Case, cases_of
from fastxent.conformance import CaseResult, Comparison, run_case, run_softmax_case
from fastxent.version import __version__

__all__ = ["DTYPES", "reasons_of", "run", "table_of"]

DTYPES = ("float16", "bfloat16", "float32", "float64")

# A quick check takes every eighth case, and none of more elements than this.
QUICK_STEP = 8
QUICK_ELEMENTS = 100_000

# What the results of a case are counted as, by their names; all others are side outputs.
GROUPS = {
    **{name: name for name in ("loss", "gradient")},
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), "softmax"),
}
MEASURED = ("loss", "gradient", "softmax", "aux")
HEADINGS = ("backend", "dtype", "cases", "passed", *MEASURED, "seconds")


@dataclass
class Tally:
    """What came of one backend in one dtype.

    Attributes
    ----------
    worst : dict of str to Comparison
        For "loss", "gradient", "softmax" (the three softmax functions) and "aux" (all side
        outputs) the comparison that took up the largest share of its tolerance.
    failures : list of str
        The explanation of each case that failed.
    """

    backend: str
    dtype: str
    cases: int = 0
    seconds: float = 0.0
    worst: dict[str, Comparison] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, result: CaseResult) -> None:
        """Count the result of one case."""
        self.cases += 1
        if not result.passed:
            self.failures.append(result.explain())
        for comparison in result.comparisons:
            name = GROUPS.get(comparison.name, "aux")
            if name not in self.worst or _share(comparison) > _share(self.worst[name]):
                self.worst[name] = comparison

    def cells(self) -> tuple[str, ...]:
        """Give the texts of one line of the table, in the order of `HEADINGS`."""
        errors = []
        for name in MEASURED:
            worst = self.worst.get(name)
            errors.append("-" if worst is None else f"{worst.error:.1e} ({_share(worst):4.0%})")
        passed = self.cases - len(self.failures)
        counts = (str(self.cases), str(passed))
        return (self.backend, self.dtype, *counts, *errors, f"{self.seconds:.1f}")


def _share(comparison: Comparison) -> float:
    """Part of the tolerance that an error takes up; above 1 it fails, and NaN is the worst."""
    share = comparison.error / comparison.tolerance if comparison.tolerance else math.inf
    return math.inf if math.isnan(share) else share


Check = Callable[[str, str], CaseResult]


def _checks(dtype: str, quick: bool) -> list[tuple[str, Check]]:
    """Title and run of every case, to be called with dtype and backend."""

    def chosen(cases: Sequence[Case]) -> Iterator[Case]:
        small = (case for case in cases if math.prod(case.shape) <= QUICK_ELEMENTS)
        yield from list(small)[::QUICK_STEP] if quick else cases

    # The softmax functions see the logits alone: one case for each kind of them is enough.
    cases = cases_of(dtype)
    softmax_cases = {(c.shape, c.axis, c.logits, c.layout, c.out): c for c in cases}
    checks: list[tuple[str, Check]] = [
        (str(case), partial(run_case, case)) for case in chosen(cases)
    ]
    checks += [
        (f"softmax functions of {case}", partial(run_softmax_case, case))
        for case in chosen(list(softmax_cases.values()))
    ]
    return checks


def _tally(backend: str, dtype: str, checks: Sequence[tuple[str, Check]]) -> Tally:
    tally = Tally(backend, dtype)
    start = time.perf_counter()
    for done, (title, check) in enumerate(checks):
        _progress(f"{backend} {dtype}: {done} of {len(checks)} cases")
        try:
            result = check(dtype, backend)
        except Exception as error:  # whatever a broken backend raises is a failure of this case
            fault = f"raised {type(error).__name__}: {error}"
            result = CaseResult(f"{title} [{dtype}, {backend}]", (), (fault,))
        tally.add(result)
    _progress("")
    tally.seconds = time.perf_counter() - start
    return tally


def _progress(text: str) -> None:
    """Replace the last line of a terminal; nothing where stderr is none."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def table_of(lines: Sequence[Sequence[str]], words: int = 2) -> str:
    """Lines of cells in columns: so many of words, to the left, then numbers, to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def reasons_of(names: Sequence[str] | None) -> dict[str, str | None]:
    """Backends to check: those named, or all, with the reason why one cannot run, or None."""
    return backends() if names is None else {pick(name).name: None for name in names}


def run(names: Sequence[str] | None, dtypes: Sequence[str], quick: bool = False) -> int:
    """Check backends and print a table.

    Parameters
    ----------
    names : sequence of str or None
        The backends; None for all, of which those that cannot run are listed with their reason.
    dtypes : sequence of str
        From `DTYPES`.
    quick : bool
        Only some of the cases, without the large ones.

    Returns
    -------
    int
        1 if a case failed, 2 if there was nothing to check, else 0.

    Raises
    ------
    OptionError, BackendError
        If a backend named does not exist or cannot run.
    """
    reasons = reasons_of(names)
    able = [name for name, reason in reasons.items() if reason is None]
    unknown = {dtype: Case(5, 10).why_not(dtype) for dtype in dtypes}
    checks = {dtype: _checks(dtype, quick) for dtype in dtypes if unknown[dtype] is None}
    tallies = [_tally(name, dtype, checks[dtype]) for name in able for dtype in checks]

    print(f"fastxent {__version__}: backends against the float64 reference")
    print(table_of([HEADINGS, *(tally.cells() for tally in tallies)]))
    print(f"{', '.join(MEASURED)}: the worst error, and its share of what is allowed")
    for name, reason in (reasons | unknown).items():
        if reason is not None:
            print(f"{name} was not checked: {reason}")
    failures = [failure for tally in tallies for failure in tally.failures]
    for failure in failures:
        print(f"\nFAILED {failure}")
    if not any(tally.cases for tally in tallies):
        print("nothing was checked")
        return 2
    print(f"{len(failures)} failed" if failures else "all passed")
    return 1 if failures else 0
