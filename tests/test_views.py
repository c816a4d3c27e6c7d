"""Views: kernels see the caller's memory in whatever layout; what no view can show is copied."""

import tempfile

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import fastxent as fx
from fastxent.backends.contract import TILE_CLASSES
from fastxent.cases.layouts import LAYOUTS
from fastxent.layout import join_axes, order_of
from fastxent.problem import Problem

RNG = np.random.default_rng(15)


def transposed(array, class_axis):
    """Classes nearest in memory, on whatever axis."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, class_axis, -1)), -1, class_axis)


def unaligned_field(array, class_axis):
    """A field of packed records: every entry at an odd address, strides no multiple of it."""
    records = np.zeros(array.shape, np.dtype([("odd", "u1"), ("x", array.dtype)]))
    records["x"] = array
    return records["x"]


def in_a_memory_map(array, class_axis):
    """An array that is a file."""
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
        mapped[...] = array
        return mapped


# classes on axis 1; the dimensions of the rows that kernels see
WITHOUT_COPY = {
    "two dimensions": ((6, 5), "C", 1),
    "a length": ((3, 5, 4), "C", 2),
    "an image": ((3, 5, 4, 2), "C", 2),
    "a volume": ((3, 5, 4, 2, 3), "C", 2),
    "one volume": ((1, 5, 4, 2, 3), "C", 1),
    "Fortran order": ((6, 5), "F", 1),
    "an image in Fortran order": ((3, 5, 4, 2), "F", 3),
    "classes last in memory": ((3, 5, 4, 2), transposed, 1),
    "reversed classes": ((3, 5, 4), "reversed classes", 2),
    "reversed rows": ((3, 5, 4), "reversed rows", 2),
    "stepped": ((3, 5, 4, 2, 3), "stepped", 4),
    "padded classes": ((3, 5, 4, 2), "padded", 2),
    "padded rows": ((6, 5), "padded", 1),
    "unaligned": ((3, 5, 4), "unaligned", 2),
    "unaligned fields": ((3, 5, 4), unaligned_field, 2),
    "read-only": ((3, 5, 4), "read-only", 2),
    "memory map": ((3, 5, 4), in_a_memory_map, 2),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", WITHOUT_COPY)
def test_kernels_see_the_callers_memory(name, dtype, backend):
    """Logits and probabilities in place; results that are right and laid out as the logits."""
    shape, layout, dimensions = WITHOUT_COPY[name]
    layout = LAYOUTS.get(layout, layout)
    logits = RNG.standard_normal(shape).astype(dtype)
    soft = RNG.random(shape).astype(dtype)
    given, given_soft = layout(logits, 1), layout(soft, 1)
    problem = Problem.build(given, given_soft, axis=1)
    assert np.may_share_memory(problem.logits, given)
    assert np.may_share_memory(problem.soft, given_soft)
    assert problem.logits.shape[-1] == shape[1]
    assert problem.logits.ndim == dimensions + 1
    assert problem.rows == np.prod(problem.logits.shape[:-1])
    assert np.may_share_memory(Problem.of_array(given, 1, None).logits, given)

    out = layout(np.zeros_like(logits), 1)
    labels = RNG.integers(0, shape[1], shape[:1] + shape[2:])
    for target, given_target in ((labels, labels), (soft, given_soft)):
        last = np.moveaxis(target, 1, -1) if target is soft else target
        rows = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
        expected = fx.cross_entropy_and_grad(rows, np.ascontiguousarray(last), backend=backend)
        loss, grad = fx.cross_entropy_and_grad(given, given_target, axis=1, backend=backend)
        assert loss == expected[0]
        assert np.array_equal(np.moveaxis(grad, 1, -1), expected[1])
        if name in ("Fortran order", "an image in Fortran order", "classes last in memory"):
            assert grad.strides == given.strides
        if name != "read-only":
            written = Problem.build(given, given_target, axis=1, out=out).out
            assert np.may_share_memory(written, out)
            fx.cross_entropy_and_grad(given, given_target, axis=1, out=out, backend=backend)
            assert np.array_equal(out, grad)


@pytest.mark.parametrize("kind", ["ignored", "probabilities"])
@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
@pytest.mark.parametrize("shape", [(3, 40, 70, 60), (2, 1030, 300)], ids=str)
def test_groups_of_rows_that_end_anywhere(shape, layout, kind, backend):
    """More rows than are taken at a time, ends in the midst of a dimension; also in place.

    Up to 100 classes rows are always in the lanes; beyond, where they lie side by side, and there
    the sums are added up in another order than along a contiguous row.
    """

    def agree(one, other):
        some = 0 if shape[1] <= TILE_CLASSES else 4 * np.finfo(np.float32).eps
        return np.allclose(one, other, rtol=some, atol=some)

    logits = RNG.standard_normal(shape).astype(np.float32)
    given = LAYOUTS[layout](logits.copy(), 1)
    rows = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    options = {"label_smoothing": 0.1, "reduction": "none", "backend": backend}
    target = last = RNG.integers(0, shape[1], rows.shape[:-1])
    if kind == "ignored":
        target[..., ::7] = -100
    else:
        target = RNG.random(shape).astype(np.float32)
        last = np.ascontiguousarray(np.moveaxis(target, 1, -1))
    loss, grad = fx.cross_entropy_and_grad(rows, last, **options)
    result = fx.cross_entropy_and_grad(given, target, axis=1, **options)
    assert agree(result[0], loss)
    assert agree(np.moveaxis(result[1], 1, -1), grad)
    fx.cross_entropy_and_grad(given, target, axis=1, out=given, **options)
    assert np.array_equal(given, result[1])
    assert agree(fx.logsumexp(logits, 1, backend=backend), fx.logsumexp(rows, backend=backend))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broadcast_inputs_are_not_copied(axis, backend):
    logits = np.broadcast_to(RNG.standard_normal((3, 1, 5)), (3, 4, 5))
    soft = np.broadcast_to(RNG.random(5), (3, 4, 5))
    problem = Problem.build(logits, soft, axis=axis)
    assert np.may_share_memory(problem.logits, logits)
    assert np.may_share_memory(problem.soft, soft)
    loss, grad = fx.cross_entropy_and_grad(logits, soft, axis=axis, backend=backend)
    expected = fx.cross_entropy_and_grad(logits.copy(), soft.copy(), axis=axis, backend=backend)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert grad.flags.c_contiguous


def test_what_is_copied(backend):
    """Foreign byte order, and more than four row dimensions of which no two merge."""
    logits = RNG.standard_normal((2, 2, 2, 3, 2, 2, 2))
    many = np.ascontiguousarray(logits.transpose(6, 5, 4, 3, 2, 1, 0)).transpose(
        6, 5, 4, 3, 2, 1, 0
    )
    labels = RNG.integers(0, 3, (2,) * 6)
    assert not np.may_share_memory(Problem.build(many, labels, axis=3).logits, many)
    foreign = logits.astype(">f8")
    assert not np.may_share_memory(Problem.build(foreign, labels, axis=3).logits, foreign)
    expected = fx.cross_entropy_and_grad(logits, labels, axis=3, backend=backend)
    out = np.zeros_like(many)
    for given in (many, foreign):
        loss, grad = fx.cross_entropy_and_grad(given, labels, axis=3, backend=backend)
        assert loss == expected[0]
        assert np.array_equal(grad, expected[1])
        assert grad.dtype.isnative
        assert fx.cross_entropy_and_grad(given, labels, axis=3, out=out, backend=backend)[1] is out
        assert np.array_equal(out, expected[1])
    fx.cross_entropy_and_grad(many, labels, axis=3, out=many, backend=backend)
    assert np.array_equal(many, expected[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_new_arrays_begin_at_a_line_of_the_cache(layout, dtype):
    """Stores that straddle two lines cost 7 to 21 % of a pass through memory."""
    logits = LAYOUTS[layout](RNG.standard_normal((300, 100)).astype(dtype), 1)
    labels = RNG.integers(0, 100, 300)
    made = [fx.softmax(logits), fx.log_softmax(logits)]
    made += [fx.cross_entropy_and_grad(logits, labels, label_smoothing=e)[1] for e in (0.0, 0.1)]
    for array in made:
        assert array.ctypes.data % 64 == 0
        assert array.strides == logits.strides
        assert array.flags.writeable
        assert array.dtype == dtype


AXES = [(1, 2), (2, 1), (0, 1), (0, 2), (-1, 0), (0, 1, 2, 3), None, (3,), ()]


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_several_axes(name, layout, axis, backend):
    x = RNG.standard_normal((2, 3, 4, 5))
    given = LAYOUTS[layout](x, None)
    function = getattr(fx, name)
    result = function(given, axis, backend=backend)
    truth = getattr(scipy.special, name)(x, axis)
    assert np.shape(result) == np.shape(truth)
    assert np.allclose(result, truth, rtol=1e-14, atol=1e-15)
    if name == "logsumexp":
        return
    for out in (np.zeros_like(x), np.asfortranarray(np.zeros_like(x))):
        assert function(given, axis, out=out, backend=backend) is out
        assert np.array_equal(out, result)
    assert function(given, axis, out=given, backend=backend) is given
    assert np.array_equal(given, result)


def test_axes_that_merge_are_not_copied():
    x = RNG.standard_normal((2, 3, 4, 5))
    for given in (x, x.T, x[::-1], x[:, :, :, ::-1]):
        for axes in ((1, 2), (2, 1)):
            assert np.may_share_memory(join_axes(given, order_of(given, axes)), given)
        assert join_axes(given, order_of(given, (0, 2))) is None
    assert np.may_share_memory(join_axes(x, order_of(x, range(4))), x)
    assert join_axes(x[:, :2], order_of(x[:, :2], (0, 1))) is None


EDGES = [[np.inf, 0.0], [np.inf, np.inf], [-np.inf, -np.inf], [-np.inf, 0.0], [np.nan, 0.0]]
EDGES += [[np.inf, np.nan], [-np.inf, np.nan], [np.inf, -np.inf], [0.0, 1e308], [3.0]]


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_scipys_edges(row, backend):
    with np.errstate(all="ignore"):
        for name in ("softmax", "log_softmax", "logsumexp"):
            truth = getattr(scipy.special, name)(row)
            if name == "log_softmax" and np.inf in row:
                truth = np.full_like(row, np.nan)  # SciPy has -inf for the finite ones
            assert np.array_equal(getattr(fx, name)(row, backend=backend), truth, equal_nan=True)


def test_scipys_edges_of_shape(backend):
    for shape, axis in (((2, 0), 1), ((2, 0), -1), ((0, 3), 0), ((2, 0), (0, 1)), ((2, 0), None)):
        lse = fx.logsumexp(np.zeros(shape, np.float32), axis, backend=backend)
        assert np.all(np.isneginf(lse))
        assert lse.dtype == np.float32
        assert np.shape(lse) == np.shape(np.zeros(shape).sum(axis))
        with pytest.raises(ValueError, match="no class"):
            fx.softmax(np.zeros(shape), axis, backend=backend)
    assert fx.softmax(np.zeros((0, 3)), axis=1, backend=backend).shape == (0, 3)
    assert fx.logsumexp(np.zeros((0, 3)), axis=1, backend=backend).shape == (0,)
    for axis in (None, ()):
        assert fx.softmax(np.float32(5), axis, backend=backend) == 1
        assert fx.log_softmax(np.float32(5), axis, backend=backend) == 0
        assert fx.logsumexp(np.float32(5), axis, backend=backend) == 5
