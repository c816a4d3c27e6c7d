"""What the Numba kernels compute: exp, labels, and the bits of their compiled twin on every way."""

import platform

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load

REASON = fx.backends()["numba"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}")


# --- exp


@pytest.fixture(scope="module")
def exp_kernel():
    """exp of an array, by the lanes that the kernels use."""
    import numba

    from fastxent.backends.numba_cpu.elementary import exp_of_negative
    from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, store

    @numba.njit
    def kernel(x, y, n, zero):
        source, result = pointer(x, 0, zero), pointer(y, 0, zero)
        whole = n - n % lane_count(zero)
        for k in range(0, whole, lane_count(zero)):
            store(result, k, None, exp_of_negative(load(source, k, None, 0.0, zero)))
        if whole < n:
            some = n - whole
            store(result, whole, some, exp_of_negative(load(source, whole, some, 0.0, zero)))

    return kernel


@pytest.fixture
def most_ulps(avx2):
    """0.88 ULP with a fused multiply-add, 1.17 on the x86 CPUs that have none."""
    return 1.0 if avx2 or platform.machine() not in ("x86_64", "AMD64") else 1.25


def exp_of(kernel, x):
    result = np.full(len(x) + 1, 7, x.dtype)
    kernel(x.ctypes.data, result.ctypes.data, len(x), x.dtype.type(0))
    assert result[-1] == 7  # nothing is written beyond the end
    return result[:-1]


def ulps(value, exact):
    return np.abs(value.astype(np.longdouble) - exact) / np.spacing(exact.astype(value.dtype))


def test_exp_of_float32_is_good_to_about_one_ulp(exp_kernel, most_ulps):
    # every 199th number from -0 to -87.3, and all of the last 100,000
    last = int(np.float32(-87.3).view(np.uint32))
    bits = np.r_[np.arange(1 << 31, last, 199), np.arange(last - 100_000, last)]
    x = bits.astype(np.uint32).view(np.float32)
    assert ulps(exp_of(exp_kernel, x), np.exp(x.astype(np.float64))).max() < most_ulps


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no wider type to compare with")
def test_exp_of_float64_is_good_to_about_one_ulp(exp_kernel, most_ulps):
    x = np.r_[np.linspace(-708, 0, 1_000_003), -np.logspace(-20, 0, 100_001)]
    assert ulps(exp_of(exp_kernel, x), np.exp(x.astype(np.longdouble))).max() < most_ulps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_of_special_values(exp_kernel, dtype):
    x = np.array([0.0, -0.0, np.nan, -np.inf, -np.finfo(dtype).max, -800.0], dtype)
    assert np.array_equal(exp_of(exp_kernel, x), [1, 1, np.nan, 0, 0, 0], equal_nan=True)


# --- labels, where the conformance suite does not look


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32,
                                   np.int64, np.uint64])  # fmt: skip
def test_check_labels_at_the_ends_of_the_dtype(dtype):
    limits = np.iinfo(dtype)
    ours, plain = load("numba").check_labels, load("numpy").check_labels
    labels = np.array([3, 0, limits.max, 1, limits.min], dtype)
    for skip in (None, 0, 3, limits.max, limits.min):
        for target in (labels, labels[:2], labels[:3], labels[3:], labels[:0]):
            found, expected = (
                ours(target, 4, skip, None, None, 1),
                plain(target, 4, skip, None, None, 1),
            )
            assert found.bad_row == expected.bad_row
            assert found.bad_row >= 0 or found == expected


def test_label_masses_have_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 100_001).astype(np.int16)
    masses = rng.random(50), rng.random(len(labels))
    found = {load("numba").check_labels(labels, 50, 7, *masses, threads) for threads in (1, 2, 5)}
    assert len(found) == 1
    labels[[70_000, 90_000]] = -1, 50
    for threads in (1, 2, 5):
        assert load("numba").check_labels(labels, 50, 7, *masses, threads).bad_row == 70_000


