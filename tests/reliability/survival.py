"""Every way into another process or thread with every CPU backend, each in a process of its own.

    python -m reliability.survival
    python -m reliability.survival --ways fork pool_fork --backends cython --out /tmp/results

A process uses one backend on many threads, then takes the ways of tests/processes/ways.py. Numba is
there once for each of its threading layers. It takes 3 minutes on 2 cores.
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

_SECONDS = 1.0  # of CPU, for all calls of one backend in a forked child


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
    able = [name for name in given.backends if fx.backends()[name] is None]
    layers = [layer for layer in given.layers if layer != "tbb" or tbb_library() is not None]
    missing = [
        way for way in given.ways if way in NEEDS and importlib.util.find_spec(NEEDS[way]) is None
    ]
    ways = [way for way in given.ways if way not in missing]
    runs = [(None, name) for name in able if name != "numba"]
    runs += [(layer, "numba") for layer in layers if "numba" in able]
    rows: list[dict[str, Any]] = []
    with records.progress("survival", len(runs)) as advance:
        for layer, name in runs:
            advance(0, f"{name} {layer or ''}")
            rows += answers_of(layer, [name], ways)
            advance()
    _print(rows)
    absent = [f"backend {name}" for name in given.backends if name not in able]
    absent += [f"layer {layer}" for layer in given.layers if layer not in layers]
    absent += [f"way {way}: needs {NEEDS[way]}" for way in missing]
    for line in absent:
        print(f"not run: {line}")
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
        "not_run": absent,
    }
    for row in rows:
        figures["matrix"][row["way"]][_name(row)] = _state(row)
    passed = not faults and bool(rows)
    records.keep("survival", figures, passed, time.perf_counter() - start, faults, given.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
