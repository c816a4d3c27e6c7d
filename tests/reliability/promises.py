"""The promises, as they stand in promises/*.toml, and what was found about each."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PLACE", "Promise", "Run", "Section", "sections", "tests_of"]

PLACE = Path(__file__).parent / "promises"


@dataclass(frozen=True)
class Run:
    """A program that takes minutes, and what it leaves.

    Attributes
    ----------
    record : str
        Name under which it keeps its figures.
    command : tuple of str
        Arguments of Python, run from the root of the repository.
    minutes : float
        About how long it takes.
    wants : str
        What it needs that a machine may be unable to have, so that its record may be missing; empty
        where it has to be there.
    """

    record: str
    command: tuple[str, ...]
    minutes: float
    wants: str = ""


@dataclass(frozen=True)
class Promise:
    """A sentence, the tests that hold it, and a figure from a record.

    Attributes
    ----------
    tests : tuple of str
        Beginnings of pytest's names of tests.
    record : str
        Whose figures `figure` takes; empty for none.
    """

    text: str
    tests: tuple[str, ...] = ()
    record: str = ""
    figure: str = ""


@dataclass
class Section:
    """The promises of one kind, the programs behind them, and what could not be tested."""

    title: str
    runs: list[Run]
    promises: list[Promise]
    untested: list[str]


def _made(kind: type, table: dict[str, Any], where: Path) -> Any:
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    try:
        return kind(**table | lists)
    except TypeError as error:
        raise ValueError(f"{where.name}: {table}: {error}") from error


def sections(place: Path = PLACE) -> list[Section]:
    """Read all promises; files of the same section are joined in the order of their names."""
    found: dict[str, Section] = {}
    for path in sorted(place.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        section = found.setdefault(table["section"], Section(table["section"], [], [], []))
        section.runs += [_made(Run, run, path) for run in table.get("run", [])]
        section.promises += [_made(Promise, one, path) for one in table.get("promise", [])]
        section.untested += table.get("untested", [])
        for promise in section.promises:
            if not promise.tests and not promise.record:
                raise ValueError(f"{path.name}: no test and no record: {promise.text}")
    return list(found.values())


def tests_of(found: list[Section]) -> list[str]:
    """Name each test of all promises once, in order."""
    return list(dict.fromkeys(t for s in found for p in s.promises for t in p.tests))
