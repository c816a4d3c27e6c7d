"""Make the tables and pictures from the results, and the results from a run.

usage: python benchmarks/report.py [RAW]

RAW is the JSON file that pytest-benchmark wrote; its results replace those of
benchmarks/results/latest.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastxent.bench import markdown, pictures
from fastxent.bench.aims import aims
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LATEST, LARGE = RESULTS / "latest.json", RESULTS / "large.json"


def collect(raw: Path) -> Document:
    """Take what the benchmarks left in their `extra_info`."""
    document = Document()
    for benchmark in json.loads(raw.read_text())["benchmarks"]:
        extra = benchmark["extra_info"]
        document.machine = extra.get("machine", document.machine)
        if "measurement" in extra:
            document.measurements.append(Measurement.from_dict(extra["measurement"]))
        for name in ("latency", "memory", "startup"):
            getattr(document, name).update(extra.get(name, {}))
    return document


def write(document: Document) -> None:
    """Write every table and picture of the repository that comes from results."""
    readme = ROOT / "README.md"
    readme.write_text(markdown.replaced(readme.read_text(), markdown.readme_section(document)))
    (ROOT / "docs" / "benchmark-results.md").write_text(markdown.results_page(document))
    pictures.draw_all(document, ROOT / "docs" / "pictures")


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


def main(raw: Path | None = None) -> None:
    """Run."""
    if raw is not None:
        collect(raw).save(LATEST)
    document = Document.load(LATEST)
    if LARGE.exists():
        document.large = json.loads(LARGE.read_text())
    write(document)
    show_aims(document)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
