"""No call holds more than its budget beyond its arrays and its results, as tracemalloc counts."""

import gc
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx

N, D, C = 150, 24, 3000
BUDGETS = {"one row": 1.0, "a bit more": 1.2, "much more": 6.0, "the default": None}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Bytes that tracemalloc sees and no size explains: NumPy keeps freed small arrays.
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
    "byte order": {"soft": ">f4", "dtypes": (">f4", ">f4", ">f4")},
    "Fortran": {"order": "F"},
    "not contiguous": {"order": "gaps"},
}


def made(dtypes=("float32",) * 3, bias=True, soft=None, order="C", options=None):
    rng = np.random.default_rng(3)
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    target = rng.integers(0, 50, N)
    if soft is not None:
        target = rng.random((N, C)).astype(soft)
    arrays = [hidden.astype(dtypes[0]), weights.astype(dtypes[1])]
    if order == "F":
        arrays = [np.asfortranarray(one) for one in arrays]
    if order == "gaps":
        arrays = [np.repeat(one, 2, axis=1)[:, ::2] for one in arrays]
    named = dict(options or {})
    if bias:
        named["linear_bias"] = rng.normal(size=C).astype(dtypes[2])
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


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_call_holds_no_more_than_its_budget(case, budget):
    arrays, options = made(**case)
    if budget is not None:
        budget = int(budget * least_budget(*arrays, **options))
        options["memory_budget"] = budget
    fx.linear_cross_entropy_and_grad(*arrays, **options)  # what is loaded once
    peak = peak_beyond_results(*arrays, **options)
    assert peak <= (budget or 64_000_000)


def test_the_numpy_backend_keeps_to_the_budget_too():
    arrays, options = made()
    options["backend"] = "numpy"
    for factor in (1.0, 3.0):
        budget = int(factor * least_budget(*arrays, **options))
        peak = peak_beyond_results(*arrays, **options, memory_budget=budget)
        assert peak <= budget
