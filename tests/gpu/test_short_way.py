"""Calls without options on the simulated GPU: the launches of the first are made again."""

import sys

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import fastxent as fx
from fastxent.backends import load
from fastxent.checks.on_device import outline
from fastxent.device_array import DeviceArray
from gpu.arrays import STREAM, Putter
from gpu.our_library import OurLibrary, Ours
from gpu.simulation.driver import SimulatedDriver

# A list is no key.
LONG_WAY = {"aux": []}


@pytest.fixture
def put(simulated, monkeypatch):
    interchange = sys.modules["fastxent.interchange"]
    monkeypatch.setattr(interchange, "_LIBRARIES", (OurLibrary(), *interchange._LIBRARIES))
    copier = Putter(load("cuda"))
    yield lambda array: Ours(copier.array(array))
    load("cuda").plans.clear()


def read(ours):
    return outline(ours.array).copy()


def drawn(rows, classes, seed=0, dtype="float32"):
    draw = np.random.default_rng(seed)
    logits = (draw.standard_normal((rows, classes)) * 4).astype(dtype)
    labels = draw.integers(0, classes, rows)
    labels[1] = -100
    return logits, labels


def names(launches):
    return [launch.spec.module for launch in launches]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_call_of_a_kind_has_the_bits_of_the_long_way(put, simulated, dtype):
    for seed in range(3):
        logits, labels = drawn(4, 40, seed, dtype)
        expected = fx.cross_entropy_and_grad(put(logits), put(labels), **LONG_WAY)
        of_long = names(simulated.launches)
        del simulated.launches[:]
        loss, grad = fx.cross_entropy_and_grad(put(logits), put(labels))
        assert names(simulated.launches) == of_long
        assert {launch.stream for launch in simulated.launches} == {STREAM}
        del simulated.launches[:]
        assert len(load("cuda").plans) == 1
        assert read(loss).tobytes() == read(expected[0]).tobytes()
        assert read(grad).tobytes() == read(expected[1]).tobytes()
        assert read(loss).dtype == read(expected[0]).dtype
        truth = fx.cross_entropy_and_grad(logits, labels, backend="numpy")
        np.testing.assert_allclose(read(loss), truth[0], rtol=1e-6)


def test_loss_alone_and_in_place(put, simulated):
    for seed in range(2):
        logits, labels = drawn(3, 9, seed)
        expected = fx.cross_entropy_and_grad(put(logits), put(labels))
        loss = fx.cross_entropy(put(logits), put(labels))
        assert read(loss).tobytes() == read(expected[0]).tobytes()
        given = put(logits)
        value, grad = fx.cross_entropy_and_grad(given, put(labels), out=given)
        assert grad is given
        assert given.version == 1
        assert read(grad).tobytes() == read(expected[1]).tobytes()
        assert read(value).tobytes() == read(expected[0]).tobytes()
    assert len(load("cuda").plans) == 3


def test_what_makes_another_plan(put):
    logits, labels = drawn(3, 9)
    plans = load("cuda").plans
    fx.cross_entropy(put(logits), put(labels))
    for index, (given, target, options) in enumerate(
        (
            (logits[:2], labels[:2], {}),
            (logits, labels.astype(np.int32), {}),
            (logits, labels, {"ignore_index": 3}),
            (logits.astype(float), labels, {}),
        )
    ):
        found = fx.cross_entropy(put(given), put(target), **{"ignore_index": -100} | options)
        assert len(plans) == index + 2
        if "ignore_index" not in options:
            truth = fx.cross_entropy(given, target, backend="numpy")
            np.testing.assert_allclose(read(found), truth, rtol=1e-6)


def test_memory_that_does_not_begin_at_a_vector(put):
    whole = np.zeros(28, np.float32)
    logits, labels = drawn(3, 9)
    expected = fx.cross_entropy_and_grad(put(logits), put(labels))
    whole[1:] = logits.reshape(-1)
    there = put(whole).array
    moved = Ours(DeviceArray(there.address + 4, (3, 9), there.dtype, there.place, there))
    for _ in range(2):
        loss, grad = fx.cross_entropy_and_grad(moved, put(labels))
        np.testing.assert_allclose(read(loss), read(expected[0]), rtol=1e-6)
        np.testing.assert_allclose(read(grad), read(expected[1]), rtol=1e-5, atol=1e-7)
    assert len(load("cuda").plans) == 2


