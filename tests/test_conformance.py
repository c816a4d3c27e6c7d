"""Every case of the table, on every backend, in every dtype, against the reference."""

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import CASES, Case, cases_of
from fastxent.conformance import run_case, run_softmax_case

# Without a card there is one skip that says so, in tests/gpu/card, and not thousands.
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
    if name != "cuda" or reason is None
]
DTYPES = ("float16", "bfloat16", "float32", "float64")


def by_dtype(of_dtype):
    return [
        pytest.param(case, dtype, id=f"{case}-{dtype}")
        for dtype in DTYPES
        for case in of_dtype(dtype)
    ]


def softmax_cases(dtype):
    """The softmax functions see the logits alone: one case for each kind of them is enough."""
    seen = {(c.shape, c.axis, c.logits, c.layout, c.out): c for c in cases_of(dtype)}
    return [*seen.values()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "dtype"), by_dtype(cases_of))
def test_loss_and_gradient_match_the_reference(case: Case, dtype: str, backend: str) -> None:
    result = run_case(case, dtype, backend)
    assert result.passed, result.explain()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "dtype"), by_dtype(softmax_cases))
def test_softmax_functions_match_the_reference(case: Case, dtype: str, backend: str) -> None:
    result = run_softmax_case(case, dtype, backend)
    assert result.passed, result.explain()


def test_every_dtype_is_in_the_table() -> None:
    assert all(map(cases_of, ("float16", "float32", "float64")))
    reason = Case(5, 10).why_not("bfloat16")
    if reason is not None:
        pytest.skip(reason)
    assert cases_of("bfloat16")


def test_the_table_names_each_case_once() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES[:30], ids=str)
def test_a_case_always_gives_the_same_arrays(case: Case) -> None:
    once, again = case.arguments(np.float32), case.arguments(np.float32)
    np.testing.assert_equal(once, again)
