"""The short way of a call without options: the bits of the long way, or no say at all."""

import tracemalloc

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load

SHAPES = [(1, 1), (3, 2), (32, 10), (17, 100), (16, 101), (5, 1000), (3, 1025), (2, 40000)]


def arrays(shape, dtype=np.float32, labels=np.int64):
    rng = np.random.default_rng(7)
    logits = (4 * rng.standard_normal(shape)).astype(dtype)
    return logits, rng.integers(0, min(shape[1], 100), shape[0]).astype(labels)


def long_way(logits, target, **options):
    """The same call with an option spelled so that it cannot go the short way."""
    return fx.cross_entropy_and_grad(logits, target, axis=np.int64(-1), **options)


def same_bits(one, other):
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_short_way_gives_the_bits_of_the_long_one(backend, shape, dtype):
    logits, target = arrays(shape, dtype)
    target[::3] = -100 if shape[0] > 3 else target[::3]
    loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
    expected, expected_grad = long_way(logits, target, backend=backend)
    assert type(loss) is dtype
    assert same_bits(loss, expected)
    assert same_bits(grad, expected_grad)
    assert same_bits(fx.cross_entropy(logits, target, backend=backend), expected)
    in_place = logits.copy()
    loss, grad = fx.cross_entropy_and_grad(in_place, target, backend=backend, out=in_place)
    assert grad is in_place
    assert same_bits(loss, expected)
    assert same_bits(grad, expected_grad)


@pytest.mark.parametrize("labels", "bBhHiIqQ")
def test_every_integer_type_of_labels(backend, labels):
    logits, target = arrays((40, 10), labels=labels)
    loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
    expected, expected_grad = long_way(logits, target, backend=backend)
    assert same_bits(loss, expected)
    assert same_bits(grad, expected_grad)


def test_compiled_backends_take_plain_arrays_the_short_way(backend):
    logits, target = arrays((32, 10))
    grad = np.full_like(logits, 7)
    mean = load(backend).mean_loss(logits, target, -100, grad, 1)
    if backend == "numpy":
        assert mean is None
        assert (grad == 7).all()
    else:
        assert np.float32(mean) == fx.cross_entropy(logits, target, backend=backend)
        assert (grad != 7).all()


def unusual():
    """Arguments that are not plain, with the reason why."""
    logits, target = arrays((6, 10))
    yield "foreign byte order", (logits.astype(">f4"), target, np.empty_like(logits))
    yield "foreign labels", (logits, target.astype(">i8"), np.empty_like(logits))
    yield "Fortran order", (np.asfortranarray(logits), target, np.empty_like(logits))
    yield "reversed classes", (logits[:, ::-1], target, np.empty_like(logits))
    yield "three dimensions", (logits[None], target[None], np.empty_like(logits)[None])
    yield "one row", (logits[0], target[0], np.empty_like(logits[0]))
    yield "probabilities", (logits, logits, np.empty_like(logits))
    yield "stepped labels", (logits, np.repeat(target, 2)[::2], np.empty_like(logits))
    yield "half precision", (logits.astype("f2"), target, np.empty_like(logits))
    yield "boolean labels", (logits, target.astype(bool), np.empty_like(logits))
    yield "too few labels", (logits, target[1:], np.empty_like(logits))
    yield "no rows", (logits[:0], target[:0], np.empty_like(logits[:0]))
    yield "no classes", (logits[:, :0], target, np.empty_like(logits[:, :0]))
    yield "another shape of out", (logits, target, np.empty_like(logits[1:]))
    yield "another dtype of out", (logits, target, np.empty_like(logits, dtype="f8"))
    read_only = np.empty_like(logits)
    read_only.flags.writeable = False
    yield "read-only out", (logits, target, read_only)
    buffer = np.empty(200, np.float32)
    buffer[:60] = logits.reshape(-1)
    yield "overlap", (buffer[:60].reshape(6, 10), target, buffer[10:70].reshape(6, 10))
    yield "out over the labels", (logits, target, target.view(np.float32)[:12].reshape(6, 2))
    broadcast = np.lib.stride_tricks.as_strided(np.empty(10, np.float32), (6, 10), (0, 4))
    yield "out that is one row", (logits, target, broadcast)
    unaligned = np.zeros(6 * 40 + 1, np.uint8)[1:].view(np.float32).reshape(6, 10)
    yield "unaligned", (unaligned, target, np.empty_like(logits))


