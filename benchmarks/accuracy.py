"""Measure the errors of exp, loss and gradient, and write docs/accuracy.md.

usage: python benchmarks/accuracy.py [--every-float BACKEND]... [--check]

Every backend of fastxent, PyTorch and JAX on the same inputs, against long double. About two
minutes; --every-float takes about one more for each backend.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import accuracy_exponential as exponential
import accuracy_page as page
import accuracy_rows as rows
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import fastxent as fx
from fastxent.backends import load

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
OTHERS = {
    "torch": (exponential.of_torch, rows.of_torch),
    "jax": (exponential.of_jax, rows.of_jax),
}
PACKAGES = ("fastxent", "numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "mpmath")
Made = TypeVar("Made")


def options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--every-float",
        action="append",
        default=[],
        choices=page.OURS,
        metavar="BACKEND",
        help="try all 2,139,095,041 float32 from -inf to -0.0 on this backend; can be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything")
    parser.add_argument("--check", action="store_true", help="exit 1 if an aim is missed")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (default: %(default)s)")
    return parser.parse_args(arguments)


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    for name, fact in (("cython", "instruction level"), ("numba", "CPU")):
        if fx.backends()[name] is None:
            found[f"backend {name}, {fact}"] = load(name).info()[fact]
    return found


def _made(make: Callable[[], Made]) -> tuple[Made | None, str]:
    try:
        return make(), ""
    except ImportError as error:
        return None, str(error)


def measure(asked: argparse.Namespace, command: str, progress: Progress) -> page.Measured:
    """Run everything."""
    scale = 20 if asked.quick else 1
    seeds = 1 if asked.quick else 3
    missing = {name: why for name, why in fx.backends().items() if why is not None}
    judge, why = _made(exponential.error_of_long_double)
    trust = (
        f"long double was not held against mpmath: {why}."
        if judge is None
        else f"Its exp is within {judge:.4f} ULP of float64 of mpmath's, at "
        f"{exponential.JUDGED_BY_MPMATH} points."
    )
    measured = page.Measured(command, versions(), missing, seeds, trust)

    exponentials: dict[str, exponential.Exponential] = {}
    implementations: dict[str, rows.Implementation] = {}
    for name in page.OURS:
        if name not in missing:
            exponentials[name] = exponential.of_backend(name)
            implementations[name] = rows.of_backend(name)
    for name, (of_exponential, of_rows) in OTHERS.items():
        one, why = _made(of_exponential)
        other, _ = _made(of_rows)
        if one is None or other is None:
            missing[name] = why
        else:
            exponentials[name], implementations[name] = one, other

    for name, function in exponentials.items():
        step = 1 if name in asked.every_float else exponential.SAMPLED * scale
        ours = name in page.OURS
        task = progress.add_task(f"exp, {name}", total=exponential.LAST // step // 2)

        def advance(points: int, task: int = task) -> None:
            progress.advance(task, points)

        for dtype, run, size in (
            ("float32", exponential.measure_float32, step),
            ("float64", exponential.measure_float64, scale),
        ):
            ends = exponential.exact_ends(name, dtype) if ours else True
            measured.exponentials.append(run(name, function, ends, size, advance))
        progress.update(task, total=1, completed=1)

    batches = list(rows.batches())
    task = progress.add_task("loss and gradient", total=len(batches) * seeds)
    for batch in batches:
        for seed in range(seeds):
            logits, target = rows.inputs(batch, seed, rows.ELEMENTS // scale)
            exact = rows.truth(logits, target)
            for name, implementation in implementations.items():
                errors = rows.errors(implementation(logits, target), exact)
                before = measured.errors.get((name, batch), rows.Errors())
                measured.errors[name, batch] = before.or_worse(errors)
            progress.advance(task)
    return measured


def main(arguments: list[str]) -> int:
    """Measure, write the page, and name the aims that are missed."""
    asked = options(arguments)
    if np.finfo(np.longdouble).nmant < 63:
        print("long double has no more digits than float64 here: nothing could judge float64")
        return 2
    command = shlex.join(["python", "benchmarks/accuracy.py", *arguments])
    console = Console(highlight=False)
    columns = (TextColumn("{task.description:18}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        measured = measure(asked, command, progress)
    asked.out.write_text(page.write(measured), encoding="utf-8")
    console.print(f"written: {asked.out}", soft_wrap=True)
    misses = measured.misses()
    for miss in misses:
        console.print(f"[bold red]missed[/]: {miss}", soft_wrap=True)
    if not misses:
        console.print("every aim is met")
    return 1 if asked.check and misses else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
