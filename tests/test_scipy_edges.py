"""softmax, log_softmax and logsumexp beside scipy.special: the same edges, and where not, why."""

import numpy as np
import pytest

import fastxent as fx

scipy = pytest.importorskip("scipy")
special = pytest.importorskip("scipy.special")

NAMES = ["softmax", "log_softmax", "logsumexp"]
INF, NAN = np.inf, np.nan

# No entry is +inf: those are below.
ROWS = {
    "plain": [0.5, -1.0, 2.0, 0.0],
    "equal": [3.0, 3.0, 3.0, 3.0],
    "zeros of both signs": [0.0, -0.0, 0.0, -0.0],
    "one masked": [1.0, -INF, 2.0, 0.0],
    "all but one masked": [-INF, -INF, 7.0, -INF],
    "all masked": [-INF, -INF, -INF, -INF],
    "a NaN": [1.0, NAN, 2.0, 0.0],
    "a NaN beside -inf": [-INF, NAN, -INF, 0.0],
    "nothing but NaN": [NAN, NAN, NAN, NAN],
    "a large offset": [1e4, 1e4 + 1, 1e4 - 2, 1e4],
    "a large negative offset": [-1e4, -1e4 + 1, -1e4 - 2, -1e4],
    "the largest numbers": [3e38, 3e38, 0.0, -3e37],
    "far apart": [0.0, -1000.0, -80.0, -745.0],
    "tiny": [1e-38, 2e-38, 0.0, -1e-38],
}


def of_scipy(name, x, axis):
    """SciPy's answer; it warns where the answer is infinite or NaN."""
    with np.errstate(all="ignore"):
        return np.asarray(getattr(special, name)(x, axis=axis))


def agrees(name, x, axis, backend=None):
    ours = np.asarray(getattr(fx, name)(x, axis, backend=backend))
    theirs = of_scipy(name, x.astype(np.float64), axis)
    assert ours.shape == of_scipy(name, x, axis).shape
    assert ours.dtype == x.dtype
    rounding = float(np.finfo(x.dtype).eps)
    # the logarithm of s is off by its rounding, and z - m by that of the larger of the two
    largest = np.max(np.abs(x), where=np.isfinite(x), initial=1.0)
    absolute = rounding * (largest if name == "logsumexp" else 8.0) + np.finfo(x.dtype).tiny
    np.testing.assert_allclose(ours, theirs, rtol=16 * rounding, atol=absolute)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("repeats", [1, 40])
def test_the_edges_are_those_of_scipy(backend, name, dtype, row, repeats):
    # with other rows beside it, which must not feel it; 160 classes do not fit a tile
    x = np.tile(np.array([ROWS["plain"], ROWS[row], ROWS["far apart"]], dtype), (1, repeats))
    agrees(name, x, -1, backend)
    agrees(name, np.ascontiguousarray(x.T), 0, backend)
    agrees(name, x[1], 0, backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "axis", [0, 1, 2, -1, -3, (0, 1), (1, 0), (0, 2), (-1, 0), (0, 1, 2), None]
)
def test_any_axes(backend, name, dtype, axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    agrees(name, x, axis, backend)
    agrees(name, x.transpose(2, 0, 1), axis, backend)
    agrees(name, x[::2, ::-1], axis, backend)
    x[1, 2, 3] = -INF
    x[0, 0] = -INF
    agrees(name, x, axis, backend)
    x[2, 1, 1] = NAN
    agrees(name, x, axis, backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), 0), ((1,), None), ((3, 1), 1), ((1, 3), 1), ((3, 1), None), ((1, 1, 1), (0, 2)),
     ((0, 3), 1), ((2, 0, 3), 2)],
)  # fmt: skip
def test_sizes_of_one_and_none(backend, name, shape, axis):
    x = np.full(shape, 2.5)
    agrees(name, x, axis, backend)


