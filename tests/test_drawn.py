"""Random calls of every function, drawn from a seed, against the reference; and what draws them.

tests/reliability/differential.py makes more than 100,000 of them.
"""

import os
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import Case
from fastxent.cases.drawn import LOGITS, drawn
from fastxent.cases.recipe import ROWS_WITHOUT_SOFTMAX
from fastxent.trials import FUNCTIONS, Trial, drawn_trial

ROOT = Path(__file__).parent.parent
DTYPES = [name for name in ("float16", "bfloat16", "float32", "float64")
          if Case(5, 10).why_not(name) is None]  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_random_calls_are_those_of_the_reference(seed, backend):
    for number in range(25):
        trial = drawn_trial(np.random.default_rng([seed, number]), [backend], DTYPES)
        result = trial.run()
        assert result.passed, f"{trial!r}\n  {result.explain()}"


def test_a_seed_always_gives_the_same_trials():
    trials = [
        [drawn_trial(np.random.default_rng([3, i]), ["numpy"], DTYPES) for i in range(20)]
        for _ in range(2)
    ]
    assert trials[0] == trials[1]
    assert len({repr(trial) for trial in trials[0]}) == 20


def test_the_text_of_a_trial_makes_it_again():
    for number in range(50):
        trial = drawn_trial(np.random.default_rng(number), ["numpy"], DTYPES)
        assert eval(repr(trial), {"Trial": Trial, "Case": Case}) == trial


def test_every_option_is_drawn_at_its_default_and_otherwise():
    cases = [drawn(np.random.default_rng(number)) for number in range(1500)]
    for field in fields(Case)[2:]:
        values = Counter(repr(getattr(case, field.name)) for case in cases)
        assert len(values) > 1, field.name
        if field.name not in ("seed", "label_dtype"):
            assert values[repr(field.default)] > 100, field.name
    assert {case.logits for case in cases} == {*LOGITS}
    assert all(case.legal for case in cases)
    drawn_functions = {
        drawn_trial(np.random.default_rng(number), ["numpy"], DTYPES).function
        for number in range(200)
    }
    assert drawn_functions == {*FUNCTIONS}


def test_nans_of_a_case_have_bits_of_their_own():
    for dtype, bits in (("float16", "u2"), ("float32", "u4"), ("float64", "u8")):
        logits, _, _ = Case(400, 3, logits="nan-payloads").arguments(dtype)
        found = {*logits[np.isnan(logits)].view(bits).tolist()}
        assert len(found) == 12
        quiet = 1 << (np.finfo(dtype).nmant - 1)
        assert {bool(one & quiet) for one in found} == {True, False}
        assert {one >> (8 * logits.itemsize - 1) for one in found} == {0, 1}


def test_kinds_of_logits_are_what_they_are_called():
    with np.errstate(invalid="ignore"):  # signalling NaN
        kind = {
            name: Case(60, 30, logits=name).arguments(np.float32)[0].astype(np.float64)
            for name in LOGITS
        }
    largest = kind["ties"].max(axis=1, keepdims=True)
    assert np.mean((kind["ties"] == largest).sum(axis=1) > 1) > 0.9
    assert (np.abs(kind["subnormal"]) < 2.0**-126).mean() > 0.5
    assert (kind["far-above-zero"] > 709).all()
    for name in ROWS_WITHOUT_SOFTMAX:
        assert np.isfinite(kind[name][3::4]).all()
        assert not np.isfinite(kind[name][:3]).all(axis=1).any()


# What a trial finds ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_wrong_result_is_found(function, monkeypatch):
    names = {
        "loss": "cross_entropy_and_grad",
        "softmax": "softmax",
        "jacobian": "softmax_backward",
        "binary": "binary_cross_entropy_with_logits_and_grad",
        "linear": "linear_cross_entropy_and_grad",
        "shards": "loss_from_stats",
    }
    trial = Trial(function, Case(7, 12), "float32", "numpy")
    assert trial.run().passed
    right = getattr(fx.api, names[function])

    def slightly_wrong(*arguments, **options):
        results = right(*arguments, **options)
        if isinstance(results, tuple):
            return (results[0] * np.float32(1.0001), *results[1:])
        return results * np.float32(1.0001)

    monkeypatch.setattr(fx.api, names[function], slightly_wrong)
    assert not trial.run().passed


def test_what_a_call_raises_is_a_fault(monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("fell over")

    monkeypatch.setattr(fx.api, "softmax_backward", broken)
    result = Trial("jacobian", Case(3, 4), "float32", "numpy").run()
    assert not result.passed
    assert "raised ZeroDivisionError: fell over" in result.explain()


def test_a_write_beside_a_contiguous_output_is_found(monkeypatch):
    right = fx.api.cross_entropy_and_grad

    def one_too_many(*arguments, out=None, **options):
        results = right(*arguments, out=out, **options)
        if out is not None:
            memory = out.base
            while memory.base is not None:
                memory = memory.base
            memory[-1] = 0
        return results

    trial = Trial("loss", Case(7, 12, out="new"), "float32", "numpy")
    assert trial.run().passed
    monkeypatch.setattr(fx.api, "cross_entropy_and_grad", one_too_many)
    assert "memory beside `out` was written" in trial.run().explain()


def test_a_signalling_nan_at_a_label_is_no_warning_of_shards():
    logits = np.zeros((2, 6))
    logits.view(np.uint64)[0, 1] = 0x7FF0000000000001
    places = ({"class_offset": at, "num_classes": 6} for at in (0, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = fx.merge_stats(
            *(
                fx.partial_stats(logits[:, at : at + 3], [1, 4], **place)
                for at, place in zip((0, 3), places, strict=True)
            )
        )
        losses = fx.loss_from_stats(stats, [1, 4], num_classes=6, reduction="none")
    assert np.isnan(losses[0])
    assert losses[1] == pytest.approx(np.log(6))


# The program ----------------------------------------------------------------------------------


def test_the_program_makes_its_trials_and_keeps_a_record(tmp_path):
    from reliability import differential, records

    arguments = ["--trials", "24", "--seed", "5", "--jobs", "1", "--backend", "numpy"]
    assert differential.main([*arguments, "--out", str(tmp_path)]) == 0
    record = records.load("differential", tmp_path)
    assert record["passed"]
    figures = record["figures"]
    assert figures["trials"] == 24
    assert figures["backends"] == {"numpy": 24}
    assert figures["comparisons"] > 24
    assert 0 < figures["largest_share"] < 1


def test_the_program_finds_and_names_what_is_wrong(monkeypatch):
    from reliability import differential

    right = fx.api.softmax
    monkeypatch.setattr(fx.api, "softmax", lambda *a, **k: right(*a, **k) * np.float32(1.001))
    found = differential.try_all(0, 0, 30, ["numpy"], ["float32"], by_torch=False)
    assert found.faults
    assert all("function='softmax'" in fault for fault in found.faults)
    assert "seed 0, trial " in found.faults[0]


def test_the_program_shows_examples():
    command = [sys.executable, "-m", "reliability.differential", "--help"]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    result = subprocess.run(
        command, env=os.environ | paths, capture_output=True, text=True, timeout=120, check=True
    )
    assert "examples:" in result.stdout
    assert "--seed" in result.stdout


def test_pytorch_agrees_where_no_difference_is_known():
    pytest.importorskip("torch", reason="PyTorch is the peer")
    from reliability import differential

    found = differential.try_all(11, 0, 120, ["numpy"], DTYPES, by_torch=True)
    assert not found.faults
    assert found.counts["beside PyTorch"] > 30
    assert sum(found.differences.values()) > 0
