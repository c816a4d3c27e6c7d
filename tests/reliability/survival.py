"""Every way into another process or thread with every CPU backend, each in a process of its own.

    python -m reliability.survival
    python -m reliability.survival --ways fork pool_fork --backends cython --out /tmp/results

A process uses one backend on many threads, then takes the ways of tests/processes/ways.py. Numba is
there once for each of its threading layers. It takes 3 minutes on 2 cores. Where something that is
asked for is not here it runs nothing, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes.answers import LAYERS, tbb_library
from processes.runs import answers_of
from processes.ways import FORKING, NEEDS, WAYS
from rich.console import Console
from rich.table import Table

import fastxent as fx
from reliability import records

__all__ = ["main"]

_LACKING = 2  # exit code of a program that needs what is not here
_SECONDS = 1.0  # of CPU, for all calls of one backend in a forked child


def _lacking(ways: Sequence[str], backends: Sequence[str], layers: Sequence[str]) -> list[str]:
    """What of that cannot run here, and why."""
    found = [f"backend {name}: {fx.backends()[name]}" for name in backends if fx.backends()[name]]
    if "numba" in backends and "tbb" in layers and tbb_library() is None:
        found.append("layer tbb: pip install tbb")
    found += [
        f"way {way}: pip install {NEEDS[way]}"
        for way in ways
        if way in NEEDS and importlib.util.find_spec(NEEDS[way]) is None
    ]
    return found


def _state(row: dict[str, Any]) -> str:
    """Word for what came of a way."""
    if row["fault"]:
        return row["fault"].splitlines()[0]
    if row["answers"] == 0 or row["wrong"]:
        return "wrong bits"
    if row["way"] not in FORKING:
        return "ok"
    if row["cpu_seconds"] >= _SECONDS:
        return "slow"
    return "ok, on one thread" if row["threads"] == 1 else "ok"


def _name(row: dict[str, Any]) -> str:
    return f"numba ({row['layer']})" if row["backend"] == "numba" else str(row["backend"])


def _print(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(_name(row) for row in rows))
    table = Table()
    table.add_column("way", no_wrap=True)
    for column in columns:
        table.add_column(column)
    for way in dict.fromkeys(row["way"] for row in rows):
        states = {_name(row): _state(row) for row in rows if row["way"] == way}
        table.add_row(way, *(states.get(column, "") for column in columns))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix, print it and keep it."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    cpu = ("cython", "numba", "numpy")
    parser.add_argument("--backends", nargs="+", choices=cpu, default=list(cpu))
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="directory of the record")
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    lacking = _lacking(given.ways, given.backends, given.layers)
    if lacking:
        print("not run, for want of", *lacking, sep="\n")
        return _LACKING
    ways = given.ways
    runs = [(None, name) for name in given.backends if name != "numba"]
    runs += [(layer, "numba") for layer in given.layers if "numba" in given.backends]
    rows: list[dict[str, Any]] = []
    with records.progress("survival", len(runs)) as advance:
        for layer, name in runs:
            advance(0, f"{name} {layer or ''}")
            rows += answers_of(layer, [name], ways)
            advance()
    _print(rows)
    faults = [
        f"{row['way']}, {_name(row)}: {_state(row)}"
        for row in rows
        if not _state(row).startswith("ok")
    ]
    forked = [row for row in rows if row["way"] in FORKING and not row["fault"]]
    figures = {
        "cells": len(rows),
        "survived": len(rows) - len(faults),
        "ways": len(ways),
        "backends": len(runs),
        "answers": sum(row.get("answers", 0) for row in rows),
        "slowest_cpu_seconds": max((row["cpu_seconds"] for row in forked), default=0.0),
        "matrix": {way: {} for way in ways},
    }
    for row in rows:
        figures["matrix"][row["way"]][_name(row)] = _state(row)
    passed = not faults
    records.keep("survival", figures, passed, time.perf_counter() - start, faults, given.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
