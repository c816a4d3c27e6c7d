"""Build fastxent and test it in clean environments: oldest and newest packages, each Python found.

Each environment is a venv of its own in a temporary folder, with a wheel that was built from a copy
of the source; the tests run where the source tree is absent. The kinds: `wheel` (the versions of
constraints.txt), `oldest` (the lowest that pyproject.toml allows, also to build with), `newest`
(the newest that pip finds), `no-openmp`, `clang`, `nehalem` (a CPU without AVX, emulated),
`oldest-frameworks`, and `threaded` on interpreters without a global lock. The first three are tried
on every Python from 3.11 on that is found on PATH or below pyenv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from reliability import records
from reliability.environment_build import Broken, Outcome, Workshop
from reliability.environment_list import SPECIAL, Environment, environments, pythons

_EXAMPLES = """\
examples:
  python -m reliability.environments                      everything: an hour or two
  python -m reliability.environments --list               what can be tried here
  python -m reliability.environments --only oldest        on each Python
  python -m reliability.environments --only wheel-3.11 --whole
  python -m reliability.environments --only clang --tests tests/test_levels.py

Exits with 1 if an environment failed, with 2 if something asked for by name is missing here.
"""
_SHOWN = ("numpy", "numba", "scipy", "ml-dtypes", "jax", "scikit-learn", "xgboost-cpu", "lightgbm")


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog="python -m reliability.environments",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--only", nargs="+", default=[], metavar="NAME", help="kinds, or names")
    made.add_argument("--list", action="store_true", help="list them and what is missing; no run")
    made.add_argument("--python", nargs="+", default=[], metavar="PATH", help="more interpreters")
    made.add_argument("--tests", nargs="+", metavar="PATH", help="these, not those of the kind")
    made.add_argument("--whole", action="store_true", help="the whole suite but the frameworks'")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="work there and leave it there")
    made.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    return made


def chosen(all_of_them: Sequence[Environment], only: Sequence[str]) -> list[Environment]:
    """Take those that are called so, or whose name begins so up to a hyphen.

    Raises
    ------
    SystemExit
        With 2, if a name stands for none.
    """
    names = {wanted.name for wanted in all_of_them}
    picked: list[Environment] = []
    for asked in only:
        these = [one for one in all_of_them if one.name == asked]
        these = these or [one for one in all_of_them if one.name.startswith(f"{asked}-")]
        if not these:
            print(f"no environment {asked!r}: there are {', '.join(sorted(names))}")
            raise SystemExit(2)
        picked += [one for one in these if one not in picked]
    return picked or list(all_of_them)


def as_figures(wanted: Environment, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Describe what happened in one environment, for the record."""
    versions = outcome.facts.get("packages", {})
    return {
        "python": outcome.facts.get("python", wanted.python.name),
        "passed": outcome.passed,
        "skipped": outcome.skipped,
        "seconds": round(seconds),
        "versions": {name: versions[name] for name in _SHOWN if name in versions},
        "level": outcome.facts.get("level", ""),
        "openmp": outcome.facts.get("runtime", ""),
        "lock": outcome.facts.get("lock", ""),
        "date": datetime.now(UTC).date().isoformat(),
        "fault": outcome.fault,
    }


def summed(each: dict[str, dict[str, Any]], missing: dict[str, str]) -> dict[str, Any]:
    """Sum up the environments for the sentences of the page."""
    good = {name: one for name, one in each.items() if not one["fault"]}
    return {
        "environments": each,
        "missing": missing,
        "count": len(good),
        "names": ", ".join(sorted(good)),
        "builds": ", ".join(name for name in SPECIAL if name in good) or "none",
        "cases": sum(one["passed"] for one in good.values()),
        "pythons": ", ".join(sorted({one["python"] for one in good.values()})),
        "numpys": ", ".join(
            sorted({one["versions"]["numpy"] for one in good.values() if one["versions"]})
        ),
    }


def main(arguments: Sequence[str]) -> int:
    """Make the environments, test in each, keep the record."""
    asked = parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    found = pythons(asked.python)  # the lowest with a lock comes first
    picked = chosen(list(environments(found)), asked.only)
    if asked.list:
        for wanted in picked:
            console.print(f"{wanted.name:22}{wanted.python.path}  {wanted.missing or ''}")
        return 0
    missing = {wanted.name: wanted.missing for wanted in picked if wanted.missing is not None}
    for name, reason in missing.items():
        console.print(f"{name}: not tried: {reason}")
    picked = [wanted for wanted in picked if wanted.missing is None]
    if asked.only and not picked:
        return 2
    tests = ["tests", "--ignore=tests/frameworks"] if asked.whole else asked.tests
    earlier = records.load("environments", asked.out) if asked.only else None
    each: dict[str, dict[str, Any]] = earlier["figures"]["environments"] if earlier else {}
    begin = time.monotonic()
    folder = nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory()
    with folder as place, records.progress("environments", len(picked)) as advance:
        Path(place).mkdir(parents=True, exist_ok=True)
        workshop = Workshop(Path(place), found[0])
        for wanted in picked:
            advance(0, wanted.name)
            start = time.monotonic()
            outcome = workshop.result(wanted, tests or wanted.tests)
            took = time.monotonic() - start
            each[wanted.name] = as_figures(wanted, outcome, took)
            verdict = f"failed: {outcome.fault}" if outcome.fault else "passed"
            console.print(
                f"{wanted.name:22}{outcome.passed:6} passed {outcome.skipped:5} skipped "
                f"{took:6.0f} s  {verdict}",
                markup=False,
            )
            if outcome.fault and asked.keep:
                console.print(f"  all output: {workshop.log_of(wanted.name)}")
            advance(1)
    # an earlier record tells what was missing elsewhere; what was tried now is not missing
    missing = {
        name: reason
        for name, reason in ((earlier["figures"]["missing"] if earlier else {}) | missing).items()
        if name not in each
    }
    faults = [f"{name}: {one['fault']}" for name, one in each.items() if one["fault"]]
    took = sum(one["seconds"] for one in each.values()) or time.monotonic() - begin
    records.keep("environments", summed(each, missing), not faults, took, faults, asked.out)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Broken as error:
        sys.exit(f"environments: {error}")
