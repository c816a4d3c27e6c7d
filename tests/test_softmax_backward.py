"""The Jacobian products: against formulas, PyTorch and finite differences; their own bits."""

import ml_dtypes
import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# As in docs/design.md: half precision is one rounding of what float32 gives.
ROUNDING = {"float32": 2**-24, "float64": 2**-53, "float16": 2**-11, "bfloat16": 2**-8}
PRODUCTS = [fx.softmax_backward, fx.log_softmax_backward]


def is_log(product):
    return product is fx.log_softmax_backward


def exact(product, first, grad, axis=-1):
    """The formula in a wider type, and for each entry the size of the terms it is made of."""
    first, grad = (np.asarray(one).astype(np.float64) for one in (first, grad))
    first, grad = first.astype(np.longdouble), grad.astype(np.longdouble)
    with np.errstate(all="ignore"):
        if is_log(product):
            p = np.exp(first)
            total, size = (f(grad).sum(axis=axis, keepdims=True) for f in (np.asarray, np.abs))
            return grad - p * total, np.abs(grad) + p * size
        terms = first * grad
        total, size = (f(terms).sum(axis=axis, keepdims=True) for f in (np.asarray, np.abs))
        return first * (grad - total), np.abs(first) * (np.abs(grad) + size)


def arguments(product, shape, dtype=np.float64, axis=-1, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    x = scale * rng.normal(size=shape)
    first = fx.log_softmax(x, axis=axis) if is_log(product) else fx.softmax(x, axis=axis)
    return first.astype(dtype), rng.normal(size=shape).astype(dtype)


def close(product, result, first, grad, axis=-1):
    expected, size = exact(product, first, grad, axis)
    rounding = ROUNDING[result.dtype.name]
    most = 2.0**-24 if result.itemsize == 2 else rounding
    # a handful of roundings of the terms; the result's own; float16's smallest step
    error = np.abs(result.astype(np.float64) - expected)
    allowed = 8 * most * size + rounding * np.abs(expected)
    if result.dtype.name == "float16":
        allowed += 2.0**-25
    return bool((error <= allowed + np.finfo(np.float32).tiny).all())


CLASSES = [1, 2, 3, 5, 10, 16, 17, 64, 99, 100, 101, 130, 1000, 1024, 1025, 5000]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_rows_of_any_length_are_those_of_the_formula(backend, product, dtype, classes):
    first, grad = arguments(product, (37, classes), dtype)
    result = product(first, grad, backend=backend)
    assert result.dtype == dtype
    assert result.shape == first.shape
    assert close(product, result, first, grad)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((7,), 0),
        ((5, 7), 0),
        ((3, 21, 64), 1),
        ((3, 21, 67), 1),
        ((2, 300, 40), 1),
        ((2, 130, 3), 1),
        ((2, 5, 9, 8), 1),
        ((2, 3, 2, 3, 4, 5), 2),
        ((70, 6), 0),
        ((3, 4, 5), (0, 2)),
        ((3, 4, 5), (2, 1)),
        ((3, 4, 5, 2, 3, 2, 2), (0, 3, 5)),
        ((3, 4, 5), None),
        ((3, 4), ()),
        ((0, 4), 1),
    ],
)
def test_any_axis(backend, product, dtype, shape, axis):
    first, grad = arguments(product, shape, dtype, axis)
    before = first.tobytes(), grad.tobytes()
    result = product(first, grad, axis, backend=backend)
    assert result.shape == shape
    assert close(product, result, first, grad, axis)
    out = np.empty(shape, dtype)
    assert product(first, grad, axis, out=out, backend=backend) is out
    assert np.array_equal(out.view(np.uint8), result.copy().view(np.uint8))
    assert before == (first.tobytes(), grad.tobytes())


def test_scalars_are_one_class():
    for product, first in ((fx.softmax_backward, 1.0), (fx.log_softmax_backward, 0.0)):
        result = product(np.float64(first), np.float64(3.0), None)
        assert result.shape == ()
        assert result == 0


