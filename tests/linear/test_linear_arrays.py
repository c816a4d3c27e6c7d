"""Dtypes, layouts, memory given, rows that do not count, sizes at the edge."""

import ml_dtypes
import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx
from fastxent import reference

N, D, C = 37, 11, 53
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def arrays(dtypes=("float32",) * 3, seed=0):
    rng = np.random.default_rng(seed)
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    bias, target = rng.normal(size=C), rng.integers(0, C, N)
    target[4:9] = 3
    made = (hidden, weights, bias)
    hidden, weights, bias = (one.astype(kind) for one, kind in zip(made, dtypes, strict=True))
    return hidden, weights, target, bias


def assert_close(found, expected, factor=4.0, floor=0.0):
    """Within the rounding of the result's dtype, and that of sums in float32 beside it.

    `floor` is the size of what is added up where that cancels.
    """
    for name in found._fields:
        one, truth = getattr(found, name), np.asarray(getattr(expected, name), float)
        if one is None:
            continue
        largest = np.abs(truth).max(initial=0)
        sums = 4 * EPS["float32" if one.dtype != "float64" else "float64"]
        bound = factor * (EPS[one.dtype.name] * largest + sums * max(largest, floor))
        assert np.abs(one.astype(float) - truth).max(initial=0) <= bound, name


def budgets(*given, **options):
    least = least_budget(*given, **options)
    return least, least + 5000, None


@pytest.mark.parametrize(
    "dtypes",
    [
        (BFLOAT16, BFLOAT16, BFLOAT16),
        ("float16", "float16", "float32"),
        ("float32", BFLOAT16, "float16"),
        (BFLOAT16, "float32", "float64"),
        ("float64", "float32", "float32"),
        (">f4", ">f4", ">f8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"ignore_index": 3}, {"grad_filter": 1e-30}], ids=str)
def test_every_array_has_a_dtype_of_its_own(dtypes, options, backend):
    hidden, weights, target, bias = arrays(dtypes)
    wide = np.float64 if "8" in str(dtypes) or "64" in str(dtypes) else np.float32
    exact = {name: one for name, one in options.items() if name != "grad_filter"}
    loss, expected = reference.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias, **exact
    )
    options = {**options, "backend": backend}
    for budget in budgets(hidden, weights, target, linear_bias=bias, **options):
        given, grads = fx.linear_cross_entropy_and_grad(
            hidden, weights, target, linear_bias=bias, memory_budget=budget, **options
        )
        assert given.dtype == wide
        assert given == pytest.approx(float(loss), rel=8 * float(np.finfo(wide).eps))
        for one, like in zip(grads, (hidden, weights, bias), strict=True):
            assert one.dtype == like.dtype.newbyteorder("=")
        assert_close(grads, expected)


def layouts(array):
    yield "C", array
    yield "F", np.asfortranarray(array)
    yield "gaps", np.repeat(array, 2, axis=1)[:, ::2]
    yield "backwards", array[::-1, ::-1].copy()[::-1, ::-1]
    yield "unaligned", unaligned(array)
    frozen = array.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@pytest.mark.parametrize("layout", range(6))
def test_layouts_change_the_rounding_only(layout):
    hidden, weights, target, bias = arrays()
    _, expected = reference.linear_cross_entropy_and_grad(hidden, weights, target, linear_bias=bias)
    name, hidden = list(layouts(hidden))[layout]
    _, weights = list(layouts(weights))[layout]
    for budget in budgets(hidden, weights, target, linear_bias=bias):
        # a buffer of another layout takes a copy
        budget = None if budget is None else budget + 4 * C * D
        options = {"linear_bias": bias, "memory_budget": budget}
        _, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, **options)
        assert_close(grads, expected)
        if name == "read-only":
            continue
        kept = hidden.copy()
        # over the hidden vectors, however they lie, and beside a buffer of any layout
        out = fx.LinearGrads(hidden, np.empty((D, C), np.float32).T, None)
        _, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, **options, out=out)
        assert grads.hidden is hidden
        assert grads.linear_weight is out.linear_weight
        assert_close(grads, expected)
        hidden[...] = kept


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("soft", [False, True])
def test_features_along_any_axis(axis, soft):
    rng = np.random.default_rng(1)
    shape = [3, 4, 5]
    rows = [size for at, size in enumerate(shape) if at != axis % 3]
    shape[axis] = D
    hidden, weights = rng.normal(size=shape), rng.normal(size=(C, D))
    target = rng.integers(0, C, rows)
    if soft:
        shape[axis] = C
        target = rng.random(shape)[:, :, ::-1].astype(">f4")
    options = {"axis": axis, "sample_weight": rng.random(rows)}
    loss, expected = reference.linear_cross_entropy_and_grad(hidden, weights, target, **options)
    asked = ("correct", "lse", *(("target_grad",) if soft else ()))
    truth = reference.linear_cross_entropy_aux(hidden, weights, target, **options)
    for eps in (None, 1e-30):
        for budget in budgets(hidden, weights, target, aux=asked, grad_filter=eps, **options):
            found, grads, aux = fx.linear_cross_entropy_and_grad(
                *(hidden, weights, target),
                memory_budget=budget,
                grad_filter=eps,
                aux=asked,
                **options,
            )
            assert found == pytest.approx(float(loss), rel=1e-13)
            assert_close(grads, expected)
            assert grads.hidden.shape == hidden.shape
            for name in asked:
                # target_grad comes in the dtype of the probabilities
                eps = 2e-7 if name == "target_grad" else 1e-14
                assert np.allclose(getattr(aux, name), truth[name], rtol=eps, atol=eps), name


