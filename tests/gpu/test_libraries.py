"""What libraries of arrays on a GPU tell, and what is asked of them."""

import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.interchange import library_of
from gpu.arrays import ByInterface, Putter, numbers
from gpu.our_library import OurLibrary, Ours


@pytest.fixture
def put(simulated, monkeypatch):
    interchange = sys.modules["fastxent.interchange"]
    monkeypatch.setattr(interchange, "_LIBRARIES", (OurLibrary(), *interchange._LIBRARIES))
    return Putter(load("cuda"))


@pytest.fixture
def waits(simulated, monkeypatch):
    """Streams that were told to wait, and for which, among the launches."""
    found = []
    monkeypatch.setattr(simulated, "wait", lambda *streams: found.append(streams))
    launch = simulated.launch
    monkeypatch.setattr(simulated, "launch", lambda *a: (found.append("launch"), launch(*a))[1])
    return found


DRAW = np.random.default_rng(0)
LOGITS = DRAW.standard_normal((4, 6)).astype(np.float32)
LABELS = np.array([0, 5, -100, 2])


def close(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_the_stream_of_out_waits_for_what_is_written_there(put, waits):
    logits, out = put(LOGITS), ByInterface(put.array(np.zeros_like(LOGITS)), stream=9)
    ours = put.stream
    calls = (
        lambda: fx.softmax(logits, out=out),
        lambda: fx.softmax_backward(logits, put(LOGITS), out=out),
        lambda: fx.cross_entropy_and_grad(logits, put(LABELS), out=out),
        lambda: fx.binary_cross_entropy_with_logits_and_grad(logits, put(LOGITS), out=out),
    )
    for call in calls:
        waits.clear()
        call()
        assert waits[0] == (ours, 9, 0)
        assert waits[-1] == (9, ours, 0)
        assert waits[1:-1] == ["launch"] * (len(waits) - 2)
    waits.clear()
    fx.softmax(logits, out=logits)
    assert waits == ["launch"]


@pytest.mark.parametrize("axes", [(0, 2), None, (1, 0)])
def test_classes_that_are_not_one_in_memory_are_copied_by_their_library(put, axes):
    x = DRAW.standard_normal((3, 4, 5)).astype(np.float32)
    x = x.transpose(1, 0, 2) if axes is None else x
    if axes == (1, 0):
        x = np.repeat(x, 2, axis=1)[:, :4]
    p = fx.softmax(x, axes)

    def shown(array):
        return Ours(put.array(array))

    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        given = shown(x)
        close(numbers(function(given, axes)), function(x, axes))
        assert np.array_equal(numbers(given), x)
    close(numbers(fx.softmax_backward(shown(p), shown(x), axes)), fx.softmax_backward(p, x, axes))
    dense = np.ascontiguousarray(p)
    expected = fx.log_softmax_backward(dense, x, axes)
    close(numbers(fx.log_softmax_backward(shown(dense), shown(x), axes)), expected)


def test_out_is_written_where_it_lies(put):
    x = np.zeros((3, 4, 5), np.float32)
    given, out = Ours(put.array(x)), Ours(put.array(np.ones_like(x)))
    for into in (out, given):
        with pytest.raises(fx.ShapeError, match=r"axes \(0, 2\) of out.*or no out"):
            fx.softmax(given, (0, 2), out=into)
    good = Ours(put.array(np.ones((4, 3, 5), np.float32).transpose(1, 0, 2)))
    assert fx.softmax(given, (0, 2), out=good) is good
    close(numbers(good), fx.softmax(x, (0, 2)))


def test_labels_in_any_order(put):
    labels = np.array([[0, 4, 1], [7, -100, 2]], np.int16)
    given = put(np.asfortranarray(labels))
    fx.check_labels(given, 8)
    with fx.use_backend("numpy"):
        fx.check_labels(given, 8)
    with pytest.raises(fx.LabelError, match=r"target\[1, 0\] is 7: .* \[0, 5\)"):
        fx.check_labels(given, 5)
    with pytest.raises(fx.LabelError, match=r"target\[1, 1\] is -100"):
        fx.check_labels(given, 8, ignore_index=None)
    sparse = np.repeat(labels, 2, axis=1)[:, ::2]
    with pytest.raises(fx.LabelError, match=r"target\[1, 0\] is 7"):
        fx.check_labels(Ours(put.array(sparse)), 5)
    with pytest.raises(fx.ShapeError, match="contiguous copy"):
        fx.check_labels(put(sparse), 5)
    with pytest.raises(fx.LabelError, match="target is 7"):
        fx.check_labels(put(labels[1, 0]), 5)


@pytest.mark.parametrize("shape", [(), (4, 6)])
def test_upstream_gradient_of_a_mean_takes_nothing_of_the_host(put, simulated, monkeypatch, shape):
    call = fx.binary_cross_entropy_with_logits_and_grad
    upstream = DRAW.standard_normal(shape).astype(np.float32)
    target = (LOGITS > 0).astype(np.float32)
    expected = call(LOGITS, target, grad_output=upstream)
    given = put(LOGITS), put(target)
    factor = put(upstream)
    call(*given, grad_output=factor)

    def refused(*_):
        raise AssertionError("numbers of the host were copied")

    monkeypatch.setattr(simulated, "upload", refused)
    loss, grad = call(*given, grad_output=factor)
    close(numbers(loss), np.asarray(expected[0]))
    close(numbers(grad), expected[1])


class NumbasArray:
    """As numba.cuda shows memory of device 1."""

    shape, strides, dtype, stream = (3,), (4,), np.dtype(np.float32), 5
    gpu_data = types.SimpleNamespace(
        context=types.SimpleNamespace(device=types.SimpleNamespace(id=1))
    )
    device_ctypes_pointer = types.SimpleNamespace(value=1024)
    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": shape,
        "strides": None,
        "typestr": "<f4",
        "data": (1024, False),
        "stream": stream,
        "version": 3,
    }


