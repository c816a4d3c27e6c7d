"""The page of promises: every test and program that it names is there, and it is up to date."""

import ast
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("rich")

from reliability import page, run, suite
from reliability.promises import Promise, Run, Section, sections

ROOT = Path(__file__).parents[1]
in_source_tree = pytest.mark.skipif(
    not run.PAGE.exists(), reason="docs/ is not beside tests/: not a source tree"
)
FOUND = sections()
PROMISES = [promise for section in FOUND for promise in section.promises]


def functions_of(path):
    """Names of the tests in a file, those in classes with the class before them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}::{f.name}" for f in node.body if hasattr(f, "name"))


@pytest.mark.parametrize("name", sorted({name for promise in PROMISES for name in promise.tests}))
def test_tests_of_the_promises_exist(name):
    file, _, function = name.partition("::")
    assert (ROOT / file).exists()
    if function:
        assert function.partition("[")[0] in set(functions_of(ROOT / file))


@pytest.mark.parametrize("name", [run.record for section in FOUND for run in section.runs])
def test_programs_exist_and_kept_the_promise(name):
    (one,) = [r for section in FOUND for r in section.runs if r.record == name]
    assert one.command[0] == "-m"
    assert importlib.util.find_spec(one.command[1]) is not None
    record = run.kept(FOUND).get(name)
    if record is None:
        if not run.PAGE.exists():
            pytest.skip("no page where the source tree is absent")
        assert one.wants, "its record is not in results/"
    else:
        assert record["passed"]
        assert not record["faults"]


def test_every_record_has_its_program():
    runs = {run.record for section in FOUND for run in section.runs}
    assert {promise.record for promise in PROMISES} - {""} <= runs


@in_source_tree
def test_page_is_that_of_the_records():
    assert run.PAGE.read_text(encoding="utf-8") == page.text(FOUND, run.kept(FOUND))


def test_what_is_broken_or_was_not_run_is_said():
    promise = Promise("p", ("tests/test_a.py",), "soak", "{calls:,} calls")
    assert page.figure_of(promise, {}) == "not run; not run"
    part = {"soak": {"figures": {"minutes": 3}, "passed": True}}
    assert page.figure_of(promise, part) == "not run; not run"
    counts = {"tests/test_a.py": {"passed": 1, "failed": 2, "skipped": 0}}
    records = {
        "tests": {"figures": counts, "seconds": 6, "date": "2026-01-01", "machine": "m"},
        "soak": {
            "figures": {"calls": 12345},
            "passed": False,
            "seconds": 60,
            "date": "2026-01-02",
            "machine": "m",
        },
    }
    figure = page.figure_of(promise, records)
    assert figure == "1 case passed, **2 failed**; **broken**: 12,345 calls"
    section = Section("S", [Run("soak", ("-m", "x"), 2)], [promise], ["no arm64"])
    text = page.text([section], records)
    assert "no arm64" in text
    assert "| `PYTHONPATH=tests python -m x` | 1.0 | 2026-01-02, A |" in text
    assert "- A: m" in text


@pytest.mark.parametrize(
    ("case", "name", "is_it"),
    [
        ("tests/a/test_b.py::test_c[1]", "tests/a", True),
        ("tests/a/test_b.py::test_c[1]", "tests/a/test_b.py::test_c", True),
        ("tests/a/test_b.py::test_cd", "tests/a/test_b.py::test_c", False),
        ("tests/ab/test_b.py::test_c", "tests/a", False),
    ],
)
def test_which_cases_belong_to_a_name(case, name, is_it):
    assert suite.is_of(case, name) is is_it


def test_cases_are_counted_once_with_their_worst_outcome():
    class Report:
        def __init__(self, nodeid, when, outcome):
            self.nodeid, self.when, self.outcome, self.duration = nodeid, when, outcome, 0.5

    tally = suite.Tally(["tests/test_a.py", "tests/test_a.py::test_b"])
    for when, outcome in (("setup", "passed"), ("call", "passed"), ("teardown", "failed")):
        tally.pytest_runtest_logreport(Report("tests/test_a.py::test_b[0]", when, outcome))
    for when, outcome in (("setup", "skipped"), ("teardown", "passed")):
        tally.pytest_runtest_logreport(Report("tests/test_a.py::test_c", when, outcome))
    assert tally.counts["tests/test_a.py"] == {"passed": 0, "failed": 1, "skipped": 1}
    assert tally.counts["tests/test_a.py::test_b"] == {"passed": 0, "failed": 1, "skipped": 0}
    assert tally.faults == ["tests/test_a.py::test_b[0]"]
    assert tally.seconds == {"tests/test_a.py": 2.5}


@pytest.mark.parametrize(("code", "says"), [(0, ""), (1, "broken: soak"), (2, "not run: soak")])
def test_what_cannot_be_run_is_not_called_broken(code, says, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "run_program", lambda program, console: code)
    assert run.main(["--only", "soak"]) == code
    assert says in capsys.readouterr().err
