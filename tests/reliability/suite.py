"""How long `make test` takes where Numba has compiled nothing before, and what it finds.

It may take ten minutes on two CPUs; what takes long is marked slow and left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from reliability import records
from reliability.levels import counts_of
from reliability.tools import ROOT

__all__ = ["MOST_SECONDS", "main"]

MOST_SECONDS = 600
COMMAND = ("-m", "pytest", "-n", "auto", "--dist", "loadfile")  # as in the Makefile


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, keep the record `suite`; 0 where it passed in time."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: PYTHONPATH=.:tests python -m reliability.suite",
    )
    parser.add_argument("--tests", nargs="+", default=[], help="these only; default: all")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as cache, records.progress("the suite", None):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, *COMMAND, *given.tests],
            cwd=ROOT,
            env=os.environ | {"FASTXENT_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
    counts = counts_of(done.stdout)
    faults = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not faults:
        faults.append(done.stdout[-2000:] + done.stderr[-2000:])
    if seconds > MOST_SECONDS:
        faults.append(f"it took {seconds:.0f} s, {MOST_SECONDS} at most are promised")
    figures = {
        "passed": counts.get("passed", 0),
        "skipped": counts.get("skipped", 0),
        "minutes": round(seconds / 60, 1),
        "cpus": len(os.sched_getaffinity(0)),
    }
    records.keep("suite", figures, not faults, seconds, faults, given.out)
    print(f"{figures['passed']:,} tests passed in {seconds:.0f} s, {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