def test_what_goes_the_long_way(put):
    logits, labels = drawn(4, 6)
    truth = fx.cross_entropy_and_grad(logits, labels, backend="numpy")[1]
    plans = load("cuda").plans
    out = put(np.zeros_like(logits))
    soft = put(np.full((4, 6), 1 / 6, np.float32))
    for given, target, options in (
        (put(logits), put(labels), {"out": out}),
        (put(logits), put(labels), LONG_WAY),
        (put(logits), put(labels), {"grad_output": float("nan")}),
        (put(logits), put(labels), {"grad_output": -0.0}),
        (put(logits), put(labels), {"ignore_index": -(1 << 60)}),
        (put(logits), soft, {"weight": np.ones(6)}),
        (put(logits), soft, {"aux": ("lse",)}),
        (put(np.asfortranarray(logits)), put(labels), {}),
    ):
        fx.cross_entropy_and_grad(given, target, **options)
    assert not plans
    np.testing.assert_allclose(read(out), truth, rtol=1e-5, atol=1e-7)


OPTIONS = (
    {"reduction": "none", "ignore_index": 2},
    {"reduction": "sum", "label_smoothing": 0.1, "grad_output": -2.0},
    {"z_loss": 0.01, "softcap": 5.0, "logit_scale": 0.5, "normalizer": 3},
    {"axis": 0, "all_ignored": "zero"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_numbers_and_words_go_the_short_way(put, options, soft):
    if soft:
        options = {**options, "ignore_index": None}
    for seed in range(2):
        logits, target = drawn(4, 6, seed)
        if soft:
            target = np.random.default_rng(seed).dirichlet(np.ones(6), 4).astype(np.float32)
        elif "ignore_index" in options:
            target[target == -100] = options["ignore_index"]
        logits = logits.T.copy() if "axis" in options else logits
        target = target.T.copy() if "axis" in options and soft else target
        given = put(logits), put(target)
        loss, grad = fx.cross_entropy_and_grad(*given, **options)
        assert len(load("cuda").plans) == 1
        expected = fx.cross_entropy_and_grad(*given, **options, **LONG_WAY)
        assert read(loss).tobytes() == read(expected[0]).tobytes()
        assert read(grad).tobytes() == read(expected[1]).tobytes()
        truth = fx.cross_entropy_and_grad(logits, target, **options, backend="numpy")
        np.testing.assert_allclose(read(loss), truth[0], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(read(grad), truth[1], rtol=2e-6, atol=1e-6)


def test_what_takes_more_than_launches(put):
    logits, labels = drawn(4, 6)
    for _ in range(2):
        loss, grad = fx.cross_entropy_and_grad(put(logits), put(labels), normalizer=0.0)
        assert np.isnan(read(loss))
        assert not read(grad).any()
    assert list(load("cuda").plans.values()) == [None]


def test_types_of_options_are_not_mistaken(put):
    logits, labels = put(drawn(4, 6)[0]), put(np.zeros(4, int))
    fx.cross_entropy(logits, labels, axis=1)
    with pytest.raises(fx.DTypeError, match="axis"):
        fx.cross_entropy(logits, labels, axis=1.0)
    for _ in range(2):
        with pytest.raises(fx.OptionError, match="label_smoothing"):
            fx.cross_entropy(logits, labels, label_smoothing=float("nan"))


def test_wrong_arguments_leave_no_plan(put):
    logits, labels = drawn(4, 6)
    with pytest.raises(fx.ShapeError, match="class indices"):
        fx.cross_entropy(put(logits), put(labels[:3]))
    with pytest.raises(fx.DTypeError, match="integers"):
        fx.cross_entropy(put(logits.astype(int)), put(labels))
    assert not load("cuda").plans
    assert np.isfinite(read(fx.cross_entropy(put(logits), put(labels))))


def test_threads_of_the_host_mean_nothing(put):
    logits, labels = drawn(4, 6)
    for num_threads in (None, 1, 4):
        fx.cross_entropy(put(logits), put(labels), num_threads=num_threads)
    assert len(load("cuda").plans) == 1
    with pytest.raises(fx.OptionError, match="num_threads"):
        fx.cross_entropy(put(logits), put(labels), num_threads=0)


def test_the_sign_of_a_zero_is_that_of_the_gradient(put):
    logits, labels = drawn(4, 6)
    _, positive = fx.cross_entropy_and_grad(put(logits), put(labels), grad_output=0.0)
    _, negative = fx.cross_entropy_and_grad(put(logits), put(labels), grad_output=-0.0)
    counted = labels >= 0
    signs = np.signbit(read(positive))[counted]
    assert np.array_equal(np.signbit(read(negative))[counted], ~signs)


def test_out_that_shares_memory_with_the_target(put):
    logits, _ = drawn(4, 6)
    soft = put(np.abs(logits))
    both = put(np.zeros(48, np.float32)).array
    first = Ours(DeviceArray(both.address, (4, 6), both.dtype, both.place, both))
    for distance in (0, 4, 92):
        address = both.address + distance
        second = Ours(DeviceArray(address, (4, 6), both.dtype, both.place, both))
        with pytest.raises(fx.OutputError, match="out shares memory with target"):
            fx.cross_entropy_and_grad(first, second, out=first)
        with pytest.raises(fx.OutputError, match="out shares memory with target"):
            fx.cross_entropy_and_grad(second, first, out=second)
    with pytest.raises(fx.OutputError, match="out shares memory with target"):
        fx.cross_entropy_and_grad(soft, soft, out=soft)
    assert not load("cuda").plans
    beside = Ours(DeviceArray(both.address + 96, (4, 6), both.dtype, both.place, both))
    fx.cross_entropy_and_grad(first, beside, out=first)
    assert len(load("cuda").plans) == 1


@pytest.mark.parametrize("name", ["logits", "target"])
@pytest.mark.parametrize("wrong", ["moved", "order", "complex", "float8"])
def test_memory_that_cannot_be_read(put, name, wrong):
    logits, labels = drawn(4, 6)
    given = {"logits": put(logits), "target": put(labels.astype(np.int32))}
    array = given[name].array
    if wrong == "moved":
        array.address += 2
    elif wrong == "order":
        array.dtype = array.dtype.newbyteorder(">")
    elif wrong == "complex":
        array.dtype, array.strides = np.dtype(np.complex64), (8,) * array.ndim
        array.shape = (4,) * array.ndim
    else:
        array.dtype = np.dtype("V4")
    match = {"moved": "multiples of their size", "order": "foreign byte order"}.get(wrong, name)
    for _ in range(2):
        with pytest.raises(fx.DTypeError, match=match):
            fx.cross_entropy_and_grad(**given)
    assert not load("cuda").plans


def test_an_array_that_its_library_cannot_show(put, monkeypatch):
    def unknown(_, value):
        raise TypeError("numbers of float8 are not computed with")

    monkeypatch.setattr(OurLibrary, "read_on_device", unknown)
    logits, labels = drawn(4, 6)
    with pytest.raises(fx.DTypeError, match=r"logits cannot be read.*float8"):
        fx.cross_entropy(put(logits), put(labels))


def test_no_rows(put):
    logits, labels = np.zeros((0, 5), np.float32), np.zeros(0, int)
    for _ in range(2):
        assert np.isnan(read(fx.cross_entropy(put(logits), put(labels))))


def test_plans_are_those_of_their_driver(put):
    logits, labels = drawn(3, 5)
    fx.cross_entropy(put(logits), put(labels))
    backend = load("cuda")
    before = backend.driver
    backend.driver = SimulatedDriver()
    assert not backend.plans
    backend.driver = before