def test_memory_of_numba_is_that_of_its_own_device(monkeypatch):
    current, made = [0], []

    @contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    def device_array(shape, dtype, stream):
        made.append(current[-1])
        return NumbasArray()

    def as_cuda_array(memory, sync):
        made.append(current[-1])
        return memory

    cuda = types.SimpleNamespace(
        gpus=[on(0), on(1)],
        device_array=device_array,
        as_cuda_array=as_cuda_array,
        current_context=lambda: types.SimpleNamespace(device=types.SimpleNamespace(id=current[-1])),
    )
    arrays = types.SimpleNamespace(DeviceNDArray=NumbasArray)
    monkeypatch.setitem(sys.modules, "numba.cuda", cuda)
    monkeypatch.setitem(sys.modules, "numba.cuda.cudadrv.devicearray", arrays)
    given = NumbasArray()
    library = library_of(given)
    array = library.read_on_device(given)
    assert (array.place.device, array.place.stream) == (1, 5)
    result = array.place.allocate((2, 3), np.dtype(np.float32))
    cuda.gpus[1] = on(1)
    library.give_on_device(result.transpose(1, 0), given, None)
    assert made == [1, 1]
    assert result.place is array.place


def test_views_of_pytorch_with_signs_to_be_turned():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    library = library_of(torch.zeros(1))
    x = torch.tensor([[1 + 2j, 3 - 1j]], dtype=torch.complex64).conj().imag
    assert x.is_neg()
    assert "pass x.resolve_neg()" in library.why_not_on_device(x, "x")
    with pytest.raises(fx.DTypeError, match=r"x cannot be read.*x\.resolve_neg\(\)"):
        fx.softmax(x)
    assert library.why_not_on_device(x.resolve_neg(), "x") is None
    close(fx.softmax(x.resolve_neg()).numpy(), fx.softmax(x.resolve_neg().numpy()))
    assert library.compact(torch.zeros(2, 3, 4), (1, 0, 2)).shape == (3, 2, 4)
    assert library.compact(torch.zeros(2, 3, 4), (1, 0, 2)).is_contiguous()


def test_arrays_of_jax_are_put_in_order():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    library = library_of(jax.numpy.zeros(1))
    assert library.compact(jax.numpy.zeros((2, 3, 4)), range(3)).shape == (2, 3, 4)
    assert library.compact(jax.numpy.zeros((2, 3, 4)), (1, 0, 2)).shape == (3, 2, 4)