def test_no_rows_over_several_axes(backend):
    # SciPy 1.17's logsumexp fails there with an IndexError
    x = np.zeros((2, 0, 3))
    for name in NAMES[:2]:
        agrees(name, x, (0, 2), backend)
    assert np.shape(fx.logsumexp(x, (0, 2), backend=backend)) == (0,)


@pytest.mark.parametrize("value", [0.0, 3.5, -INF, INF, NAN])
def test_one_class(backend, value):
    x = np.full((3, 1), value)
    for name in NAMES:
        agrees(name, x, 1, backend)


def test_scalars(backend):
    for name in NAMES:
        agrees(name, np.float64(2.5)[...], None, backend)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_with_plus_inf_where_scipy_agrees(backend, dtype):
    # inf - inf: the softmax has no limit there, the sum of exponentials has
    x = np.array([[INF, 0.0, 1.0], [INF, INF, 0.0], [INF, -INF, 0.0], [INF, NAN, 0.0]], dtype)
    agrees("softmax", x, 1, backend)
    agrees("logsumexp", x, 1, backend)
    assert np.isnan(fx.softmax(x, backend=backend)).all()
    assert np.array_equal(fx.logsumexp(x, backend=backend), [INF, INF, INF, NAN], equal_nan=True)


# --- where we differ on purpose


def test_log_softmax_beside_plus_inf_is_nan_where_scipy_says_minus_inf(backend):
    # SciPy's log_softmax gives -inf for the finite entries, whose softmax both libraries call NaN.
    # The logarithm of NaN is NaN: a row without a softmax has no logarithm of one either.
    x = np.array([[INF, 0.0, 1.0], [0.0, 1.0, 2.0]])
    theirs = of_scipy("log_softmax", x, 1)
    assert np.isneginf(theirs[0, 1:]).all()
    ours = fx.log_softmax(x, backend=backend)
    assert np.isnan(ours[0]).all()
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-14)


def test_integers_are_an_error_where_scipy_converts_them():
    # nothing is converted silently: the result's dtype would be a guess
    x = np.arange(3)
    assert of_scipy("softmax", x, 0).dtype == np.float64
    for name in NAMES:
        with pytest.raises(fx.DTypeError, match="not converted silently"):
            getattr(fx, name)(x)


def test_the_default_axis_is_the_last_where_scipy_takes_all_but_in_name():
    # classes are on the last axis in every framework; axis=None is SciPy's default
    x = np.random.default_rng(0).normal(size=(3, 4))
    for name in NAMES:
        default, every = getattr(fx, name)(x), of_scipy(name, x, None)
        np.testing.assert_allclose(default, of_scipy(name, x, -1), rtol=1e-13)
        np.testing.assert_allclose(getattr(fx, name)(x, None), every, rtol=1e-13)
        assert default.shape != every.shape or not np.allclose(default, every)


def test_no_classes_are_an_error_where_scipy_gives_nothing():
    # a softmax over nothing has no entry to hold; logsumexp of nothing is -inf in both
    x = np.zeros((3, 0))
    try:
        assert of_scipy("logsumexp", x, 1).tolist() == [-INF] * 3
    except ValueError:  # of NumPy, which SciPy let through before 1.15
        assert tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15)
    assert np.asarray(fx.logsumexp(x, 1)).tolist() == [-INF] * 3
    for name in ("softmax", "log_softmax"):
        with pytest.raises(fx.ShapeError, match="no class"):
            getattr(fx, name)(x, 1)


def test_half_precision_gives_a_wider_logsumexp(backend):
    # SciPy rounds to float16; what a loss is made of is never below float32 here
    x = np.array([[1.0, 2.0, 3.0], [-INF, -INF, -INF], [INF, 0.0, 0.0]], np.float16)
    reason = "kernels for half precision"
    try:
        result = fx.logsumexp(x, backend=backend)
    except fx.BackendError as error:
        pytest.skip(f"{reason}: {error}")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, of_scipy("logsumexp", x.astype(np.float64), 1), rtol=1e-6)
