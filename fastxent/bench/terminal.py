"""`fastxent bench`: one shape on this machine, with a progress bar and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fastxent.bench import ceilings, machine
from fastxent.bench.measure import Measurement, measure
from fastxent.bench.peers import others, own
from fastxent.bench.summary import copy_share, lower_ceiling, peer_ratio, share, shown
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import Workload

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["QUICK", "THOROUGH", "run"]

THOROUGH = Plan(seconds=0.8, fewest=7, most=61)
QUICK = Plan(seconds=0.05, fewest=3, most=5)


def run(workload: Workload, quick: bool, save: Path | None) -> int:
    """Measure one workload and print what came of it.

    Parameters
    ----------
    workload : Workload
        Its threads are the CPUs that this process keeps.
    quick : bool
        A few rounds only: does everything run?
    save : Path, optional
        Where the numbers go as JSON.

    Returns
    -------
    int
        0, or 1 if a result was wrong.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    machine.pin(workload.threads)
    facts = machine.facts()
    console = Console(highlight=False)
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        measurement = measure(
            workload,
            own() + others(),
            QUICK if quick else THOROUGH,
            lambda doing, share: bar.update(task, description=doing, completed=share),
        )
    console.print(machine.summary(facts), soft_wrap=True, markup=False)
    _show(console, measurement)
    if save is not None:
        document = {"machine": facts, "measurement": measurement.as_dict()}
        save.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if measurement.wrong else 0


def _show(console: Console, measurement: Measurement) -> None:
    workload = measurement.workload
    console.print(f"{workload}: loss and gradient", soft_wrap=True)
    console.print(table(measurement))
    ceiling = lower_ceiling(measurement)
    if ceiling is not None:
        console.print(
            f"lower ceiling: {ceiling.name}, {1e3 * ceiling.seconds:.3f} ms; GB/s counts "
            f"{workload.counted_bytes // workload.bytes_of_logits} arrays of the logits' size; "
            "spread: from the lower to the upper quartile",
            soft_wrap=True,
        )
    for name, reason in measurement.skipped.items():
        style = "bold red" if name in measurement.wrong else "yellow"
        console.print(f"[{style}]not timed[/]: {name}: ", end="")
        console.print(reason, markup=False, soft_wrap=True)


def table(measurement: Measurement) -> Table:
    """Make the table of one workload, fastest first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(box=SIMPLE_HEAD)
    result.add_column("implementation", no_wrap=True)
    for heading in ("ms", "spread", "GB/s", "of\ncopy", "of\nceiling", "fastest\npeer\n/ this"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, timing in sorted(measurement.timings.items(), key=lambda item: item[1].median):
        ratio = peer_ratio(measurement, name)
        result.add_row(
            shown(name),
            f"{1e3 * timing.median:.3f}",
            f"{(timing.upper - timing.lower) / timing.median:.0%}",
            f"{measurement.workload.counted_bytes / timing.median / 1e9:.1f}",
            _share(copy_share(measurement, name)),
            _share(share(measurement, name)),
            "" if ratio is None or ceilings.is_copy(name) else f"{ratio:.1f}",
        )
    return result


def _share(number: float | None) -> str:
    return "" if number is None else f"{number:.0%}"
