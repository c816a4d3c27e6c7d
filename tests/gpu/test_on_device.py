"""Calls with arrays of a GPU, whose GPU is the host: every option against the call on the host."""

import itertools
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.cases import CASES
from fastxent.cases.recipe import has_bfloat16
from gpu.arrays import STREAM, ByDLPack, ByInterface, Putter, numbers
from gpu.host_device import HostDevice

DTYPES = ("float32", "float64", "float16", *(["bfloat16"] if has_bfloat16() else []))
ON_DEVICE_TOO = ("weight", "sample_weight", "grad_output")


@pytest.fixture
def device(monkeypatch):
    """A backend that is used for arrays of a GPU, and never reads them back."""
    found, ordinary = HostDevice(), load
    registry = sys.modules["fastxent.backends"]
    monkeypatch.setattr(
        registry, "load", lambda name: found if name == "cuda" else ordinary(name)
    )
    return found


@pytest.fixture
def put(device):
    return Putter(device)


def close(actual, expected, dtype):
    """The same arithmetic, in another order of a few factors."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    steps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    wide = [array.astype(np.float64) for array in (actual, expected)]
    smallest = 2.0**-24 if dtype == "float16" else 0.0
    np.testing.assert_allclose(*wide, rtol=4 * steps[dtype], atol=smallest)


def chosen():
    dtypes, places = itertools.cycle(DTYPES), itertools.cycle((True, False, True))
    for case in CASES:
        if "unaligned" in (case.layout, case.target_layout):
            continue
        if not case.soft and case.target_layout not in ("C", "read_only", "read-only"):
            continue
        if np.prod(case.shape) > 20_000:
            continue
        dtype, factors_there = next(dtypes), next(places)
        yield case, "float32" if case.why_not(dtype) else dtype, factors_there


@pytest.mark.parametrize(("case", "dtype", "factors_there"), list(chosen()), ids=str)
def test_every_option(put, case, dtype, factors_there):
    logits, target, options = case.arguments(dtype)
    there = dict(options)
    if factors_there:
        for name in ON_DEVICE_TOO:
            if name in options:
                there[name] = put(np.asarray(options[name], np.float32 if dtype[0] == "b" else None))
    expected = fx.cross_entropy_and_grad(
        logits, target, **options, aux=case.asked, backend="numpy"
    )
    given = put(logits)
    out = {"none": None, "new": put(np.zeros_like(logits)), "in-place": given}[case.out]
    kept = numbers(given)
    alone = {name: there[name] for name in there if name != "grad_output"}
    loss = fx.cross_entropy(given, put(target), **alone)
    loss_and_grad = fx.cross_entropy_and_grad(given, put(target), **there, aux=case.asked, out=out)
    assert (loss_and_grad[1] is out) == (out is not None)
    results = [numbers(result) for result in loss_and_grad[:2]]
    result_dtype = dtype if dtype == "float64" else "float32"
    close(results[0], expected[0], result_dtype)
    assert results[0].tobytes() == numbers(loss).tobytes()
    close(results[1], expected[1], dtype)
    if out is not given:
        assert numbers(given).tobytes() == kept.tobytes()
    for name in case.asked:
        found, truth = getattr(loss_and_grad[2], name), getattr(expected[2], name)
        if name == "target_grad":
            close(numbers(found), truth, truth.dtype.name)
        else:
            close(numbers(found), truth, result_dtype)