def test_many_dimensions_that_do_not_merge():
    rng = np.random.default_rng(1)
    shape = (2, 3, 2, 3, 2, 3)
    hidden = rng.normal(size=(*shape, D)).transpose(5, 3, 1, 4, 2, 0, 6)[::-1, :, ::-1]
    soft = rng.random((*shape, C)).transpose(5, 3, 1, 4, 2, 0, 6)
    weights = rng.normal(size=(C, D))
    for target in (soft, soft.argmax(axis=-1)):
        loss, expected = reference.linear_cross_entropy_and_grad(hidden, weights, target)
        for budget in budgets(hidden, weights, target):
            found, grads = fx.linear_cross_entropy_and_grad(
                hidden, weights, target, memory_budget=budget
            )
            assert found == pytest.approx(float(loss), rel=1e-13)
            assert_close(grads, expected)


def test_rows_that_are_ignored_are_not_read(backend):
    hidden, weights, target, bias = arrays(("float64",) * 3)
    hidden[4:9] = np.nan
    hidden[target == 3] = np.nan
    options = {"linear_bias": bias, "ignore_index": 3, "backend": backend}
    for budget in budgets(hidden, weights, target, **options):
        loss, grads = fx.linear_cross_entropy_and_grad(
            hidden, weights, target, memory_budget=budget, **options
        )
        live = target != 3
        alone, expected = reference.linear_cross_entropy_and_grad(
            hidden[live], weights, target[live], linear_bias=bias
        )
        assert loss == pytest.approx(float(alone), rel=1e-13)
        assert np.all(grads.hidden[~live] == 0)
        assert_close(grads._replace(hidden=grads.hidden[live]), expected)


@pytest.mark.parametrize("kind", ["nan", "zero"])
def test_nothing_counts(kind):
    hidden, weights, _, bias = arrays()
    found, grads, aux = fx.linear_cross_entropy_and_grad(
        *(hidden, weights, np.full(N, -100)), linear_bias=bias, all_ignored=kind, aux=("argmax",)
    )
    assert found == 0 if kind == "zero" else np.isnan(found)
    assert all(not one.any() for one in grads)
    assert np.all(aux.argmax == -1)


@pytest.mark.parametrize("shape", [(0, D, C), (N, 0, C), (N, D, 1), (1, 1, 1), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", BFLOAT16], ids=str)
def test_sizes_at_the_edge(shape, dtype):
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(rows, features)).astype(dtype)
    weights = rng.normal(size=(classes, features)).astype(dtype)
    bias, target = rng.normal(size=classes).astype(dtype), rng.integers(0, classes, rows)
    given = {"linear_bias": bias, "all_ignored": "zero"}
    loss, expected = reference.linear_cross_entropy_and_grad(hidden, weights, target, **given)
    for eps in (None, 1e-30):
        for budget in budgets(hidden, weights, target, **given, grad_filter=eps):
            found, grads = fx.linear_cross_entropy_and_grad(
                hidden, weights, target, **given, memory_budget=budget, grad_filter=eps
            )
            assert found == pytest.approx(float(loss), rel=1e-5, abs=1e-6)
            for one, truth in zip(grads, expected, strict=True):
                assert one.shape == truth.shape
            assert_close(grads, expected, floor=1.0)


def test_one_row_without_a_row_axis():
    hidden, weights, target, _ = arrays()
    loss, grads = fx.linear_cross_entropy_and_grad(hidden[0], weights, target[0])
    same, rows = fx.linear_cross_entropy_and_grad(hidden[:1], weights, target[:1])
    assert loss == same
    assert np.array_equal(grads.hidden, rows.hidden[0])


@pytest.mark.parametrize("options", [{}, {"grad_filter": 1e-30}, {"ignore_index": 3}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", BFLOAT16], ids=str)
def test_half_weights_and_a_gradient_over_the_hidden_rows(dtype, options):
    hidden, weights, target, bias = arrays((dtype, BFLOAT16, "float32"))
    exact = {name: one for name, one in options.items() if name != "grad_filter"}
    loss, expected = reference.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias, **exact
    )
    options = {**options, "linear_bias": bias, "aux": ("lse",)}
    kept = hidden.copy()
    for budget in budgets(hidden, weights, target, **options):
        hidden[...] = kept
        # a filtered gradient is made in a buffer then
        budget = None if budget is None else budget + 1000
        out = fx.LinearGrads(hidden, None, None)
        found, grads, _ = fx.linear_cross_entropy_and_grad(
            hidden, weights, target, memory_budget=budget, out=out, **options
        )
        assert found == pytest.approx(float(loss), rel=1e-6)
        assert_close(grads, expected)
