"""Layout of arrays of a GPU, DLPack capsules, and what shows or takes memory without being read."""

import gc
import random
import weakref

import numpy as np
import pytest

from fastxent.checks.on_device import outline
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import capsules, dlpack, home_of
from fastxent.interchange.device_memory import DeviceMemory, from_dlpack, from_interface
from fastxent.layout import empty_like, join_axes, order_of, rows_of, rows_view, split_axes
from fastxent.precision import bfloat16_dtype

CPU = 1


def as_device_array(array, place=None):
    """The memory of an array of the host, as that of a GPU."""
    place = Place(0, 0) if place is None else place
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, place, array, array.strides)


def same_place(device_array, array):
    """Whether they have the same addresses, where there is more than one entry along an axis."""
    sizes = array.shape
    steps = zip(sizes, device_array.strides, array.strides, strict=True)
    return (
        device_array.shape == sizes
        and device_array.dtype == array.dtype
        and (not array.size or device_array.address == array.ctypes.data)
        and (not array.size or all(ours == numpys for size, ours, numpys in steps if size > 1))
    )


def some_view(draw):
    shape = [draw.choice([1, 2, 3, 4]) for _ in range(draw.randint(0, 4))]
    steps = [draw.choice([1, 1, 1, 2]) for _ in shape]
    whole = np.zeros([size * step for size, step in zip(shape, steps, strict=True)], np.float32)
    view = whole[(*(slice(None, None, step) for step in steps), ...)]
    if draw.random() < 0.2:
        view = np.broadcast_to(view[..., None], (*view.shape, 3))
    if draw.random() < 0.2 and view.ndim:
        view = view[::-1]
    if draw.random() < 0.5:
        view = view.transpose(draw.sample(range(view.ndim), view.ndim))
    return view


def other_shape(draw, size):
    wanted = [1] * draw.randint(1, 4)
    for factor in (2, 3):
        while size % factor == 0:
            wanted[draw.randrange(len(wanted))] *= factor
            size //= factor
    return tuple(wanted)


def test_reshape_makes_the_views_that_numpy_makes():
    draw, views = random.Random(1), 0
    for _ in range(2000):
        array = some_view(draw)
        wanted = other_shape(draw, array.size)
        device_array = as_device_array(array)
        # without a copy, or not at all
        copy = array.reshape(wanted)
        if np.shares_memory(copy, array):
            assert same_place(device_array.reshape(*wanted), copy), (array.strides, wanted)
            assert same_place(device_array.reshape(wanted), copy)
            views += 1
        else:
            with pytest.raises(ValueError, match="no view"):
                device_array.reshape(wanted)
    assert 500 < views < 1900


def test_other_views():
    draw = random.Random(2)
    for _ in range(500):
        array = some_view(draw)
        device_array = as_device_array(array)
        order = draw.sample(range(array.ndim), array.ndim)
        assert same_place(device_array.transpose(*order), array.transpose(order))
        assert same_place(device_array.transpose(order), array.transpose(order))
        assert same_place(device_array[..., None], array[..., None])
        at = tuple(draw.randrange(size) for size in array.shape[: draw.randint(0, array.ndim)])
        assert same_place(device_array[at], array[(*at, ...)])
        wide = (2, *array.shape)
        assert same_place(device_array.broadcast_to(wide), np.broadcast_to(array, wide))
        assert device_array.is_dense == device_array.flags.c_contiguous == array.flags.c_contiguous
        assert device_array.flags.aligned
        for name in ("ndim", "size", "itemsize", "nbytes"):
            assert getattr(device_array, name) == getattr(array, name)
    assert same_place(device_array.view(np.dtype("u4")), array.view("u4"))
    assert as_device_array(np.zeros((4, 3), "f4")).reshape(2, -1).shape == (2, 6)


