"""Make the tables and pictures from the results, and the results from a run.

usage: python benchmarks/report.py [RAW] [--force]

RAW is the JSON file that pytest-benchmark wrote; its results replace those of
benchmarks/results/latest.json, unless the run was a short one or others were computing when it
began. --force, or FORCE=1 in the environment, replaces them all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import option_table
from rich.console import Console
from rich.table import Table

from fastxent.bench import markdown, pictures
from fastxent.bench.aims import aims
from fastxent.bench.contest import Contest
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement

ROOT = Path(__file__).parent.parent
LATEST = ROOT / "benchmarks" / "results" / "latest.json"


def collect(raw: Path) -> Document:
    """Take what the benchmarks left in their `extra_info`."""
    document = Document()
    for benchmark in json.loads(raw.read_text())["benchmarks"]:
        extra = benchmark["extra_info"]
        document.machine = extra.get("machine", document.machine)
        document.seconds = extra.get("seconds", document.seconds)
        if "measurement" in extra:
            document.measurements.append(Measurement.from_dict(extra["measurement"]))
        document.contests += [Contest.from_dict(one) for one in extra.get("contests", [])]
        for name in ("latency", "memory", "startup", "instructions"):
            getattr(document, name).update(extra.get(name, {}))
    return document


def write(document: Document, root: Path = ROOT) -> None:
    """Write every table and picture of the repository that comes from results."""
    readme = root / "README.md"
    readme.write_text(markdown.replaced(readme.read_text(), markdown.readme_section(document)))
    (root / "docs" / "benchmark-results.md").write_text(markdown.results_page(document))
    pictures.draw_all(document, root / "docs" / "pictures")
    option_table.write(root)


def show_aims(document: Document) -> None:
    """Print what was asked and what was measured."""
    table = Table(title="aims")
    for heading in ("aim", "backend", "asked", "measured", ""):
        table.add_column(heading)
    for aim in aims(document):
        style = {"pass": "green", "miss": "bold red"}.get(aim.verdict)
        cells = (aim.title, aim.backend, aim.asked_text, aim.measured_text, aim.verdict)
        table.add_row(*cells, style=style)
    Console().print(table)


def main(arguments: list[str]) -> None:
    """Keep a run, if there is one and it is fit to be kept; write everything anew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", nargs="?", type=Path, help="what pytest-benchmark wrote")
    parser.add_argument("--force", action="store_true", help="keep a short or BUSY run, too")
    asked = parser.parse_args(arguments)
    document = Document.load(LATEST) if LATEST.exists() else Document()
    if asked.raw is not None:
        large = document.large  # has a run of its own: `make bench-large`
        document = collect(asked.raw)
        document.large = large
        unfit = document.unfit()
        if unfit and not asked.force and os.environ.get("FORCE", "0") in ("", "0"):
            show_aims(document)
            print(f"Not kept, and no page written: {'; '.join(unfit)}.")
            print(f"To keep it all the same: python benchmarks/report.py {asked.raw} --force")
            return
        document.save(LATEST)
    write(document)
    show_aims(document)


if __name__ == "__main__":
    main(sys.argv[1:])
