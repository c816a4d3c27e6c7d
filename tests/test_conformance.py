"""Every case of the table, on every backend, in every dtype, against the reference."""

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import CASES, Case
from fastxent.conformance import run_case, run_softmax_case

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
]
DTYPES = [np.float32, np.float64]

# The softmax functions see the logits alone: one case for each kind of them is enough.
SOFTMAX_CASES = {(case.shape, case.axis, case.logits, case.out): case for case in CASES}.values()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_match_the_reference(case: Case, dtype: type, backend: str) -> None:
    result = run_case(case, dtype, backend)
    assert result.passed, result.explain()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SOFTMAX_CASES, ids=str)
def test_softmax_functions_match_the_reference(case: Case, dtype: type, backend: str) -> None:
    result = run_softmax_case(case, dtype, backend)
    assert result.passed, result.explain()


def test_the_table_names_each_case_once() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES[:30], ids=str)
def test_a_case_always_gives_the_same_arrays(case: Case) -> None:
    once, again = case.arguments(np.float32), case.arguments(np.float32)
    np.testing.assert_equal(once, again)
