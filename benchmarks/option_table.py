"""The table of options, ours beside those of others, from docs/options.toml.

usage: python benchmarks/option_table.py

Writes docs/options.md, and the part of README.md between its markers.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastxent.bench.markdown import replaced
from fastxent.bench.tables import table

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "options.toml"
MARKER = "options"
SHOWN = {"yes": "yes", "part": "part", "no": "-", "unknown": "?"}
LEGEND = "*part*: see the notes; *-*: not there; *?*: not known."


@dataclass(frozen=True)
class Option:
    """One line of the table.

    Attributes
    ----------
    name : str
    key : str
        What the tests call it.
    marks : tuple of str
        One of `SHOWN` for each system.
    notes : dict of str to str
        By the system.
    """

    name: str
    key: str
    marks: tuple[str, ...]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """The file: names of the systems, what was read of each, and the options."""

    systems: dict[str, str]
    options: tuple[Option, ...]

    @classmethod
    def load(cls, path: Path = DATA) -> Options:
        """Read the file."""
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return cls(
            {system["name"]: system["read"] for system in found["systems"]},
            tuple(Option(**one | {"marks": tuple(one["marks"])}) for one in found["options"]),
        )

    def faults(self) -> list[str]:
        """Tell what is wrong with the file: marks missing or unknown, parts without a note."""
        faults = []
        for option in self.options:
            if len(option.marks) != len(self.systems):
                faults.append(f"{option.name}: {len(option.marks)} marks")
            faults += [f"{option.name}: {mark}" for mark in option.marks if mark not in SHOWN]
            faults += [f"{option.name}: {one}" for one in option.notes if one not in self.systems]
            for system, mark in zip(self.systems, option.marks, strict=False):
                if mark == "part" and system not in option.notes:
                    faults.append(f"{option.name}: no note on {system}")
        return faults

    def as_table(self) -> str:
        """Make the table, one option a line."""
        rows = ([option.name, *(SHOWN[mark] for mark in option.marks)] for option in self.options)
        return table(["", *self.systems], rows)


def readme_section(options: Options) -> str:
    """Write what stands between the markers of the README."""
    return f"{options.as_table()}\n\n{LEGEND} [Notes, and what was read](docs/options.md)."


def page(options: Options) -> str:
    """Write docs/options.md."""
    notes = "\n".join(
        f"- {option.name}: "
        + "; ".join(f"{system}: {note}" for system, note in option.notes.items())
        + "."
        for option in options.options
        if option.notes
    )
    read = "\n".join(f"- **{name}**: {what}." for name, what in options.systems.items())
    return f"""\
# Options, here and elsewhere

Written by `make bench-report` from options.toml. An option counts if the loss itself takes it: what
one can compute around any loss does not. {LEGEND}

{options.as_table()}

## Notes

{notes}

## What was read

{read}

Our own column is tried, mark by mark, by tests/test_bench_options.py.
"""


def write(root: Path = ROOT) -> None:
    """Write the page and the part of the README."""
    options = Options.load()
    readme = root / "README.md"
    readme.write_text(replaced(readme.read_text(), readme_section(options), MARKER))
    (root / "docs" / "options.md").write_text(page(options))


if __name__ == "__main__":
    write()
