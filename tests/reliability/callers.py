"""Many Python threads at once, for many rounds, on each backend and Numba's threading layers.

    python -m reliability.callers
    python -m reliability.callers --rounds 5 --layers workqueue --warm --out /tmp/results

Each run is a process in which 32 threads begin to call before anything is loaded. On each layer of
Numba one run finds no compiled kernel at all (leave it out with --warm); then come backends alone
and all together. It takes 5 minutes on 2 cores. Where a backend or a layer is not here it runs
nothing, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processes.answers import LAYERS, tbb_library
from processes.runs import environment, run

import fastxent as fx
from reliability import records

__all__ = ["main"]

_CPU = ("cython", "numba", "numpy")
_LACKING = 2  # exit code of a program that needs what is not here


class Run(NamedTuple):
    """One process."""

    backends: tuple[str, ...]
    layer: str | None
    cold: bool

    def name(self) -> str:
        """For a person."""
        layer = f" ({self.layer}{', nothing compiled' if self.cold else ''})" if self.layer else ""
        return " and ".join(self.backends) + layer


def _runs(layers: Sequence[str], warm: bool) -> list[Run]:
    runs = [Run((name,), None, False) for name in _CPU if name != "numba"]
    for layer in layers:
        runs += [] if warm else [Run(("numba",), layer, True)]
        runs += [Run(("numba",), layer, False), Run(_CPU, layer, False)]
    return runs


def _run(one: Run, threads: int, rounds: int, directory: str) -> tuple[dict[str, Any], str]:
    command = ["-m", "processes.callers", "--backends", *one.backends]
    command += ["--threads", str(threads), "--rounds", str(2 if one.cold else rounds)]
    if one.layer is not None:
        command += ["--layer", one.layer]
    variables = environment(one.layer)
    if one.cold:
        variables["FASTXENT_CACHE_DIR"] = directory
    out, fault = run(command, variables, 600)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return (lines[-1] if lines else {}), fault


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print what failed and keep the figures."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--warm", action="store_true", help="no run without compiled kernels")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="directory of the record")
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    lacking = [f"backend {name}: {fx.backends()[name]}" for name in _CPU if fx.backends()[name]]
    if "tbb" in given.layers and tbb_library() is None:
        lacking.append("layer tbb: pip install tbb, or name other --layers")
    if lacking:
        print("not run, for want of", *lacking, sep="\n")
        return _LACKING
    runs, faults, calls = _runs(given.layers, given.warm), [], 0
    with records.progress("callers", len(runs)) as advance:
        for one in runs:
            advance(0, one.name())
            with tempfile.TemporaryDirectory() as directory:
                found, fault = _run(one, given.threads, given.rounds, directory)
            calls += found.get("calls", 0)
            if fault or found["errors"] or found["callers_with_wrong_bits"]:
                faults.append(f"{one.name()}: {found} {fault}")
            advance()
    for line in faults:
        print(line)
    print(f"{calls} calls in {len(runs)} processes, {len(faults)} with faults")
    figures = {
        "threads": given.threads,
        "calls": calls,
        "processes": len(runs),
        "nothing_compiled": sum(one.cold for one in runs),
        "layers": list(given.layers),
        "layer_count": len(given.layers),
    }
    passed = not faults
    records.keep("callers", figures, passed, time.perf_counter() - start, faults, given.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