# --- the same bits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 17, 64, 100, 101, 129, 511, 1023, 1025, 5000])
def test_the_compiled_twin_gives_the_same_bits(dtype, classes):
    if fx.backends()["cython"] is not None:
        pytest.skip("cython: " + str(fx.backends()["cython"]))
    if load("cython").info()["instruction level"] not in ("v3", "v4"):
        pytest.skip("the compiled backend runs without a fused multiply-add")
    rng = np.random.default_rng(classes)
    rows = 21  # a whole tile and part of one
    logits = (4 * rng.normal(size=(rows, classes))).astype(dtype)
    labels, soft = rng.integers(0, classes, rows), rng.random((rows, classes)).astype(dtype)
    labels[[4, 20]] = -100
    weight, row_weight = np.linspace(0.5, 1.5, classes), rng.random(rows)
    smooth = {"label_smoothing": 0.1}
    for target in (labels, soft, soft.astype(np.float64), soft.astype(np.float32), soft > 0.5):
        for options in ({}, smooth, {"weight": weight, "sample_weight": row_weight, **smooth}):
            for reduction in ("none", "mean"):
                results = [
                    fx.cross_entropy_and_grad(
                        logits, target, backend=name, reduction=reduction, **options
                    )
                    for name in ("cython", "numba")
                ]
                for ours, other in zip(*results, strict=True):
                    assert np.array_equal(ours, other)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        assert np.array_equal(function(logits, backend="cython"), function(logits, backend="numba"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_shared_among_threads_have_the_same_bits(dtype):
    rng = np.random.default_rng(1)
    logits = (4 * rng.normal(size=(4, 70_001))).astype(dtype)
    logits[0, :2000] = -np.inf
    labels = np.array([3_000, -100, 70_000, 0])
    soft = rng.random(logits.shape)
    for target in (labels, soft):
        for options in ({}, {"label_smoothing": 0.1, "reduction": "sum"}, {"reduction": "none"}):
            results = [
                fx.cross_entropy_and_grad(
                    logits, target, backend="numba", num_threads=threads, **options
                )
                for threads in (1, 2, 5)
            ]
            for loss, grad in results[1:]:
                assert np.array_equal(loss, results[0][0], equal_nan=True)
                assert np.array_equal(grad, results[0][1])
    results = [fx.log_softmax(logits, backend="numba", num_threads=n) for n in (1, 2, 5)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("classes", [10, 200, 70_000])
def test_mean_loss_gives_the_same_bits_on_all_its_ways(classes):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20, classes)).astype(np.float32)
    labels = rng.integers(0, min(classes, 100), 20)
    labels[3] = -100
    read_only = logits.copy()
    read_only.flags.writeable = False
    mean_loss, found = load("numba").mean_loss, set()
    for z, y, threads in (
        (logits, labels, 1),
        (logits, labels.astype(np.int16), 1),
        (read_only, labels, 1),
        (logits, labels, 2),
        (logits, labels, 5),
    ):
        grad = np.empty_like(logits)
        found.add((mean_loss(z, y, -100, grad, threads), grad.tobytes()))
        found.add((mean_loss(z, y, -100, None, threads), grad.tobytes()))
    assert len(found) == 1


# --- no variants


def test_layouts_share_one_signature():
    from fastxent.backends.numba_cpu.kernels import FORWARD

    before = set(FORWARD.compiled)
    logits = np.zeros((6, 40), np.float32)
    for view in (
        logits,
        logits[:, ::-1],
        logits[::2],
        logits.T,
        np.broadcast_to(logits[0], (5, 40)),
    ):
        for dtype in (np.uint8, np.int64):
            labels = np.zeros(len(view), dtype)
            fx.cross_entropy_and_grad(view, labels, backend="numba", num_threads=1)
    # rows that are read where they lie, and all others
    made = set(FORWARD.compiled) - before
    assert {key[-2] for key in made} <= {type(None), np.float32}
    assert len(made) <= 2


def test_unusual_arrays_make_no_variants_of_mean_loss():
    from fastxent.backends.numba_cpu.launch import MEAN_LOSS

    logits, labels = np.zeros((6, 40), np.float32), np.zeros(6, np.int64)
    fx.cross_entropy(logits, labels, backend="numba")
    fx.cross_entropy_and_grad(logits, labels, backend="numba")
    before = len(MEAN_LOSS.signatures)
    read_only = logits.copy()
    read_only.flags.writeable = False
    fixed = labels.copy()
    fixed.flags.writeable = False
    for z, y in (
        (read_only, labels),
        (logits, fixed),
        (np.zeros((6, 80), np.float32)[:, ::2], labels),
        (logits.T.copy().T, labels),
        (logits, labels.astype(np.int32)),
        (logits, np.zeros(12, np.int64)[::2]),
        (np.zeros(961, np.uint8)[1:].view(np.float32).reshape(6, 40), labels),
    ):
        fx.cross_entropy_and_grad(z, y, backend="numba", ignore_index=None)
    assert len(MEAN_LOSS.signatures) == before
