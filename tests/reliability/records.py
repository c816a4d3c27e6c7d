"""What a program of this folder found, kept as JSON for docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from fastxent.bench import machine

__all__ = ["RESULTS", "Advance", "commit", "keep", "load", "progress"]

RESULTS = Path(__file__).parent / "results"


class Advance:
    """Tell a progress bar that something is done."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: float = 1, description: str | None = None) -> None:
        """Add to what is done; say what is being done now."""
        if description is not None:
            self._bar.update(self._task, description=description)
        self._bar.advance(self._task, done)


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Advance]:
    """Show a bar on stderr while something of `total` parts is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Advance(bar, bar.add_task(description, total=total))


def keep(
    name: str,
    figures: dict[str, Any],
    passed: bool,
    seconds: float,
    faults: Sequence[str] = (),
    out: Path = RESULTS,
) -> Path:
    """Write what a program found.

    Parameters
    ----------
    name : str
        Of the record: the name of the file.
    figures : dict
        Numbers and words that the sentences of `promises/*.toml` take.
    passed : bool
        Whether the promise was kept.
    seconds : float
        How long it took.
    faults : sequence of str
        What was wrong.
    out : Path
        Directory of the file; by default the one of the page.

    Returns
    -------
    Path
        The file.
    """
    # these are counts, not times: how busy the machine was changes none of them
    where = machine.facts() | {"load_before": 0.0}
    record = {
        "record": name,
        "passed": passed,
        "figures": figures,
        "faults": list(faults),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine.summary(where),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """Which version of the source this is; nothing where it is no repository."""
    with suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()
    return ""


def load(name: str, where: Path = RESULTS) -> dict[str, Any] | None:
    """Give what was kept under this name; None where nothing was."""
    path = where / f"{name}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
