"""What must hold for any arguments: identities that need no oracle, and random cases with one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import fastxent as fx
from fastxent.cases import AUX, BLOCK, OPTION_CASES, Case
from fastxent.cases.layouts import LAYOUTS as CASE_LAYOUTS
from fastxent.conformance import (
    compare_loss_and_grad,
    finite_difference_grad,
    run_case,
    same_bits,
)

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
    if name != "cuda" or reason is None  # tests/gpu/card says once that there is no card
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
few = settings(max_examples=30, deadline=None, derandomize=True)
many = settings(max_examples=150, deadline=None, derandomize=True)

ROWS = st.integers(1, 40)
CLASSES = st.integers(1, 150) | st.sampled_from([1024, 1025, 2049])


def choice(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


ANY_CASE = st.builds(
    Case,
    rows=ROWS | st.just(0) | st.just(()) | st.tuples(st.integers(1, 4), st.integers(1, 5)),
    classes=CLASSES,
    labels=choice("hard", "ignored", "all-ignored", "one-hot", "soft", "unnormalised"),
    logits=choice("peaked", "flat", "huge-offset", "minus-inf", "special-rows", "masked-block"),
    weight=choice("none", "positive", "some-zero", "all-zero"),
    ignore_index=choice(-100, None, 0),
    label_smoothing=choice(0.0, 0.1, 1.0),
    reduction=choice("mean", "sum", "none"),
    normalizer=choice(None, 3.5),
    sample_weight=st.booleans(),
    grad_output=choice("none", "scalar", "rows"),
    all_ignored=choice("nan", "zero"),
    axis=choice(-1, 0),
    out=choice("none", "new", "in-place"),
    num_threads=choice(None, 3),
).filter(lambda case: case.legal)

# What every option can be, together.
ANY_OPTIONS = st.builds(
    replace,
    ANY_CASE,
    z_loss=choice(0.0, 1e-3),
    softcap=choice(None, 5.0, 30.0),
    logit_scale=choice(1.0, 0.7),
    aux=choice((), AUX, ("target_grad",), ("argmax",)),
    layout=choice(*CASE_LAYOUTS),
    target_layout=choice(*CASE_LAYOUTS),
    label_dtype=choice("", "", "float16", "float32", "float64"),
    rows=ROWS | st.tuples(st.integers(1, 3), st.integers(1, 40)),
    axis=choice(-1, 0, 1),
).map(lambda case: case if case.soft else replace(case, label_dtype=""))
# Where 1e6 is scaled, the product's rounding is all that float32 leaves of the differences.
ANY_OPTIONS = ANY_OPTIONS.filter(
    lambda case: case.legal and (case.logits != "huge-offset" or case.logit_scale == 1)
)

# Finite numbers, for identities of the sum over the rows.
TAME_CASE = st.builds(
    Case,
    rows=ROWS,
    classes=CLASSES,
    labels=choice("hard", "ignored", "soft", "unnormalised"),
    logits=choice("peaked", "flat"),
    weight=choice("none", "positive"),
    label_smoothing=choice(0.0, 0.1),
    reduction=choice("sum", "none"),
    sample_weight=st.booleans(),
)


def assert_same(result: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, rtol=1e-11, atol=1e-12)


# Against the reference ----------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@many
@given(case=ANY_CASE)
def test_random_cases(case: Case, dtype: type, backend: str) -> None:
    """Also: the loss alone, `out` and in place give the same bits, and logits stay as they are."""
    result = run_case(case, dtype, backend)
    assert result.passed, result.explain()


@each_backend
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@many
@given(case=ANY_OPTIONS)
def test_random_cases_with_every_option(case: Case, dtype: str, backend: str) -> None:
    assume(case.why_not(dtype) is None)
    result = run_case(case, dtype, backend)
    assert result.passed, result.explain()


def stepped(array: np.ndarray) -> np.ndarray:
    wide = np.zeros([2 * length for length in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw.view(array.dtype).reshape(array.shape)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda array: array,
    "Fortran": np.asfortranarray,
    "reversed": np.flip,
    "stepped": stepped,
    "all rows the same memory": lambda array: np.broadcast_to(array[:1], array.shape),
    "read-only": read_only,
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "unaligned": unaligned,
}


@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@few
@given(case=ANY_CASE, target_layout=choice(*LAYOUTS))
def test_any_layout(case: Case, target_layout: str, layout: str, dtype: type, backend: str) -> None:
    assume(case.leading)
    logits, target, options = case.arguments(dtype)
    logits, target = LAYOUTS[layout](logits), LAYOUTS[target_layout](target)
    loss, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    for comparison in compare_loss_and_grad(loss, grad, logits, target, options):
        assert comparison.passed, f"{comparison} for {case}"


@each_backend
@pytest.mark.parametrize(
    "case",
    [
        replace(case, rows=4, classes=5)
        for case in OPTION_CASES
        if case.labels != "all-ignored"
        and (case.out, case.num_threads, case.aux, case.layout) == ("none", None, (), "C")
    ],
    ids=str,
)
def test_gradient_is_the_derivative_of_the_loss(case: Case, backend: str) -> None:
    logits, target, options = case.arguments(np.float64)
    _, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    upstream = np.asarray(options.pop("grad_output", 1.0))
    numeric = finite_difference_grad(
        lambda x: np.sum(fx.cross_entropy(x, target, **options, backend=backend)), logits, 1e-5
    )
    if upstream.ndim:
        upstream = np.expand_dims(upstream, case.axis)
    assert_allclose(grad, upstream * numeric, rtol=1e-6, atol=1e-8)


@each_backend
@pytest.mark.parametrize(
    "case",
    [
        Case(3, 2 * BLOCK + 100, labels=labels, label_smoothing=label_smoothing, weight="positive")
        for labels in ("hard", "ignored", "soft")
        for label_smoothing in (0.0, 0.1)
    ]
    + [
        Case(3, 2 * BLOCK + 100, labels=labels, **transform)
        for labels in ("hard", "soft")
        for transform in ({"softcap": 30.0, "logit_scale": 0.7}, {"z_loss": 1e-3})
    ],
    ids=str,
)
def test_gradient_is_the_derivative_of_the_loss_in_every_block(case: Case, backend: str) -> None:
    logits, target, options = case.arguments(np.float64)
    _, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    # The largest entries, and some of each block: most probabilities here are next to nothing.
    picked = np.argsort(-np.abs(grad), axis=None)[:8]
    rng = np.random.default_rng(0)
    for block in range(3):
        columns = rng.integers(block * BLOCK, min((block + 1) * BLOCK, case.classes), 4)
        picked = np.append(picked, rng.integers(0, 3, 4) * case.classes + columns)

    def objective(entries: np.ndarray) -> float:
        x = logits.copy()
        x.flat[picked] = entries
        return float(fx.cross_entropy(x, target, **options, backend=backend))

    numeric = finite_difference_grad(objective, logits.flat[picked], 1e-5)
    assert_allclose(grad.flat[picked], numeric, rtol=1e-6, atol=1e-8)


# Identities ---------------------------------------------------------------------------------


@each_backend
@few
@given(case=TAME_CASE, shift=st.floats(-100, 100))
def test_a_shift_of_a_row_changes_nothing(case: Case, shift: float, backend: str) -> None:
    logits, target, options = case.arguments(np.float64)
    shifted = logits + shift * np.arange(len(logits))[:, None]
    assert_same(
        fx.cross_entropy_and_grad(shifted, target, **options, backend=backend),
        fx.cross_entropy_and_grad(logits, target, **options, backend=backend),
    )


@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@few
@given(case=TAME_CASE)
def test_gradient_rows_sum_to_zero(case: Case, dtype: type, backend: str) -> None:
    logits, target, options = case.arguments(dtype)
    _, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    grad = grad.astype(np.float64)
    roundings = 100 * np.finfo(dtype).eps
    assert (np.abs(grad.sum(axis=1)) <= roundings * (1 + np.abs(grad).sum(axis=1))).all()


@each_backend
@few
@given(case=TAME_CASE)
def test_one_hot_probabilities_are_class_indices(case: Case, backend: str) -> None:
    logits, target, options = replace(case, labels="hard").arguments(np.float64)
    expected = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    for dtype in (np.float64, np.float32, bool):
        one_hot = np.eye(case.classes, dtype=dtype)[target]
        result = fx.cross_entropy_and_grad(logits, one_hot, **options, backend=backend)
        assert_same(result, expected)


@each_backend
@few
@given(case=TAME_CASE, reduction=choice("mean", "sum"), copies=st.lists(choice(1, 2, 3)))
def test_a_sample_weight_of_two_is_the_row_twice(
    case: Case, reduction: str, copies: list[int], backend: str
) -> None:
    case = replace(case, reduction=reduction, sample_weight=False)
    logits, target, options = case.arguments(np.float64)
    times = np.resize([*copies, 2], len(logits))
    loss, grad = fx.cross_entropy_and_grad(
        logits, target, **options, sample_weight=times, backend=backend
    )
    repeated, repeated_grad = fx.cross_entropy_and_grad(
        np.repeat(logits, times, axis=0),
        np.repeat(target, times, axis=0),
        **options,
        backend=backend,
    )
    first = np.cumsum(times) - times
    assert_same((loss, grad), (repeated, np.add.reduceat(repeated_grad, first)))


@each_backend
@few
@given(case=TAME_CASE, factor=st.floats(0.01, 100))
def test_class_weights_scale_the_loss(case: Case, factor: float, backend: str) -> None:
    logits, target, options = replace(case, weight="positive").arguments(np.float64)
    scaled = options | {"weight": factor * options["weight"]}
    loss, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    result = fx.cross_entropy_and_grad(logits, target, **scaled, backend=backend)
    assert_same(result, (factor * loss, factor * grad))
    if not case.soft:  # the mean over class indices divides by the weights
        options["reduction"] = scaled["reduction"] = "mean"
        assert_same(
            fx.cross_entropy_and_grad(logits, target, **scaled, backend=backend),
            fx.cross_entropy_and_grad(logits, target, **options, backend=backend),
        )


@each_backend
@few
@given(case=TAME_CASE)
def test_the_order_of_classes_is_of_no_matter(case: Case, backend: str) -> None:
    logits, target, options = replace(case, weight="positive").arguments(np.float64)
    loss, grad = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    order = np.random.default_rng(0).permutation(case.classes)
    if case.soft:
        moved = target[:, order]
    else:
        moved = np.where(target < 0, target, np.argsort(order)[np.maximum(target, 0)])
    options["weight"] = options["weight"][order]
    result = fx.cross_entropy_and_grad(logits[:, order], moved, **options, backend=backend)
    assert_same(result, (loss, grad[:, order]))


@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@few
@given(case=ANY_CASE)
# Several chunks of 32,768 elements, which the random cases seldom reach: there one thread does all.
@example(case=Case(300, 257))
@example(case=Case(300, 257, labels="soft", weight="positive", sample_weight=True))
@example(case=Case(300, 257, labels="ignored", label_smoothing=0.1, axis=0))
@example(case=Case(40, 5003))
@example(case=Case(40, 5003, labels="soft", logits="masked-block", reduction="none"))
@example(case=Case((4, 2), 40_000, labels="ignored", reduction="sum"))
def test_any_number_of_threads_gives_the_same_bits(case: Case, dtype: type, backend: str) -> None:
    logits, target, options = case.arguments(dtype)
    loss, grad = fx.cross_entropy_and_grad(
        logits, target, **options, backend=backend, num_threads=1
    )
    p = fx.softmax(logits, case.axis, backend=backend, num_threads=1)
    for num_threads in (2, 5):
        again, grad_again = fx.cross_entropy_and_grad(
            logits, target, **options, backend=backend, num_threads=num_threads
        )
        assert same_bits(again, loss)
        assert same_bits(grad_again, grad)
        assert same_bits(fx.softmax(logits, case.axis, backend=backend, num_threads=num_threads), p)