def test_against_pytorch_in_float64(backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for shape, axis in (((40, 10), 1), ((6, 1500), 1), ((3, 12, 5, 7), 1), ((9, 4), 0)):
        for product, name in zip(PRODUCTS, ("softmax", "log_softmax"), strict=True):
            x = torch.from_numpy(rng.normal(size=shape)).requires_grad_()
            upstream = torch.from_numpy(rng.normal(size=shape))
            forward = getattr(torch, name)(x, axis)
            (expected,) = torch.autograd.grad(forward, x, upstream)
            result = product(forward.detach().numpy(), upstream.numpy(), axis, backend=backend)
            np.testing.assert_allclose(result, expected.numpy(), rtol=1e-12, atol=1e-14)


def test_against_finite_differences(backend):
    rng = np.random.default_rng(2)
    x, upstream, step = rng.normal(size=(3, 6)), rng.normal(size=(3, 6)), 1e-6
    for product, forward in zip(PRODUCTS, (fx.softmax, fx.log_softmax), strict=True):
        result = product(forward(x), upstream, backend=backend)
        for place in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[place] += step
            down[place] -= step
            slope = ((forward(up) - forward(down)) * upstream).sum() / (2 * step)
            assert abs(result[place] - slope) < 1e-8


def test_equals_the_gradient_of_the_cross_entropy(backend):
    # -log p[y] through the log-softmax: p - [k = y]
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 130)), rng.integers(0, 130, 50)
    upstream = np.zeros_like(x)
    upstream[np.arange(50), y] = -1 / 50
    _, grad = fx.cross_entropy_and_grad(x, y)
    result = fx.log_softmax_backward(fx.log_softmax(x), upstream, backend=backend)
    np.testing.assert_allclose(result, grad, rtol=1e-13, atol=1e-17)


# --- layouts


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    view = memory.view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned or array.itemsize == 1
    return view


