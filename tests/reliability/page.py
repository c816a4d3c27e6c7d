"""docs/reliability.md: each promise with its tests and its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reliability.promises import Promise, Section

__all__ = ["TESTS", "figure_of", "text"]

# The record of the test run: for each name of a promise, how many cases passed, failed, skipped.
TESTS = "tests"

Records = Mapping[str, Mapping[str, Any]]

HEAD = """\
# Reliability

What fastxent promises beyond right numbers, with the tests that hold each promise and what they
found. `make reliability` runs everything, for some {minutes:.0f} minutes, and writes this page;
what has not run yet says so. `make test` runs the tests but for those marked slow, and none of the
programs that take minutes. What could not be tested is named at the end.
"""


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _cases(promise: Promise, records: Records) -> str:
    """How many cases of its tests passed, and which did not."""
    tests = records.get(TESTS, {}).get("figures", {})
    found = [tests[name] for name in promise.tests if name in tests]
    if len(found) < len(promise.tests):
        return "not run"
    total = {kind: sum(one[kind] for one in found) for kind in ("passed", "failed", "skipped")}
    words = [f"{_count(total['passed'], 'case')} passed"]
    words += [f"**{total['failed']:,} failed**"] if total["failed"] else []
    words += [f"{total['skipped']:,} skipped"] if total["skipped"] else []
    return ", ".join(words)


def figure_of(promise: Promise, records: Records) -> str:
    """Say in one cell what was found about a promise."""
    words = [_cases(promise, records)] if promise.tests else []
    record = records.get(promise.record)
    if promise.record and record is None:
        words.append("not run")
    elif record is not None:
        try:
            figure = promise.figure.format_map(dict(record["figures"]))
        except KeyError:  # the program was asked for other parts only
            figure = "not run"
        words.append(figure if record["passed"] else f"**broken**: {figure}")
    return "; ".join(word for word in words if word)


def _tests_cell(promise: Promise) -> str:
    files = dict.fromkeys(name.partition("::")[0] for name in promise.tests)
    return "<br>".join(f"[{name.rpartition('/')[2]}](../{name})" for name in files) or "-"


def _section(section: Section, records: Records) -> list[str]:
    lines = [f"## {section.title}", "", "| promise | tests | found |", "| --- | --- | --- |"]
    for promise in section.promises:
        cells = (promise.text, _tests_cell(promise), figure_of(promise, records))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _headlines(sections: Sequence[Section], records: Records) -> list[str]:
    tests = records.get(TESTS, {}).get("figures", {})
    promises = [promise for section in sections for promise in section.promises]
    passed = sum(one["passed"] for one in tests.values())
    seconds = sum(record["seconds"] for record in records.values())
    lines = [
        f"{len(promises)} promises",
        f"{_count(passed, 'case')} of tests passed"
        if tests
        else "the tests were not run for this page",
        f"{seconds / 3600:.1f} hours of runs in all",
    ]
    return [*(f"- {line}" for line in lines), ""]


def _when(record: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (record["date"], record.get("commit"))))


def _runs(sections: Sequence[Section], records: Records) -> list[str]:
    lines = [
        *("## When and where", "", "The programs behind the figures, each by itself:", ""),
        *("| program | minutes | on, of commit |", "| --- | ---: | --- |"),
    ]
    machines: dict[str, str] = {}
    for run in (run for section in sections for run in section.runs):
        record = records.get(run.record)
        command = f"`PYTHONPATH=tests python {' '.join(run.command)}`"
        if record is None:
            lines.append(f"| {command} | {run.minutes:g} | not run |")
            continue
        mark = machines.setdefault(record["machine"], chr(ord("A") + len(machines)))
        minutes = max(0.1, record["seconds"] / 60)
        lines.append(f"| {command} | {minutes:.1f} | {_when(record)}, {mark} |")
    if TESTS in records:
        record = records[TESTS]
        mark = machines.setdefault(record["machine"], chr(ord("A") + len(machines)))
        minutes = record["seconds"] / 60
        lines.append(f"| slow tests of it | {minutes:.1f} | {_when(record)}, {mark} |")
    return [*lines, "", *(f"- {mark}: {machine}" for machine, mark in machines.items()), ""]


def text(sections: Sequence[Section], records: Records) -> str:
    """Write the page."""
    minutes = sum(run.minutes for section in sections for run in section.runs)
    lines = [HEAD.format(minutes=minutes), *_headlines(sections, records)]
    for section in sections:
        lines += _section(section, records)
    lines += ["## Not tested", ""]
    lines += [f"- {one}" for section in sections for one in section.untested]
    lines += ["", *_runs(sections, records)]
    return "\n".join(lines).rstrip() + "\n"
