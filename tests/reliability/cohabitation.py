"""What fastxent and other libraries with threads cost each other in one process.

usage: python -m reliability.cohabitation [--seconds 0.5] [--partners PyTorch Numba]

example: python -m reliability.cohabitation --partners scikit-learn --backends cython

Each pair runs in a fresh process, with either library first, with and without
FASTXENT_SHARE_OPENMP=1. The aim: two libraries that alternate take at most twice the sum of what
each takes alone, without the variable or with it. Writes the record `cohabitation` and the table of
docs/threads.md; takes three minutes of a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fastxent as fx
from reliability import records
from reliability.cohabitation_pair import PARTNERS

__all__ = ["AIM", "PAGE", "figures_of", "main", "table_of", "write_table"]

AIM = 2.0
PAGE = Path(fx.__file__).parent.parent / "docs" / "threads.md"
BEGIN, END = "<!-- cohabitation:begin -->", "<!-- cohabitation:end -->"
HEADINGS = ("with", "backend", "shape", "first", "each alone, us", "in turn, us", "times", "shared")
_SECONDS_A_PROCESS = 120


def _run(partner: str, backend: str, first: str, shared: bool, seconds: float) -> dict[str, Any]:
    variables = {
        name: value for name, value in os.environ.items() if name != "FASTXENT_SHARE_OPENMP"
    }
    places = [str(Path(__file__).parent.parent), str(Path(fx.__file__).parent.parent)]
    variables["PYTHONPATH"] = os.pathsep.join(places)
    if shared:
        variables["FASTXENT_SHARE_OPENMP"] = "1"
    module = "reliability.cohabitation_pair"
    done = subprocess.run(
        [sys.executable, "-m", module, partner, backend, first, str(seconds)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS_A_PROCESS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{partner} with {backend}, {first} first: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _rows(partners: Sequence[str], backends: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """One row for each pair, shape and order."""
    ways = list(itertools.product(partners, backends, ("fastxent", "partner")))
    rows = []
    with records.progress("pairs of libraries", 2 * len(ways)) as advance:
        for partner, backend, first in ways:
            found = []
            for shared in (False, True):
                found.append(_run(partner, backend, first, shared, seconds))
                advance(description=f"{partner} and {backend}")
            for shape, times in found[0].items():
                again = found[1][shape]
                rows.append(
                    {
                        "with": partner,
                        "backend": backend,
                        "shape": shape,
                        "first": "fastxent" if first == "fastxent" else partner,
                        "ours": times["ours"],
                        "theirs": times["theirs"],
                        "pair": times["pair"],
                        "times": times["pair"] / (times["ours"] + times["theirs"]),
                        "shared": again["pair"] / (again["ours"] + again["theirs"]),
                    }
                )
    return rows


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers for the page of promises."""
    return {
        "pairs": len(rows),
        "aim": AIM,
        "within": sum(row["times"] <= AIM for row in rows),
        "worst": max(row["times"] for row in rows),
        "worst_with": max(rows, key=lambda row: float(row["times"]))["with"],
        "worst_shared": max(row["shared"] for row in rows),
        "worst_best": max(min(row["times"], row["shared"]) for row in rows),
        "rows": list(rows),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    alone = f"{row['ours']:.0f} + {row['theirs']:.0f}"
    numbers = (f"{row['pair']:.0f}", f"{row['times']:.2f}", f"{row['shared']:.2f}")
    return [*(row[name] for name in HEADINGS[:4]), alone, *numbers]


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [HEADINGS, ("---",) * 4 + ("---:",) * 4, *map(_cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_table(record: dict[str, Any], page: Path = PAGE) -> None:
    """Put the table of a record between the markers of the page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    where = f"Measured on {record['date']}: {record['machine']}."
    inner = f"\n{where}\n\n{table_of(record['figures']['rows'])}\n"
    page.write_text(f"{before}{BEGIN}{inner}{END}{after}", encoding="utf-8")


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="time in turn over the sum of the times alone; shared: with one OpenMP")
    for name in HEADINGS:
        table.add_column(name, justify="left" if name in HEADINGS[:4] else "right")
    for row in rows:
        table.add_row(*_cells(row), style="red" if row["times"] > AIM else None)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, keep; 0 if no pair took more than the aim both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="for each pair and shape")
    parser.add_argument("--partners", nargs="+", choices=list(PARTNERS), default=list(PARTNERS))
    parser.add_argument("--backends", nargs="+", default=["cython", "numba"])
    parser.add_argument("--out", type=Path, help="keep the record here, and leave the page alone")
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    rows = _rows(given.partners, given.backends, given.seconds)
    figures = figures_of(rows)
    faults = [
        f"{row['with']} and {row['backend']}, {row['shape']}, {row['first']} first: "
        f"{row['times']:.1f} times, {row['shared']:.1f} with one OpenMP"
        for row in rows
        if min(row["times"], row["shared"]) > AIM
    ]
    _show(rows)
    path = records.keep(
        "cohabitation",
        figures,
        not faults,
        time.perf_counter() - start,
        faults,
        given.out or records.RESULTS,
    )
    if given.out is None:
        write_table(json.loads(path.read_text(encoding="utf-8")))
    Console().print("\n".join(faults) or f"no pair takes more than {AIM:.0f} times the sum")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
