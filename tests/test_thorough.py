"""`fastxent check --thorough`, and the same bits on every way, of a part of the corpus.

tests/reliability/determinism.py looks at all of it, in fresh processes too.
"""

import re
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent import cli, determinism, selfcheck_thorough
from fastxent.backends import load
from fastxent.cases import Case
from fastxent.determinism import Sample, corpus, digest, ways
from fastxent.trials import Trial

SAMPLES = [
    Sample("loss", Case(300, 257, labels="ignored", **determinism.MANY), "float32"),
    Sample("loss", Case(3, 40_001, labels="ignored", logits="minus-inf"), "float32"),
    Sample("loss", Case(4_000, 10, labels="soft"), "float16"),
    Sample("softmax", Case(53, 7), "float64"),
    Sample("jacobian", Case((2, 300), 130, axis=1), "float32"),
    Sample("binary", Case(300, 257, weight="positive"), "float32"),
    Sample("linear", Case(300, 257, labels="ignored"), "float32"),
    Sample("shards", Case(3, 40_001, labels="ignored"), "float32"),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_every_way_gives_the_same_bits(sample, backend):
    found = list(ways(sample, backend, (1, 2, 5, 64), repetitions=1))
    assert [way for way, same in found if not same] == []
    assert len(found) >= 4
    if sample.function == "loss":
        assert {"the loss alone", "out=", "in place", "rows in another order"} <= {
            way for way, _ in found
        }


@pytest.mark.parametrize("sample", SAMPLES[:4], ids=str)
def test_avx2_and_avx512_give_the_same_bits(sample):
    levels = determinism.levels_of_equal_bits()
    if len(levels) < 2:
        pytest.skip(f"the compiled backend may use {levels or 'no level'} of v3 and v4 here")
    digests = set()
    for level in levels:
        with determinism.at_level(level):
            digests.add(digest(sample.outputs("cython")))
    assert len(digests) == 1


def test_a_level_is_given_back():
    if fx.backends()["cython"] is not None:
        pytest.skip(f"cython: {fx.backends()['cython']}")
    level = load("cython").info()["instruction level"]
    with determinism.at_level("baseline"):
        assert load("cython").info()["instruction level"] == "baseline"
    assert load("cython").info()["instruction level"] == level


def test_the_corpus_has_every_function_and_dtype():
    samples = corpus(["float16", "float64"])
    assert {sample.function for sample in samples} == {*determinism._CALLS}
    assert {sample.dtype for sample in samples} == {"float16", "float64"}
    assert len({*map(str, samples)}) == len(samples)
    assert samples == corpus(["float16", "float64"])


def test_one_bit_is_another_digest():
    results = {"loss": np.float32(1), "grad": np.array([[1.0, np.nan]])}
    other = {"loss": np.float32(1), "grad": np.array([[np.nextafter(1.0, 2.0), np.nan]])}
    payload = {"loss": np.float32(1), "grad": np.array([[1.0, -np.nan]])}
    assert digest(results) != digest(other)
    assert digest(results) == digest(payload)
    assert digest({"loss": np.float64(1)}) != digest({"loss": np.float32(1)})


@pytest.mark.parametrize("way", ["num_threads=2", "again", "in place"])
def test_other_bits_are_found(way, monkeypatch):
    right = fx.api.cross_entropy_and_grad

    def differs(logits, target, **options):
        loss, grad = right(logits, target, **options)
        is_way = {
            "num_threads=2": options.get("num_threads") == 2,
            "again": options.get("num_threads", 0) is None,
            "in place": options.get("out") is logits,
        }
        return (np.nextafter(loss, np.float32(np.inf)) if is_way[way] else loss), grad

    monkeypatch.setattr(fx.api, "cross_entropy_and_grad", differs)
    sample = Sample("loss", Case(9, 5, reduction="none"), "float32")
    found = ways(sample, "numpy", (1, 2), repetitions=1)
    assert {name for name, same in found if not same} == {way}


def test_results_that_depend_on_the_place_of_a_row_are_found(monkeypatch):
    right = fx.api.cross_entropy_and_grad

    def by_place(logits, target, **options):
        loss, grad = right(logits, target, **options)
        return loss * np.arange(1, len(loss) + 1, dtype=loss.dtype), grad

    monkeypatch.setattr(fx.api, "cross_entropy_and_grad", by_place)
    sample = Sample("loss", Case(9, 5, reduction="none"), "float32")
    wrong = {way for way, same in ways(sample, "numpy", (1, 2)) if not same}
    assert wrong == {"the loss alone", "rows in another order"}


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """Two calls of the corpus, and the same random call all the time."""

    def trial(rng, backends, dtypes):
        return Trial("loss", Case(5, 10), dtypes[0], backends[0])

    monkeypatch.setattr(selfcheck_thorough, "corpus", lambda dtypes: SAMPLES[-3:-1])
    monkeypatch.setattr(selfcheck_thorough, "drawn_trial", trial)


def test_it_prints_a_table(capsys):
    arguments = ["check", "--thorough", "2", "--backend", "cython", "numpy"]
    if fx.backends()["cython"] is not None:
        arguments.remove("cython")
    assert cli.main([*arguments, "--dtype", "float32", "float64"]) == 0
    first, headings, *lines = capsys.readouterr().out.splitlines()
    assert "random calls, and the same bits" in first
    assert headings.startswith("backend  random calls  wrong")
    for name, line in zip(arguments[4:], lines, strict=False):
        found = re.fullmatch(rf"{name} +([\d,]+) +0 +\d+% +([\d,]+) +0", line)
        assert found, line
        assert int(found[1].replace(",", "")) >= 1
        assert int(found[2].replace(",", "")) >= 3
    assert lines[-1] == "all passed"


@pytest.mark.parametrize("missing", [False, True])
def test_without_rich_it_is_the_same(missing, short, monkeypatch, capsys):
    if missing:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    else:
        pytest.importorskip("rich", reason="rich is not installed")
    assert cli.main(["check", "--thorough", "1", "--backend", "numpy"]) == 0
    assert "all passed" in capsys.readouterr().out


def test_a_wrong_result_is_found_and_can_be_made_again(short, monkeypatch, capsys):
    backend = load("numpy")
    forward = type(backend).forward

    def slightly_wrong(self, problem, out):
        forward(self, problem, out)
        if out.grad is not None:
            out.grad *= 1.001

    monkeypatch.setattr(type(backend), "forward", slightly_wrong)
    arguments = ["check", "--thorough", "1", "--backend", "numpy", "--dtype", "float32"]
    assert cli.main(arguments) == 1
    printed = capsys.readouterr().out
    assert re.search(r"FAILED Trial\(function='loss', case=Case\(", printed)
    assert re.search(r"gradient: error \S+ > tolerance", printed)
    assert re.search(r"\d+ failed", printed)


def test_a_backend_that_raises_fails(short, monkeypatch, capsys):
    def broken(self, problem, out):
        raise ZeroDivisionError("kernel fell over")

    monkeypatch.setattr(type(load("numpy")), "forward", broken)
    assert cli.main(["check", "--thorough", "1", "--backend", "numpy"]) == 1
    assert "raised ZeroDivisionError: kernel fell over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thorough", "--quick"], "not allowed with"),
        (["--thorough", "0"], "positive integer"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["check", *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_two_minutes_are_the_default(monkeypatch):
    asked = []
    monkeypatch.setattr(selfcheck_thorough, "run", lambda *given: asked.append(given[2]) or 0)
    assert cli.main(["check", "--thorough"]) == 0
    assert asked == [120]


# The program ----------------------------------------------------------------------------------


def test_the_program_looks_at_fresh_processes_and_keeps_a_record(tmp_path, monkeypatch):
    from reliability import determinism as program
    from reliability import records

    monkeypatch.setattr(program, "PROCESSES", {"numpy": {"a fresh process": ({}, 1)}})
    arguments = ["--child", "--backend", "numpy", "--dtype", "float32", "--threads", "1", "2"]
    assert program.main([*arguments, "--every", "40", "--out", str(tmp_path)]) == 0
    record = records.load("determinism", tmp_path)
    assert record["passed"]
    assert record["figures"]["mismatches"] == 0
    assert record["figures"]["cases"] >= 4 * record["figures"]["calls"]


def test_the_program_of_levels_runs_tests_on_each(tmp_path):
    from reliability import levels, records

    if not levels.levels_here():
        pytest.skip(f"cython: {fx.backends()['cython']}")
    test = "tests/test_levels.py::test_floating_point_mode_is_left_alone"
    arguments = ["--level", "baseline", "--tests", test, "--processes", "1"]
    assert levels.main([*arguments, "--out", str(tmp_path)]) == 0
    record = records.load("levels", tmp_path)
    assert record["figures"]["levels"].startswith(
        "baseline: 1 passed, 0 skipped, 0 failed (commit "
    )
    # figures of a level that was not asked for stay, and so does what was wrong there
    figures = record["figures"]
    figures["counts"] = {"v3": {"passed": 2, "seconds": 100, "commit": "0123456789"}}
    records.keep("levels", figures, False, 100, ["v3: pytest died"], tmp_path)
    assert levels.main([*arguments, "--out", str(tmp_path)]) == 1
    record = records.load("levels", tmp_path)
    assert record["faults"] == ["v3: pytest died"]
    assert set(record["figures"]["counts"]) == {"v3", "baseline"}
    assert 100 < record["seconds"] < 1000


def test_the_program_of_levels_fails_where_there_are_none(tmp_path, monkeypatch):
    from reliability import levels, records

    monkeypatch.setattr(levels, "levels_here", list)
    assert levels.main(["--out", str(tmp_path)]) == 1
    assert not records.load("levels", tmp_path)["passed"]


def test_counts_are_those_of_the_last_line_of_pytest():
    from reliability import levels

    output = "1 error in the text\n\n= 2 failed, 10 passed, 3 skipped in 61.02s (0:01:01) =\n"
    assert levels.counts_of(output) == {"failed": 2, "passed": 10, "skipped": 3}
    assert levels.counts_of("no tests at all") == {}
