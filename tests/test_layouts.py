"""Arrays of every layout: the same bits as for the plain one, inputs untouched."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent.problem import Problem

RNG = np.random.default_rng(5)


def plain(array):
    return array


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def read_only_big_endian(array):
    return read_only(big_endian(array))


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned or array.itemsize == 1
    return view


def fortran(array):
    return np.asfortranarray(array)


def reversed_(array):
    return array[::-1, ::-1].copy()[::-1, ::-1] if array.ndim > 1 else array[::-1].copy()[::-1]


def stepped(array):
    wide = np.full([2 * size for size in array.shape], 99, array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def padded_rows(array):
    wide = np.full((*array.shape[:-1], array.shape[-1] + 3), 99, array.dtype)
    wide[..., : array.shape[-1]] = array
    return wide[..., : array.shape[-1]]


def reversed_rows(array):
    return array[::-1].copy()[::-1]


def in_a_record(array):
    """Rows whose stride is no multiple of the element."""
    record = np.dtype([("row", array.dtype, array.shape[1:]), ("odd", "u1", 3)])
    records = np.zeros(array.shape[0], record)
    records["row"] = array
    return records["row"]


LAYOUTS = [
    plain,
    read_only,
    big_endian,
    read_only_big_endian,
    unaligned,
    fortran,
    reversed_,
    stepped,
    padded_rows,
    reversed_rows,
    in_a_record,
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_logits_and_targets(layout, dtype, backend):
    logits = (RNG.standard_normal((9, 37)) * 5).astype(dtype)
    labels = RNG.integers(0, 37, 9)
    soft = RNG.random((9, 37)).astype(dtype)
    weight = RNG.random(37)
    given = layout(logits)
    before = given.tobytes()
    for target in (labels, soft):
        expected = fx.cross_entropy_and_grad(logits, target, weight=weight, backend=backend)
        for pair in ((given, target), (logits, layout(target)), (given, layout(target))):
            loss, grad = fx.cross_entropy_and_grad(
                *pair,
                weight=layout(weight) if layout is not in_a_record else weight,
                backend=backend,
            )
            assert loss == expected[0]
            assert np.array_equal(grad, expected[1])
            assert grad.dtype == dtype
            alike = "F" if pair[0] is given and layout is fortran else "C"
            assert grad.flags[f"{alike}_CONTIGUOUS"]
    assert given.tobytes() == before
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        expected = function(logits, backend=backend)
        assert np.array_equal(function(given, backend=backend), expected)
        assert expected.dtype == dtype


@pytest.mark.parametrize(
    "layout", [plain, unaligned, fortran, reversed_, stepped, padded_rows, reversed_rows]
)
def test_layout_of_out(layout, backend):
    logits = RNG.standard_normal((9, 37))
    labels = RNG.integers(0, 37, 9)
    loss, grad = fx.cross_entropy_and_grad(logits, labels, backend=backend)
    out = layout(np.full((9, 37), 7.0))
    if layout is stepped:
        neighbours = out.base.copy()
    given = fx.cross_entropy_and_grad(logits, labels, out=out, backend=backend)
    assert given[1] is out
    assert given[0] == loss
    assert np.array_equal(out, grad)
    if layout is stepped:
        neighbours[::2, ::2] = grad
        assert np.array_equal(out.base, neighbours)
    for function in (fx.softmax, fx.log_softmax):
        assert function(logits, out=out, backend=backend) is out
        assert np.array_equal(out, function(logits, backend=backend))


@pytest.mark.parametrize(
    "layout", [plain, unaligned, fortran, reversed_, stepped, padded_rows, reversed_rows]
)
def test_in_place(layout, backend):
    logits = RNG.standard_normal((9, 2051))
    labels = RNG.integers(0, 2051, 9)
    for target in (labels, RNG.random((9, 2051))):
        loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
        given = layout(logits.copy())
        loss_in_place, written = fx.cross_entropy_and_grad(
            given, target, out=given, backend=backend
        )
        assert written is given
        assert loss_in_place == loss
        assert np.array_equal(given, grad)
    for function in (fx.softmax, fx.log_softmax):
        given = layout(logits.copy())
        assert function(given, out=given, backend=backend) is given
        assert np.array_equal(given, function(logits, backend=backend))


def test_broadcast_inputs(backend):
    row = RNG.standard_normal(33)
    logits = np.broadcast_to(row, (8, 33))
    loss, grad = fx.cross_entropy_and_grad(logits, np.arange(8), backend=backend)
    expected = fx.cross_entropy_and_grad(logits.copy(), np.arange(8), backend=backend)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    soft = np.broadcast_to(1 / 33, (8, 33))
    loss, grad = fx.cross_entropy_and_grad(logits, soft, backend=backend)
    expected = fx.cross_entropy_and_grad(logits.copy(), soft.copy(), backend=backend)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    labels = np.broadcast_to(3, 8)
    assert fx.cross_entropy(logits, labels, backend=backend) == fx.cross_entropy(
        logits, np.full(8, 3), backend=backend
    )


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5), (2, 3, 4, 5), (2, 1, 3, 2, 5)])
def test_every_axis_of_every_rank(shape, backend):
    logits = RNG.standard_normal(shape)
    for axis in range(-logits.ndim, logits.ndim):
        rows_shape = tuple(np.delete(shape, axis))
        last = np.moveaxis(logits, axis, -1)
        labels = RNG.integers(0, shape[axis], rows_shape)
        scales = RNG.random(rows_shape)
        soft = RNG.random(shape)
        for target, target_last in ((labels, labels), (soft, np.moveaxis(soft, axis, -1))):
            for reduction in ("none", "mean", "sum"):
                options = {"reduction": reduction, "sample_weight": scales, "backend": backend}
                loss, grad = fx.cross_entropy_and_grad(logits, target, axis=axis, **options)
                expected = fx.cross_entropy_and_grad(last.copy(), target_last.copy(), **options)
                assert np.array_equal(loss, expected[0])
                assert np.shape(loss) == (rows_shape if reduction == "none" else ())
                assert np.array_equal(np.moveaxis(grad, axis, -1), expected[1])
                assert grad.shape == shape
                given = logits.copy()
                fx.cross_entropy_and_grad(given, target, axis=axis, out=given, **options)
                assert np.array_equal(given, grad)
        for function in (fx.softmax, fx.log_softmax):
            assert np.array_equal(
                np.moveaxis(function(logits, axis, backend=backend), axis, -1),
                function(last, backend=backend),
            )
        assert np.array_equal(fx.logsumexp(logits, axis), fx.logsumexp(last))


@pytest.mark.parametrize("dtype", [*"bhilq", *"BHILQ", ">i2", ">i4", ">u8"])
def test_every_integer_dtype_of_labels(dtype, backend):
    logits = RNG.standard_normal((6, 120))
    labels = np.array([0, 119, 100, 7, 50, 119])
    expected = fx.cross_entropy_and_grad(logits, labels, ignore_index=7, backend=backend)
    loss, grad = fx.cross_entropy_and_grad(
        logits, labels.astype(dtype), ignore_index=7, backend=backend
    )
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    with pytest.raises(fx.LabelError, match=r"target\[1\] is 100"):
        fx.cross_entropy(logits[:, :100], np.minimum(labels, 100).astype(dtype), backend=backend)


@pytest.mark.parametrize("target_dtype", [np.float32, np.float64, bool])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_dtype_of_probabilities(dtype, target_dtype, backend):
    logits = RNG.standard_normal((6, 1030)).astype(dtype)
    soft = (RNG.random((6, 1030)) < 0.5).astype(target_dtype)
    expected = fx.cross_entropy_and_grad(logits, soft.astype(dtype), backend=backend)
    loss, grad = fx.cross_entropy_and_grad(logits, soft, backend=backend)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])


def test_unaligned_weights():
    weight, sample_weight = RNG.random(37), RNG.random(9)
    logits, labels = RNG.standard_normal((9, 37)), RNG.integers(0, 37, 9)
    expected = fx.cross_entropy(logits, labels, weight=weight, sample_weight=sample_weight)
    problem = Problem.build(
        logits,
        labels,
        weight=unaligned(weight),
        sample_weight=unaligned(sample_weight),
        **{"ignore_index": None, "label_smoothing": 0, "reduction": "mean", "normalizer": None},
        **{"axis": -1, "all_ignored": "nan", "num_threads": None},
    )
    assert problem.spike.flags.aligned
    assert problem.reduction.row_weight.flags.aligned
    given = {"weight": unaligned(weight), "sample_weight": unaligned(sample_weight)}
    assert fx.cross_entropy(logits, labels, **given) == expected


def test_sequences_and_scalars():
    loss = fx.cross_entropy([[1.0, 2.0], [0.0, 0.0]], [1, 0])
    assert loss == fx.cross_entropy(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([1, 0]))
    assert fx.cross_entropy([1.0, 2.0], 1) == fx.cross_entropy([[1.0, 2.0]], [1])
    assert isinstance(fx.cross_entropy([1.0, 2.0], 1, reduction="none"), np.float64)
    assert isinstance(fx.logsumexp(np.zeros(3, "f4")), np.float32)


def test_memory_map_and_subclass(tmp_path):
    logits = RNG.standard_normal((5, 9))
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    loss, grad = fx.cross_entropy_and_grad(mapped, np.arange(5))
    expected = fx.cross_entropy_and_grad(logits, np.arange(5))
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert type(grad) is np.ndarray


def test_foreign_array_protocols():
    logits = RNG.standard_normal((3, 4))

    class HasArray:
        def __array__(self, dtype=None, copy=None):
            return logits

    class HasDLPackOnly:
        def __dlpack__(self, **options):
            return logits.__dlpack__(**options)

        def __dlpack_device__(self):
            return logits.__dlpack_device__()

    expected = fx.cross_entropy(logits, [0, 1, 2])
    assert fx.cross_entropy(HasArray(), [0, 1, 2]) == expected
    assert fx.cross_entropy(HasDLPackOnly(), [0, 1, 2]) == expected


def test_empty(backend):
    for shape in ((0, 5), (0, 1), (3, 0, 5)):
        logits = np.zeros(shape, np.float32)
        target = np.zeros(shape[:-1], int)
        for reduction, all_ignored in itertools.product(("none", "mean", "sum"), ("nan", "zero")):
            for labels in (target, logits):
                loss, grad = fx.cross_entropy_and_grad(
                    logits, labels, reduction=reduction, all_ignored=all_ignored, backend=backend
                )
                assert grad.shape == shape
                if reduction == "none":
                    assert loss.shape == shape[:-1]
                elif reduction == "sum" or all_ignored == "zero":
                    assert loss == 0
                else:
                    assert np.isnan(loss)
        assert fx.softmax(logits, backend=backend).shape == shape
        assert fx.logsumexp(logits, backend=backend).shape == shape[:-1]
