"""Keep every promise to the test, and write docs/reliability.md.

make reliability
PYTHONPATH=tests python -m reliability.run --only soak fuzz
PYTHONPATH=tests python -m reliability.run --page-only
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from reliability import page, records
from reliability.promises import Run, Section, sections

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
LACKING = 2  # exit code of a program that needs what is not here


def run_program(run: Run, console: Console) -> int:
    """Run a program, which shows its own progress and keeps its own record; give its exit code."""
    console.rule(f"{run.record}: about {run.minutes:g} min")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *run.command]
    environment = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def write_page(found: Sequence[Section]) -> None:
    """Write the page from what is kept."""
    PAGE.write_text(page.text(found, kept(found)), encoding="utf-8")


def kept(found: Sequence[Section]) -> dict[str, dict[str, object]]:
    """Give the records of all programs and of the tests, as far as they are there."""
    names = [run.record for section in found for run in section.runs]
    return {
        name: record for name in (*names, page.TESTS) if (record := records.load(name)) is not None
    }


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 if a promise was broken, 2 if something could not be run."""
    found = sections()
    runs = {run.record: run for section in found for run in section.runs}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=runs,
        default=list(runs),
        metavar="NAME",
        help=f"of {', '.join(runs)}; by default all",
    )
    parser.add_argument("--page-only", action="store_true", help="write the page, run nothing")
    asked = parser.parse_args(arguments)
    console = Console(stderr=True)
    broken, lacking = [], []
    if not asked.page_only:
        for name, run in runs.items():
            if name in asked.only:
                code = run_program(run, console)
                if code == LACKING:
                    lacking.append(name)
                elif code:
                    broken.append(name)
                write_page(found)  # a later program may run the test of the page
    write_page(found)
    console.print(f"{PAGE.relative_to(ROOT)} is written")
    for name in broken:
        console.print(f"[red]broken:[/] {name}; see {records.RESULTS.name}/{name}.json")
    for name in lacking:
        wanted = runs[name].wants or "what it says above"
        console.print(f"[yellow]not run:[/] {name} needs {wanted}")
    return 1 if broken else LACKING if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
