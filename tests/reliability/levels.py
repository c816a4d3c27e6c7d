"""The test suite on the instruction levels below the one that this machine takes by itself.

On that one `make test` runs it. Tests of Numba's kernels and of those for graphics cards, which
know no levels, are left out. Levels that are asked for by `--level` replace their own figures only.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fastxent as fx
from reliability import records

__all__ = ["counts_of", "levels_here", "main"]

ROOT = Path(__file__).parent.parent.parent

TESTS = ["tests", "--ignore=tests/gpu", "-k", "not numba"]

EXAMPLES = """\
examples:
  PYTHONPATH=.:tests python -m reliability.levels
  PYTHONPATH=.:tests python -m reliability.levels --level baseline --tests tests/test_dtypes.py
  PYTHONPATH=.:tests python -m reliability.levels --processes 8
"""


def levels_here() -> list[str]:
    """The levels that are built and that this CPU runs, lowest first."""
    if fx.backends()["cython"] is not None:
        return []
    from fastxent.backends import _kernels

    names, supported = _kernels.levels()
    return list(names[:supported])


def counts_of(output: str) -> dict[str, int]:
    """Numbers of the last line of pytest that has some, by what they count."""
    lines = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [\d.:]+", line)]
    return {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", lines[-1])} if lines else {}


def failed_of(found: dict[str, Any]) -> int:
    """How many tests failed, or could not be run for an error."""
    return sum(found.get(word, 0) for word in ("failed", "error", "errors"))


def _run(level: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # what was recorded before says nothing of a level, and a failed record would keep itself alive
    command += ["--ignore=tests/test_reliability.py"]
    if arguments.processes > 1:
        command += ["-n", str(arguments.processes), "--dist", "loadfile"]
    settings = {**os.environ, "FASTXENT_ISA": level}
    done = subprocess.run(
        [*command, *arguments.tests],
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    return counts_of(done.stdout), done.stdout + done.stderr, done.returncode


def main(argv: list[str] | None = None) -> int:
    """Run the program; 1 if a test failed on any level."""
    here = levels_here()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", nargs="+", choices=here, help="default: all but the highest")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="pytest's words; default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="directory of the record")
    arguments = parser.parse_args(argv)
    levels: list[str] = arguments.level or here[:-1] or here
    figures: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    with records.progress("levels", len(levels)) as advance:
        for level in levels:
            advance(0, f"the suite at level {level}")
            began = time.perf_counter()
            figures[level], output, code = _run(level, arguments)
            figures[level]["seconds"] = round(time.perf_counter() - began)
            figures[level]["commit"] = records.commit()
            if code:
                faults.append(f"{level}: {figures[level]}")
                print(f"{level}: pytest ended with {code}\n{output[-5000:]}")
            advance(1)
    before = records.load("levels", arguments.out)
    if arguments.level and before and before["figures"]["tests"] == arguments.tests:
        stay = {k: v for k, v in before["figures"]["counts"].items() if k not in figures}
        faults += [fault for fault in before["faults"] if fault.partition(":")[0] in stay]
        figures = stay | figures
    words = [
        f"{level}: {found.get('passed', 0):,} passed, {found.get('skipped', 0):,} skipped, "
        f"{failed_of(found)} failed (commit {found['commit']})"
        for level, found in figures.items()
    ]
    print("\n".join(words))
    kept = {"levels": "; ".join(words), "counts": figures, "tests": arguments.tests}
    passed = bool(levels) and not faults and all(one.get("passed") for one in figures.values())
    seconds = sum(one["seconds"] for one in figures.values())
    records.keep("levels", kept, passed, seconds, faults, arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
