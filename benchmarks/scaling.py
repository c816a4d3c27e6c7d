"""Measure the loss over classes on 1 to 5 processes of this machine, and draw what follows.

usage: python benchmarks/scaling.py [--quick] [--force] [--draw-only]

Writes benchmarks/results/scaling.json, the tables of docs/scaling.md and docs/pictures/scaling.svg;
nothing where others were computing when it began, unless --force is given. --quick takes a
hundredth of the classes, only to see that everything runs, and writes nothing; --draw-only takes
the results that are there. Takes under four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from scaling_page import draw, tables

from fastxent.bench import machine
from fastxent.bench.markdown import replaced

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
PICTURE = ROOT / "docs" / "pictures" / "scaling.svg"
RANK = Path(__file__).with_name("scaling_rank.py")
ROWS, CLASSES, REPEATS = 1024, 128_256, 5
RANKS = (1, 2, 3, 4, 5)
LIMIT = 60  # seconds for the processes of one measurement


def of_torch(ranks: int, arguments: list[str]) -> str:
    """Start so many processes of torch.distributed; what rank 0 printed."""
    command = [sys.executable, str(RANK), "torch", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        shared = os.environ | {"SCALING_STORE": f"{folder}/store", "WORLD_SIZE": str(ranks)}
        children = [
            subprocess.Popen(
                command,
                env=shared | {"RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            outputs = [child.communicate(timeout=LIMIT) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
    failed = [
        errors for child, (_, errors) in zip(children, outputs, strict=True) if child.returncode
    ]
    if failed:
        raise RuntimeError(failed[0])
    return outputs[0][0]


def of_mpi(ranks: int, arguments: list[str]) -> str:
    """Start an MPI job; what rank 0 printed."""
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if launcher is None:
        raise FileNotFoundError("mpiexec is not installed")
    command = [launcher, "-n", str(ranks), sys.executable, str(RANK), "mpi", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout


ENGINES = {"torch.distributed, gloo": of_torch, "MPI": of_mpi}


def measured(rows: int, classes: int, console: Console) -> dict[str, Any]:
    """Measure every engine with every number of ranks."""
    found: dict[str, Any] = {
        "rows": rows,
        "classes": classes,
        "machine": machine.facts(),
        "engines": {},
        "missing": {},
    }
    arguments = [str(rows), str(classes), str(REPEATS)]
    for name, start in ENGINES.items():
        of_engine = {}
        try:
            for ranks in track(RANKS, f"{name}: 1 to {RANKS[-1]} ranks", console=console):
                of_engine[str(ranks)] = json.loads(start(ranks, arguments).splitlines()[-1])
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            found["missing"][name] = str(error).strip().splitlines()[-1]
            console.print(f"{name} is left out: {found['missing'][name]}", markup=False)
            continue
        found["engines"][name] = of_engine
    return found


def unfit(results: dict[str, Any]) -> list[str]:
    """Tell why these results are not to replace others; nothing where they may."""
    reasons = []
    if (results["rows"], results["classes"]) != (ROWS, CLASSES):
        reasons.append(f"{results['classes']:,} classes were taken, not {CLASSES:,}")
    if machine.is_busy(results["machine"]):
        load = results["machine"]["load_before"]
        reasons.append(f"the machine was BUSY: a load average of {load} when this began")
    return reasons


def main(arguments: list[str]) -> None:
    """Measure, keep it, and write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the classes")
    parser.add_argument("--draw-only", action="store_true", help="from the results that are there")
    parser.add_argument("--force", action="store_true", help="keep a BUSY run, too")
    asked = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    if asked.draw_only:
        results = json.loads(RESULTS.read_text())
    else:
        results = measured(ROWS, CLASSES // (100 if asked.quick else 1), console)
        if not results["engines"]:
            raise SystemExit("no engine could be measured")
        reasons = unfit(results)
        if reasons and (asked.quick or not asked.force):
            console.print(tables(results), markup=False)
            console.print(f"nothing is written: {'; '.join(reasons)}", markup=False)
            return
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(replaced(PAGE.read_text(), tables(results), "scaling"))
    draw(results, PICTURE)
    console.print("docs/scaling.md and docs/pictures/scaling.svg are written")


if __name__ == "__main__":
    main(sys.argv[1:])
