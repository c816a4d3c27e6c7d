"""No call holds more than its budget beyond its arrays and its results, as tracemalloc counts."""

import gc
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx
from fastxent.linear import chunks

N, D, C = 60, 24, 2500
BUDGETS = {"one row": 1.0, "much more": 4.0}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

CASES = {
    "float32": {},
    "float64": {"dtypes": ("float64",) * 3},
    "bfloat16": {"dtypes": (BFLOAT16,) * 3},
    "float16": {"dtypes": ("float16",) * 3},
    "half weights": {"dtypes": ("float32", BFLOAT16, "float32")},
    "no bias": {"bias": False},
    "ignored": {"options": {"ignore_index": 2}},
    "weights of classes and rows": {
        "options": {"weight": np.linspace(0, 1, C), "sample_weight": np.linspace(0, 1, N)}
    },
    "every aside": {"options": {"aux": ("lse", "argmax", "correct", "entropy", "z_loss")}},
    "no row's loss alone": {"options": {"reduction": "none", "grad_output": np.ones(N)}},
    "filter": {"options": {"grad_filter": 1e-3}},
    "filter that keeps all": {"options": {"grad_filter": 1e-30}},
    "filter, half": {"dtypes": (BFLOAT16,) * 3, "options": {"grad_filter": 1e-3}},
    "probabilities": {"soft": "float32"},
    "half probabilities": {"soft": BFLOAT16, "options": {"aux": ("target_grad", "correct")}},
    "half probabilities and weights": {
        "soft": BFLOAT16,
        "dtypes": (BFLOAT16,) * 3,
        "options": {"weight": np.linspace(0, 1, C), "aux": ("log_prob",)},
    },
    "bool": {"soft": "?", "options": {"aux": ("correct",)}},
    "byte order": {"soft": ">f4", "dtypes": (">f4", ">f4", ">f4")},
    "Fortran": {"order": "F"},
    "not contiguous": {"order": "gaps"},
}


def made(dtypes=("float32",) * 3, bias=True, soft=None, order="C", options=None, shape=(N, D, C)):
    rng = np.random.default_rng(3)
    rows, features, classes = shape
    hidden, weights = rng.normal(size=(rows, features)), rng.normal(size=(classes, features))
    target = rng.integers(0, 50, rows)
    if soft is not None:
        target = rng.random((rows, classes)).astype(soft)
    arrays = [hidden.astype(dtypes[0]), weights.astype(dtypes[1])]
    if order == "F":
        arrays = [np.asfortranarray(one) for one in arrays]
    if order == "gaps":
        arrays = [np.repeat(one, 2, axis=1)[:, ::2] for one in arrays]
    named = dict(options or {})
    if bias:
        named["linear_bias"] = rng.normal(size=classes).astype(dtypes[2])
    return (*arrays, target), named


def results(*found):
    for one in found:
        if isinstance(one, tuple):
            yield from results(*one)
        elif isinstance(one, np.ndarray):
            yield one


def peak_beyond_results(*arrays, **options):
    gc.collect()
    tracemalloc.start()
    try:
        found = fx.linear_cross_entropy_and_grad(*arrays, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - sum(one.nbytes for one in results(*found))


# 5 s each; the others in `make reliability`
OFTEN = ("float32", "bfloat16", "filter", "probabilities", "ignored")


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in OFTEN else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_a_call_holds_no_more_than_its_budget(case, budget):
    arrays, options = made(**case)
    options["memory_budget"] = int(budget * least_budget(*arrays, **options))
    peak = peak_beyond_results(*arrays, **options)
    assert peak <= options["memory_budget"]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "filter that keeps all"])
def test_the_default_is_64_megabytes(name):
    rows, classes = 600, 32_000
    assert rows * classes * 4 > 76_000_000
    case = {**CASES[name], "options": {"grad_filter": 1e-30} if "filter" in name else {}}
    arrays, options = made(**case, shape=(rows, 8, classes))
    assert peak_beyond_results(*arrays, **options) <= 64_000_000


def test_probabilities_that_are_copied_beside_first_rows(monkeypatch):
    rows, classes, budget = 256, 3000, 1_400_000
    counts = []
    first_rows = chunks.Chunks._first_rows
    monkeypatch.setattr(
        chunks.Chunks, "_first_rows", lambda self, n: (counts.append(n), first_rows(self, n))[1]
    )
    arrays, options = made(soft=">f4", shape=(rows, rows, classes))
    peak = peak_beyond_results(*arrays, **options, memory_budget=budget)
    assert counts == [rows]
    assert peak <= budget < arrays[2].nbytes
    loss, grads = fx.linear_cross_entropy_and_grad(*arrays, **options, memory_budget=budget)
    native = arrays[2].astype("f4")
    other, expected = fx.linear_cross_entropy_and_grad(*arrays[:2], native, **options)
    assert loss == pytest.approx(other, rel=1e-6)
    for one, truth in zip(grads, expected, strict=True):
        assert np.abs(one - truth).max() <= 1e-5 * np.abs(truth).max()


def test_the_numpy_backend_keeps_to_the_budget_too():
    arrays, options = made()
    options["backend"] = "numpy"
    for factor in (1.0, 3.0):
        budget = int(factor * least_budget(*arrays, **options))
        peak = peak_beyond_results(*arrays, **options, memory_budget=budget)
        assert peak <= budget
