"""The test suite: how long `make test` takes with nothing compiled before, and what it finds.

It may take ten minutes on two CPUs; what takes long is marked slow and left to `make test-slow`. Of
that, the tests that promises name are run after it. What each promise's tests found is kept too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from reliability import page, records
from reliability.promises import sections, tests_of
from reliability.tools import ROOT

__all__ = ["MOST_SECONDS", "Tally", "is_of", "main"]

MOST_SECONDS = 600
OPTIONS = ("-q", "-n", "auto", "--dist", "loadfile", "--rootdir", str(ROOT))  # as in the Makefile


class Tally:
    """Plugin of pytest: counts all cases, and those of each test that a promise names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.counts = {name: {"passed": 0, "failed": 0, "skipped": 0} for name in names}
        self.all: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seconds: Counter[str] = Counter()  # of each file
        self._outcome: dict[str, str] = defaultdict(lambda: "passed")
        self._of_file: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the worst of set-up, call and clean-up; count after the last."""
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        if report.outcome != "passed" and self._outcome[report.nodeid] != "failed":
            self._outcome[report.nodeid] = report.outcome
        if report.when != "teardown":
            return
        outcome = self._outcome[report.nodeid]
        self.all[outcome] += 1
        if outcome == "failed":
            self.faults.append(report.nodeid)
        if file not in self._of_file:
            few = [name for name in self.names if file.startswith(name.partition("::")[0])]
            self._of_file[file] = few
        for name in self._of_file[file]:
            if is_of(report.nodeid, name):
                self.counts[name][outcome] += 1


def is_of(case: str, name: str) -> bool:
    """Whether a test case is one of a folder, a file, a class or a parametrised test."""
    return case == name or (case.startswith(name) and case[len(name)] in "/:[")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, keep the records `suite` and `tests`; 0 where all passed, and in time."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: PYTHONPATH=.:tests python -m reliability.suite",
    )
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the records")
    given = parser.parse_args(arguments)
    names = tests_of(sections())
    tally = Tally(names)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FASTXENT_CACHE_DIR"] = cache
        start = time.monotonic()
        code = pytest.main([*OPTIONS, str(ROOT / "tests")], plugins=[tally])
        took = time.monotonic() - start
        faults = [*tally.faults] or ([f"pytest ended with {code}"] if code else [])
        if took > MOST_SECONDS:
            faults.append(f"it took {took:.0f} s, {MOST_SECONDS} at most are promised")
        figures = {
            "passed": tally.all["passed"],
            "skipped": tally.all["skipped"],
            "minutes": round(took / 60, 1),
            "cpus": len(os.sched_getaffinity(0)),
        }
        records.keep("suite", figures, not faults, took, faults, given.out)
        print("the files that take longest, in seconds of one process:")
        for name, seconds in tally.seconds.most_common(30):
            print(f"{seconds:6.0f}  {name}")
        slow = [*OPTIONS, "-m", "slow", *(str(ROOT / name) for name in names)]
        code = pytest.main(slow, plugins=[tally])
    none = [name for name, count in tally.counts.items() if not sum(count.values())]
    broken = [*tally.faults, *(f"no such test: {name}" for name in none)]
    if code and not broken:
        broken.append(f"pytest ended with {code} for what is slow")
    seconds = time.monotonic() - start - took
    records.keep(page.TESTS, tally.counts, not broken, seconds, broken, given.out)
    print(f"{figures['passed']:,} tests passed in {took:.0f} s; {', '.join(faults) or 'no fault'}")
    return 1 if faults or broken else 0


if __name__ == "__main__":
    sys.exit(main())