@pytest.mark.parametrize(("reason", "call"), list(unusual()), ids=lambda value: str(value)[:30])
def test_what_is_unusual_is_left_to_the_door(backend, reason, call):
    logits, target, out = call
    before = out.copy()
    logits_before = logits.copy()
    assert load(backend).mean_loss(logits, target, -100, out, 1) is None, reason
    assert same_bits(out, before)
    assert same_bits(logits, logits_before)


@pytest.mark.parametrize("label", [-1, 10, -101, 2**40, -(2**63)])
def test_a_bad_label_is_left_to_the_door(backend, label):
    logits, target = arrays((2000, 10))
    target[1999] = label
    grad = np.full_like(logits, 7)
    assert load(backend).mean_loss(logits, target, -100, grad, 2) is None
    with pytest.raises(fx.LabelError, match=r"target\[1999\]"):
        fx.cross_entropy_and_grad(logits, target, backend=backend, out=grad)
    assert (grad == 7).all()


def test_nothing_counted_is_left_to_the_door(backend):
    logits, target = arrays((4, 10))
    target[:] = -100
    grad = np.full_like(logits, 7)
    assert load(backend).mean_loss(logits, target, -100, grad, 1) is None
    loss, _ = fx.cross_entropy_and_grad(logits, target, backend=backend, out=grad)
    assert np.isnan(loss)
    assert (grad == 0).all()


@pytest.mark.parametrize("ignore_index", [None, 3, 2**63, -(2**70)])
def test_any_ignored_label(backend, ignore_index):
    logits, target = arrays((50, 10))
    options = {"backend": backend, "ignore_index": ignore_index}
    loss, grad = fx.cross_entropy_and_grad(logits, target, **options)
    expected, expected_grad = long_way(logits, target, **options)
    assert same_bits(loss, expected)
    assert same_bits(grad, expected_grad)


@pytest.mark.parametrize("dtype", ["M8[s]", "m8[s]", [("a", "M8[s]")]], ids=str)
@pytest.mark.parametrize("place", ["logits", "target", "out"])
def test_dtypes_without_a_buffer_keep_their_error(backend, place, dtype):
    logits, target = arrays((4, 10))
    call = {"logits": logits, "target": target, "out": np.empty_like(logits)}
    call[place] = np.zeros(call[place].shape, dtype)
    with pytest.raises(fx.DTypeError, match=place):
        fx.cross_entropy_and_grad(**call, backend=backend)


def test_a_loss_beyond_float32_is_infinite_without_a_warning(backend):
    logits = np.array([[3e38, -3e38]], np.float32)
    assert fx.cross_entropy(logits, np.array([1]), backend=backend) == np.inf


def test_masked_arrays_keep_their_error(backend):
    logits, target = arrays((4, 10))
    with pytest.raises(fx.DTypeError, match="mask"):
        fx.cross_entropy(np.ma.masked_array(logits), target, backend=backend)
    with pytest.raises(fx.DTypeError, match="mask"):
        fx.cross_entropy(logits, np.ma.masked_array(target), backend=backend)


@pytest.mark.parametrize("shape", [(32, 10), (512, 2000), (2, 300_000)], ids=str)
def test_a_call_with_out_allocates_next_to_nothing(backend, shape):
    if backend == "numpy":
        pytest.skip("numpy: it works through temporary arrays of a megabyte")
    logits, target = arrays(shape)
    out = np.empty_like(logits)
    fx.cross_entropy_and_grad(logits, target, backend=backend, out=out)
    tracemalloc.start()
    try:
        fx.cross_entropy_and_grad(logits, target, backend=backend, out=out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # a number or two for each block of 1,024 classes and each chunk of rows
    assert peak < 32_000