def with_gaps(array):
    room = np.zeros(tuple(2 * size for size in array.shape), array.dtype)
    view = room[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


LAYOUTS = {
    "plain": lambda a: a,
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "gaps": with_gaps,
    "padded": lambda a: np.pad(a, ((0, 0), (0, 5)))[:, : a.shape[1]],
    "unaligned": unaligned,
    "foreign": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("classes", [7, 140])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout(backend, product, classes, layout):
    for dtype in DTYPES:
        first, grad = arguments(product, (67, classes), dtype)
        if layout == "foreign" and first.dtype.kind == "V":
            continue  # ml_dtypes has no foreign byte order
        lay = LAYOUTS[layout]
        for pair in ((lay(first), grad), (first, lay(grad)), (lay(first), lay(grad))):
            assert close(product, product(*pair, backend=backend), first, grad)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("classes", [7, 140])
@pytest.mark.parametrize("layout", ["fortran", "reversed", "gaps", "padded", "unaligned"])
def test_output_of_any_layout(backend, product, classes, layout):
    for dtype in DTYPES:
        first, grad = arguments(product, (67, classes), dtype)
        out = LAYOUTS[layout](np.zeros_like(first))
        assert product(first, grad, out=out, backend=backend) is out
        assert close(product, out, first, grad)


def test_nothing_beside_the_output_is_written(backend):
    for dtype in DTYPES:
        for product in PRODUCTS:
            for classes in (10, 140):
                first, grad = arguments(product, (35, classes), dtype)
                room = np.full((70, 2 * classes + 3), 5, dtype)
                out = room[::2, 1 : 2 * classes : 2]
                product(first, grad, out=out, backend=backend)
                out[...] = 5
                assert (room == 5).all()


def test_broadcast_inputs(backend):
    row = fx.softmax(np.arange(12.0))
    grad = np.random.default_rng(0).normal(size=(40, 12))
    p = np.broadcast_to(row, grad.shape)
    result = fx.softmax_backward(p, grad, backend=backend)
    assert close(fx.softmax_backward, result, p, grad)
    ones = np.broadcast_to(np.ones(()), grad.shape)
    assert np.abs(fx.softmax_backward(p, ones, backend=backend)).max() < 1e-16


def test_inputs_of_any_axis_are_not_copied(backend):
    import tracemalloc

    first, grad = arguments(fx.softmax_backward, (4, 60, 500), np.float32, 1)
    out = np.empty_like(first)
    fx.softmax_backward(first, grad, 1, out=out, backend=backend)
    tracemalloc.start()
    try:
        fx.softmax_backward(first, grad, 1, out=out, backend=backend, num_threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if backend != "numpy":  # which computes in groups of rows
        assert peak < first.nbytes / 2


# --- in place


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize(("shape", "axis"), [((50, 10), 1), ((9, 3000), 1), ((3, 20, 70), 1)])
def test_in_place_over_either_input(backend, product, shape, axis):
    for dtype in DTYPES:
        first, grad = arguments(product, shape, dtype, axis)
        expected = product(first, grad, axis, backend=backend).tobytes()
        for over in (0, 1):
            pair = [first.copy(), grad.copy()]
            assert product(*pair, axis, out=pair[over], backend=backend) is pair[over]
            assert pair[over].tobytes() == expected
            assert pair[1 - over].tobytes() == (grad, first)[over].tobytes()
            pair = [first.copy(), grad.copy()]
            product(*pair, axis, out=pair[over][...], backend=backend)  # another view of the same
            assert pair[over].tobytes() == expected


def test_in_place_where_both_inputs_are_one_array(backend):
    p = fx.softmax(np.random.default_rng(0).normal(size=(20, 30)))
    expected = fx.softmax_backward(p, p.copy(), backend=backend)
    assert np.array_equal(fx.softmax_backward(p, p, out=p, backend=backend), expected)


# --- special numbers


@pytest.mark.parametrize("classes", [3, 10, 101, 3000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(backend, dtype, classes):
    for product in PRODUCTS:
        for which in (0, 1):
            first, grad = pair = arguments(product, (40, classes), dtype)
            clean = product(first, grad, backend=backend)
            pair[which][7, classes // 2] = np.nan
            result = product(first, grad, backend=backend)
            others = np.arange(40) != 7
            assert result[others].tobytes() == clean[others].tobytes()
            only_there = is_log(product) and which == 0
            assert np.isnan(result[7].astype(np.float64)).sum() == (1 if only_there else classes)


@pytest.mark.parametrize("classes", [4, 150])
def test_infinite_gradients_are_those_of_the_formula(backend, classes):
    for dtype in DTYPES:
        for product in PRODUCTS:
            first, grad = arguments(product, (20, classes), dtype, scale=1.0)
            grad[3, 1], grad[5, 2] = np.inf, -np.inf
            grad[7, 1], grad[7, 2] = np.inf, -np.inf
            first[9, 0] = -np.inf if is_log(product) else 0
            grad[9, 0] = np.inf  # 0 * inf
            result = product(first, grad, backend=backend).astype(np.float64)
            expected, _ = exact(product, first, grad)
            for kind in (np.isnan, np.isposinf, np.isneginf):
                assert np.array_equal(kind(result), kind(expected))
            if not is_log(product):
                assert np.isnan(result[9]).all()


@pytest.mark.parametrize("classes", [4, 150])
def test_masked_classes(backend, classes):
    x = np.random.default_rng(0).normal(size=(30, classes))
    x[:, 1] = -np.inf
    grad = np.random.default_rng(1).normal(size=x.shape)
    through = fx.softmax_backward(fx.softmax(x), grad, backend=backend)
    assert (through[:, 1] == 0).all()
    # exp(-inf) is 0 exactly: what is left is the gradient itself
    through = fx.log_softmax_backward(fx.log_softmax(x), grad, backend=backend)
    assert np.array_equal(through[:, 1], grad[:, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [5, 200])
def test_logarithms_a_little_above_zero(backend, dtype, classes):
    rows = 200
    rng = np.random.default_rng(0)
    first = np.full((rows, classes), -np.inf, dtype)
    above = np.spacing(dtype(1)) * np.arange(rows)
    first[:, 2] = np.where(np.arange(rows) % 2, above, np.linspace(0, 60, rows)).astype(dtype)
    grad = rng.normal(size=first.shape).astype(dtype)
    result = fx.log_softmax_backward(first, grad, backend=backend)
    assert close(fx.log_softmax_backward, result, first, grad)


def test_logarithms_that_are_none_overflow_as_the_formula_does(backend):
    for dtype, beyond in ((np.float32, 90.0), (np.float64, 711.0)):
        for classes in (5, 200):
            for value in (beyond, 2 * beyond, 1e30, np.inf):
                first = np.full((20, classes), value, dtype)
                result = fx.log_softmax_backward(first, np.ones_like(first), backend=backend)
                assert np.isneginf(result).all()


def test_sums_do_not_drift_with_the_number_of_classes(backend):
    for classes in (100, 100_000):
        log_p = np.full((2, classes), -np.log(classes), np.float32)
        grad = (1 + np.random.default_rng(0).random((2, classes))).astype(np.float32)
        result = fx.log_softmax_backward(log_p, grad, backend=backend)
        assert close(fx.log_softmax_backward, result, log_p, grad)
        share, _ = exact(fx.log_softmax_backward, log_p, grad)
        assert np.abs(result - share).max() < 6e-7


# --- the same bits


BITS = [((40, 10), 1), ((33, 100), 1), ((70, 300), 1), ((2, 70_000), 1), ((3, 21, 200), 1),
        ((2, 130, 67), 1), ((300, 5), 0)]  # fmt: skip


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads(backend, product, dtype):
    for shape, axis in BITS:
        first, grad = arguments(product, shape, dtype, axis)
        found = {
            product(first, grad, axis, backend=backend, num_threads=n).tobytes() for n in (1, 2, 5)
        }
        assert len(found) == 1, shape


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_other_rows(backend, product, dtype):
    for classes in (10, 300):
        first, grad = arguments(product, (50, classes), dtype)
        whole = product(first, grad, backend=backend)
        for rows in (slice(0, 1), slice(3, 20), slice(17, 50)):
            assert product(first[rows], grad[rows], backend=backend).tobytes() == (
                whole[rows].tobytes()
            )


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cython_and_numba_give_the_same_bits(product, dtype):
    for name in ("cython", "numba"):
        if fx.backends()[name] is not None:
            pytest.skip(f"{name}: {fx.backends()[name]}")
    if load("cython").info()["instruction level"] not in ("v3", "v4"):
        pytest.skip("the compiled backend runs without a fused multiply-add")
    for shape, axis in BITS:
        first, grad = arguments(product, shape, dtype, axis)
        for flip in (1, -1):
            pair = first[::flip, ..., ::flip], grad[::flip, ..., ::flip]
            results = {product(*pair, axis, backend=name).tobytes() for name in ("cython", "numba")}
            assert len(results) == 1, shape


def test_half_precision_rounds_to_the_nearest(backend):
    # g - exp(-inf) * sum g is g: what comes back is what was widened and narrowed
    for dtype, kind in ((np.float16, np.uint16), (ml_dtypes.bfloat16, np.uint16)):
        every = np.arange(1 << 16, dtype=kind).view(dtype)
        every = every[np.isfinite(every.astype(np.float32))]
        grad = np.stack([every, -every, np.zeros_like(every)], axis=1)
        log_p = np.full(grad.shape, -np.inf, dtype)
        result = fx.log_softmax_backward(log_p, grad, backend=backend)
        assert np.array_equal(result, grad)
    # p * (g - sum p g) with one p of two: products between two numbers of the dtype, and ties
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rng = np.random.default_rng(0)
        p = np.zeros((20_000, 2), dtype)
        grad = np.zeros_like(p)
        p[:, 0] = (rng.random(20_000) * 2).astype(dtype)
        grad[:, 1] = rng.normal(size=20_000).astype(dtype)
        p[:, 1] = np.exp2(-rng.integers(0, 30, 20_000).astype(np.float32)).astype(dtype)
        result = fx.softmax_backward(p, grad, backend=backend)
        a, b = p.astype(np.float32), grad.astype(np.float32)
        total = (a[:, 1] * b[:, 1])[:, None]
        assert np.array_equal(result, (a * (b - total)).astype(dtype))


# --- errors


def test_errors_say_what_to_do():
    p, grad = arguments(fx.softmax_backward, (4, 6), np.float32)
    with pytest.raises(fx.DTypeError, match=r"p has dtype float32 and grad_p float64.*astype"):
        fx.softmax_backward(p, grad.astype(np.float64))
    with pytest.raises(fx.DTypeError, match=r"log_p has dtype float32 and grad float16"):
        fx.log_softmax_backward(p, grad.astype(np.float16))
    with pytest.raises(fx.DTypeError, match=r"grad_p has dtype int64: integers.*not converted"):
        fx.softmax_backward(p, np.ones((4, 6), np.int64))
    with pytest.raises(fx.ShapeError, match=r"grad_p needs shape \(4, 6\), that of p; it has"):
        fx.softmax_backward(p, grad[:3])
    with pytest.raises(fx.ShapeError, match="axis 2 is out of range for p of 2"):
        fx.softmax_backward(p, grad, 2)
    with pytest.raises(fx.ShapeError, match="twice"):
        fx.softmax_backward(p, grad, (0, -2))
    with pytest.raises(fx.ShapeError, match="p is a scalar"):
        fx.softmax_backward(np.float32(1), np.float32(1))
    with pytest.raises(fx.ShapeError, match="no class"):
        fx.softmax_backward(p[:, :0], grad[:, :0])
    with pytest.raises(fx.OptionError, match="num_threads"):
        fx.softmax_backward(p, grad, num_threads=0)
    with pytest.raises(fx.OptionError, match="backend"):
        fx.softmax_backward(p, grad, backend="gpu")


def test_outputs_that_would_give_wrong_results_are_errors():
    room = np.zeros((5, 6), np.float32)
    p, grad = room[:4], np.ones((4, 6), np.float32)
    with pytest.raises(fx.OutputError, match="out overlaps p without being the same array"):
        fx.softmax_backward(p, grad, out=room[1:])
    with pytest.raises(fx.OutputError, match="out overlaps grad_p without being"):
        fx.softmax_backward(grad, p, out=room[1:])
    with pytest.raises(fx.OutputError, match="out overlaps log_p"):
        fx.log_softmax_backward(p, grad, out=p[::-1])
    with pytest.raises(fx.OutputError, match="out overlaps grad without"):
        # exactly one input, but across the other
        fx.log_softmax_backward(p, room[1:], out=p)
    with pytest.raises(fx.DTypeError, match="out needs dtype float32"):
        fx.softmax_backward(p, grad, out=np.empty((4, 6)))
    with pytest.raises(fx.ShapeError, match=r"out needs shape \(4, 6\)"):
        fx.softmax_backward(p, grad, out=np.empty((6, 4), np.float32))
    with pytest.raises(fx.DTypeError, match="plain NumPy array"):
        fx.softmax_backward(p, grad, out=[[0.0] * 6] * 4)
    spare = np.empty(9, np.float32)
    with pytest.raises(fx.OutputError, match="broadcast"):
        fx.softmax_backward(p, grad, out=np.lib.stride_tricks.as_strided(spare, (4, 6), (4, 4)))
    fixed = np.empty((4, 6), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(fx.OutputError, match="read-only"):
        fx.softmax_backward(p, grad, out=fixed)