def test_views_that_are_refused():
    array = as_device_array(np.zeros((2, 3), np.float32))
    for make, match in (
        (lambda: array.reshape(5), "6 entries"),
        (lambda: array.view(np.dtype("f8")), "differ in size"),
        (lambda: array.broadcast_to((2, 4)), "cannot be broadcast"),
        (lambda: array.broadcast_to((3,)), "cannot be broadcast"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_alignment_of_entries():
    memory = np.zeros(64, np.uint8)
    start = -memory.ctypes.data % 16
    for offset, steps, aligned in ((0, (4,), True), (2, (4,), False), (0, (6,), False)):
        array = DeviceArray(
            memory.ctypes.data + start + offset, (3,), np.dtype("f4"), Place(0, 0), memory, steps
        )
        assert array.flags.aligned == aligned


def test_numpy_never_reads_one():
    array = as_device_array(np.zeros(3))
    for read in (np.asarray, np.sum, lambda one: one + np.zeros(3), lambda one: np.zeros(3) * one):
        with pytest.raises(TypeError):
            read(array)


def test_rows_are_found_as_on_the_host():
    draw = random.Random(3)
    for _ in range(500):
        array = some_view(draw)
        if not array.ndim:
            continue
        axis = draw.randrange(array.ndim)
        device_array = as_device_array(array)
        rows = rows_view(array, axis)
        assert same_place(rows_of(device_array, axis, array.dtype), rows)
        axes = draw.sample(range(array.ndim), draw.randint(1, array.ndim))
        order = order_of(array, axes)
        assert order_of(device_array, axes) == order
        joined = join_axes(array, order)
        ours = join_axes(device_array, order)
        assert (joined is None) == (ours is None)
        if joined is not None:
            assert same_place(ours, joined)
            split = split_axes(ours, array.shape, order)
            assert same_place(split, split_axes(joined, array.shape, order))


def test_new_arrays_lie_as_on_the_host():
    draw = random.Random(4)

    def allocate(shape, dtype):
        return as_device_array(np.empty(shape, dtype))

    for _ in range(300):
        array = some_view(draw)
        new = empty_like(as_device_array(array), np.dtype("f8"), allocate)
        assert new.strides == empty_like(array, np.dtype("f8")).strides


def test_outline_has_the_addresses():
    draw = random.Random(5)
    for _ in range(200):
        array = some_view(draw)
        assert same_place(as_device_array(array), outline(as_device_array(array)))
    fixed = DeviceArray(16, (3,), np.dtype("f4"), Place(0, 0), None, writeable=False)
    assert not outline(fixed).flags.writeable
    assert outline(array) is array


class Exporter:
    """Memory of the host through the capsules that those of a GPU get."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return CPU, 0

    def __dlpack__(self, **_):
        return capsules.capsule_of(self.array, CPU)


DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")


@pytest.mark.parametrize("dtype", DTYPES)
def test_capsules_are_read_by_numpy(dtype):
    values = (np.arange(24).reshape(4, 6) % 7).astype(dtype)
    for view in (
        values,
        values[::2, 1::3],
        values.T,
        values[:, ::-1],
        values[0, 0, ...],
        values[:0],
    ):
        assert np.array_equal(np.from_dlpack(Exporter(as_device_array(view))), view)
        assert np.from_dlpack(Exporter(as_device_array(view))).dtype == values.dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_capsules_of_numpy_are_read(dtype):
    values = (np.arange(24).reshape(4, 6) % 7).astype(dtype)
    for view in (values, values[::2, 1::3], values.T, values[0, 0, ...], values[:0]):
        array = capsules.from_capsule(view.__dlpack__(), Place(3, 0), view)
        assert same_place(array, view)
        assert array.place.device == 3


def test_capsules_that_begin_later():
    values = np.arange(6.0)
    capsule = capsules.capsule_of(as_device_array(values), CPU)
    ((managed, *_),) = capsules._held.values()
    managed.tensor.byte_offset, managed.tensor.shape[0] = 16, 4
    assert same_place(capsules.from_capsule(capsule, Place(0, 0), None), values[2:])


def test_bfloat16_goes_through_capsules():
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    array = as_device_array(bits).view(bfloat16_dtype())
    back = capsules.from_capsule(capsules.capsule_of(array), array.place, None)
    assert back.dtype == bfloat16_dtype()
    assert same_place(back.view(bits.dtype), bits)
    torch = pytest.importorskip("torch", reason="knows bfloat16")
    tensor = torch.from_dlpack(Exporter(array))
    assert tensor.dtype == torch.bfloat16
    assert np.array_equal(tensor.view(torch.uint16).numpy(), bits)


def test_numbers_that_have_no_dtype_are_refused():
    torch = pytest.importorskip("torch", reason="has 8-bit floating-point numbers")
    tensor = torch.zeros(3, dtype=torch.float8_e4m3fn)
    with pytest.raises((TypeError, RuntimeError, BufferError)):
        capsules.from_capsule(tensor.__dlpack__(), Place(0, 0), tensor)


def test_who_takes_a_capsule_keeps_the_memory():
    class Memory(np.ndarray):
        """An array that can be watched."""

    memory = np.arange(5.0).view(Memory)
    gone = weakref.ref(memory)
    taken = np.from_dlpack(Exporter(as_device_array(memory)))
    capsule = capsules.capsule_of(as_device_array(memory), CPU)
    del memory
    gc.collect()
    assert gone() is not None
    assert taken.sum() == 10
    del taken
    gc.collect()
    assert gone() is not None
    del capsule  # that nobody took
    gc.collect()
    assert gone() is None
    assert not capsules._held


def test_what_is_read_keeps_the_producers_memory():
    class Memory(np.ndarray):
        """An array that can be watched."""

    memory = np.arange(5.0).view(Memory)
    gone = weakref.ref(memory)
    array = capsules.from_capsule(memory.__dlpack__(), Place(0, 0), None)
    view = array.reshape(5, 1)
    del memory, array
    gc.collect()
    assert gone() is not None
    del view
    gc.collect()
    assert gone() is None


class Interface:
    def __init__(self, **facts):
        self.__cuda_array_interface__ = {"version": 3, "data": (4096, False)} | facts


def test_facts_of_the_interface():
    array = from_interface(Interface(shape=(2, 3), typestr="<f4"))
    assert (array.address, array.shape, array.strides) == (4096, (2, 3), (12, 4))
    assert array.dtype == np.float32
    assert array.writeable
    assert array.place.stream == 0
    strided = Interface(
        shape=[2, 3], typestr="<i8", strides=[8, 16], stream=5, data=(8, True), mask=None
    )
    array = from_interface(strided, 2)
    assert (array.shape, array.strides, array.writeable) == ((2, 3), (8, 16), False)
    assert (array.place.device, array.place.stream) == (2, 5)
    # 1 and 2 are the legacy and the per-thread default stream; 0 would be ambiguous
    for told, stream in ((None, 0), (1, 0), (2, 2)):
        facts = Interface(shape=(1,), typestr="<f4", stream=told)
        assert from_interface(facts).place.stream == stream


def test_results_show_themselves_in_both_ways():
    place = Place(0, 9)
    array = DeviceArray(4096, (2, 3), np.dtype("f8"), place, None)
    waits = []
    result = DeviceMemory(array, lambda place, stream: waits.append((place.stream, stream)))
    assert repr(result) == "DeviceMemory(float64, shape=(2, 3))"
    by_interface = from_interface(result)
    assert same_facts(by_interface, array)
    assert by_interface.place.stream == 9
    assert waits == []
    assert same_facts(from_dlpack(result), array)
    assert waits == [(1, 9)]
    for options in ({"copy": True}, {"dl_device": (CPU, 0)}):
        with pytest.raises(BufferError):
            result.__dlpack__(**options)
    bits = DeviceMemory(array.view(np.dtype("u8")), None)
    assert hasattr(bits, "__cuda_array_interface__")
    narrow = DeviceArray(4096, (3,), bfloat16_dtype(), place, None)
    assert not hasattr(DeviceMemory(narrow, None), "__cuda_array_interface__")


def same_facts(first, second):
    return all(
        getattr(first, name) == getattr(second, name)
        for name in ("address", "shape", "strides", "dtype")
    )


def test_where_an_array_is():
    class OnGPU:
        def __dlpack_device__(self):
            return dlpack.CUDA, 0

    class OfAMD:
        def __dlpack_device__(self):
            return 10, 0

    assert home_of(OnGPU()).is_on_device
    assert home_of(Interface(shape=(1,), typestr="<f4")).is_on_device
    for value in (OfAMD(), np.zeros(3), [1.0], Exporter(None)):
        assert not home_of(value).is_on_device
    torch = pytest.importorskip("torch", reason="makes tensors of the host")
    for tensor in (torch.zeros(3), torch.zeros(3, device="meta")):
        assert not home_of(tensor).is_on_device


def test_tensors_with_the_layout_of_a_result():
    torch = pytest.importorskip("torch", reason="makes the tensors")
    from fastxent.interchange.torch_tensors import shown_as

    memory = torch.arange(24, dtype=torch.float32)[4:].reshape(4, 5)
    array = as_device_array(memory.numpy())
    assert shown_as(memory, array) is memory
    turned = shown_as(memory, array.transpose(1, 0))
    assert torch.equal(turned, memory.T)
    assert turned.data_ptr() == memory.data_ptr()
    assert torch.equal(shown_as(memory, array[2]), memory[2])
    square = torch.arange(9).reshape(3, 3)
    turned = as_device_array(square.numpy()).transpose(1, 0)
    assert torch.equal(shown_as(square, turned), square.T)
    assert shown_as(memory, array.reshape(2, 10)).shape == (2, 10)
    flags = torch.tensor([0, 1, 1], dtype=torch.uint8)
    as_bool = as_device_array(flags.numpy()).view(np.dtype(bool))
    assert torch.equal(shown_as(flags, as_bool), torch.tensor([False, True, True]))
    half = torch.ones(3, dtype=torch.bfloat16)
    bits = as_device_array(half.view(torch.uint16).numpy()).view(bfloat16_dtype())
    assert shown_as(half, bits) is half
