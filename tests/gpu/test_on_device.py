"""Calls with arrays of a GPU, whose GPU is the host: every option against the call on the host."""

import itertools
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.cases import CASES
from fastxent.cases.recipe import has_bfloat16
from gpu.arrays import STREAM, ByDLPack, ByInterface, Putter, numbers
from gpu.host_device import HostDevice

DTYPES = ("float32", "float64", "float16", *(["bfloat16"] if has_bfloat16() else []))
ON_DEVICE_TOO = ("weight", "sample_weight", "grad_output")


@pytest.fixture
def device(monkeypatch):
    """A backend that is used for arrays of a GPU, and never reads them back."""
    found, ordinary = HostDevice(), load
    registry = sys.modules["fastxent.backends"]
    monkeypatch.setattr(registry, "load", lambda name: found if name == "cuda" else ordinary(name))
    return found


@pytest.fixture
def put(device):
    return Putter(device)


def close(actual, expected, dtype):
    """The same arithmetic, in another order of a few factors."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    steps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    wide = [array.astype(np.float64) for array in (actual, expected)]
    smallest = 2.0**-24 if dtype == "float16" else 0.0
    np.testing.assert_allclose(*wide, rtol=4 * steps[dtype], atol=smallest)


def chosen():
    dtypes, places = itertools.cycle(DTYPES), itertools.cycle((True, False, True))
    for case in CASES:
        if "unaligned" in (case.layout, case.target_layout):
            continue
        if not case.soft and case.target_layout not in ("C", "read_only", "read-only"):
            continue
        if np.prod(case.shape) > 20_000 or (case.layout == "F" and len(case.shape) > 5):
            continue
        dtype, factors_there = next(dtypes), next(places)
        yield case, "float32" if case.why_not(dtype) else dtype, factors_there


@pytest.mark.parametrize(("case", "dtype", "factors_there"), list(chosen()), ids=str)
def test_every_option(put, case, dtype, factors_there):
    logits, target, options = case.arguments(dtype)
    there = dict(options)
    if factors_there:
        for name in ON_DEVICE_TOO:
            if name in options:
                there[name] = put(
                    np.asarray(options[name], np.float32 if dtype[0] == "b" else None)
                )
    expected = fx.cross_entropy_and_grad(logits, target, **options, aux=case.asked, backend="numpy")
    given = put(logits)
    out = {"none": None, "new": put(np.zeros_like(logits)), "in-place": given}[case.out]
    kept = numbers(given)
    alone = {name: there[name] for name in there if name != "grad_output"}
    loss = fx.cross_entropy(given, put(target), **alone)
    loss_and_grad = fx.cross_entropy_and_grad(given, put(target), **there, aux=case.asked, out=out)
    assert (loss_and_grad[1] is out) == (out is not None)
    results = [numbers(result) for result in loss_and_grad[:2]]
    result_dtype = dtype if dtype == "float64" else "float32"
    close(results[0], expected[0], result_dtype)
    assert results[0].tobytes() == numbers(loss).tobytes()
    close(results[1], expected[1], dtype)
    if out is not given:
        assert numbers(given).tobytes() == kept.tobytes()
    for name in case.asked:
        found, truth = getattr(loss_and_grad[2], name), getattr(expected[2], name)
        if name == "target_grad":
            close(numbers(found), truth, truth.dtype.name)
        else:
            close(numbers(found), truth, result_dtype)


def random(shape, dtype="float32", seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype)


LOGITS, LABELS = random((6, 5)), np.array([0, 4, 2, -100, 1, 3])


def test_bad_labels_are_nan_and_hurt_no_other_row(put):
    labels = np.array([0, 5, 2, -1, -100, 3])
    loss, grad = fx.cross_entropy_and_grad(put(LOGITS), put(labels), reduction="none")
    good = np.where(np.isin(labels, (5, -1)), 0, labels)
    expected = fx.cross_entropy_and_grad(LOGITS, good, reduction="none")
    bad = [1, 3]
    expected[0][bad], expected[1][bad] = np.nan, 0
    close(numbers(loss), expected[0], "float32")
    close(numbers(grad), expected[1], "float32")
    assert np.isnan(numbers(fx.cross_entropy(put(LOGITS), put(labels))))


def test_check_labels_reads_back(device, put):
    labels = np.array([[0, 4], [7, -100]], np.int16)
    device.may_read = True
    fx.check_labels(put(labels[:1]), 5)
    fx.check_labels(put(labels[:, 1].copy()), 5)
    refused(
        fx.ShapeError, "contiguous copy", fx.check_labels, put(labels[:, :1].repeat(2, 0)[::2]), 5
    )
    with pytest.raises(fx.LabelError, match=r"target\[1, 0\] is 7: .* \[0, 5\)"):
        fx.check_labels(put(labels), 5)
    with pytest.raises(fx.LabelError, match=r"target\[1, 1\] is -100"):
        fx.check_labels(put(np.where(labels == 7, 0, labels)), 5, ignore_index=None)
    with pytest.raises(fx.DTypeError, match="integers"):
        fx.check_labels(put(LOGITS), 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 0, 1, (1, 2), (0, 2), (2, 0, 1), None, ()])
def test_softmax_over_any_axes(put, axis, dtype):
    from fastxent.cases import dtype_of

    x = random((2, 3, 4)).astype(dtype_of(dtype))
    if axis == (0, 2):  # one piece of memory, in this order
        x = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        expected = function(x, axis, backend="numpy")
        close(numbers(function(put(x), axis)), expected, expected.dtype.name)
    out = put(np.zeros_like(x))
    assert fx.softmax(put(x), axis, out=out) is out
    close(numbers(out), fx.softmax(x, axis, backend="numpy"), dtype)
    p = fx.softmax(x, axis, backend="numpy")
    expected = fx.softmax_backward(p, x, axis, backend="numpy")
    close(numbers(fx.softmax_backward(put(p), put(x), axis)), expected, dtype)
    into = put(x)
    assert fx.log_softmax_backward(put(p), into, axis, out=into) is into
    close(numbers(into), fx.log_softmax_backward(p, x, axis, backend="numpy"), dtype)


def test_normaliser_of_nothing(put):
    for shape, axis in (((3, 0), -1), ((0, 4), -1), ((0,), None)):
        expected = fx.logsumexp(np.zeros(shape, np.float32), axis)
        close(numbers(fx.logsumexp(put(np.zeros(shape, np.float32)), axis)), expected, "float32")


def test_results_lie_as_the_logits(put):
    x = np.asfortranarray(LOGITS)
    assert fx.softmax(put(x)).__cuda_array_interface__["strides"] == x.strides
    _, grad = fx.cross_entropy_and_grad(put(x), put(LABELS))
    assert grad.__cuda_array_interface__["strides"] == x.strides
    assert fx.softmax(put(LOGITS)).__cuda_array_interface__["strides"] is None


TARGETS = {
    "float32": random((4, 6), seed=1) > 0,
    "bool": random((4, 6), seed=1) > 0,
    "int8": random((4, 6), seed=1) > 0,
    "float64": np.random.default_rng(2).random((4, 6)),
}
ELEMENTS = (
    {},
    {"reduction": "sum", "label_smoothing": 0.2},
    {"reduction": "none", "pos_weight": np.arange(1, 7)},
    {"weight": np.float64(2.5), "grad_output": -1.5},
    {"weight": np.random.default_rng(3).random((4, 1)), "pos_weight": 3.0, "reduction": "sum"},
    {"grad_output": np.random.default_rng(4).random((4, 6))},
    {"grad_output": np.array(0.5), "reduction": "none"},
    {"grad_output": np.array(0.5), "weight": np.ones((4, 6)) * 0.25},
)


@pytest.mark.parametrize("options", ELEMENTS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_binary_loss(put, options, there, dtype):
    x = random((4, 6), dtype)
    compute = np.dtype("float64" if dtype == "float64" else "float32")
    given = dict(options)
    for name in ("weight", "pos_weight", "grad_output"):
        if there and isinstance(given.get(name), np.ndarray):
            given[name] = put(np.asarray(given[name], compute))
    for target_dtype, values in TARGETS.items():
        target = values.astype(target_dtype)
        call = fx.binary_cross_entropy_with_logits_and_grad
        expected = call(x, target, **options, backend="numpy")
        loss, grad = call(put(x), put(target), **given)
        close(numbers(loss), expected[0], compute.name)
        close(numbers(grad), expected[1], dtype)
        out = put(x)
        assert call(out, put(target), **given, out=out)[1] is out
        close(numbers(out), expected[1], dtype)
        alone = {name: given[name] for name in given if name != "grad_output"}
        loss = fx.binary_cross_entropy_with_logits(put(x), put(target), **alone)
        close(numbers(loss), expected[0], compute.name)


def test_binary_loss_of_views_of_nothing_and_of_bad_targets(put):
    call = fx.binary_cross_entropy_with_logits_and_grad
    x, target = random((4, 6))[:, ::2], TARGETS["float64"].T[1:4, ::-1].T
    upstream = random((8, 6), seed=5)[::2, ::2]
    expected = call(x, target, grad_output=upstream, backend="numpy")
    loss, grad = call(put(x), put(target), grad_output=put(upstream))
    close(numbers(loss), expected[0], "float32")
    close(numbers(grad), expected[1], "float32")
    nothing = np.zeros((0, 3), np.float32)
    assert np.isnan(numbers(fx.binary_cross_entropy_with_logits(put(nothing), put(nothing))))
    loss, grad = call(put(x[0]), put(np.array([0, 2, 1])), reduction="none")
    expected = call(x[0], np.array([0, 0, 1]), reduction="none")
    assert np.array_equal(np.isnan(numbers(loss)), [False, True, False])
    assert numbers(grad)[1] == 0
    assert np.array_equal(numbers(grad)[[0, 2]], expected[1][[0, 2]])


def test_the_loss_as_an_object(put):
    loss = fx.CrossEntropyLoss(label_smoothing=0.1)
    value = numbers(loss(put(LOGITS), put(LABELS)))
    expected = fx.cross_entropy_and_grad(LOGITS, LABELS, label_smoothing=0.1, backend="numpy")
    close(value, expected[0], "float32")
    close(numbers(loss.backward()), expected[1], "float32")


def test_streams(device, put):
    logits = put(LOGITS)
    fx.cross_entropy(logits, put(LABELS))
    assert device.waits == []
    result = fx.softmax(logits)
    assert result.__cuda_array_interface__["stream"] == STREAM
    fx.cross_entropy(logits, Putter(device, stream=9)(LABELS))
    assert device.waits == [(STREAM, 9)]
    labels = ByDLPack(put.array(LABELS))
    fx.cross_entropy(logits, labels)
    assert labels.streams == [1]  # the legacy default stream, by DLPack's number
    assert device.waits.pop() == (STREAM, 0)
    device.waits.clear()
    result.__dlpack__(stream=-1)
    result.__dlpack__(stream=STREAM)
    assert device.waits == []
    result.__dlpack__(stream=11)
    result.__dlpack__()
    assert device.waits == [(11, STREAM), (1, STREAM)]
    of_legacy = fx.softmax(ByInterface(put.array(LOGITS), stream=1))
    assert of_legacy.__cuda_array_interface__["stream"] == 1
    assert of_legacy._array.place.stream == 0


def test_backends_that_do_not_compute_there(device, put):
    logits, labels = put(LOGITS), put(LABELS)
    with pytest.raises(fx.BackendError, match="'numpy' computes on the host"):
        fx.cross_entropy(logits, labels, backend="numpy")
    with fx.use_backend("numpy"), pytest.raises(fx.BackendError, match="'numpy' computes"):
        fx.softmax(logits)
    fx.softmax(logits, backend="cuda")
    device.reason = "there is no driver: install one"
    with pytest.raises(fx.BackendError, match=r"no driver: install one.*copy them to the host"):
        fx.softmax(logits)


def refused(error, match, function, *arguments, **options):
    with pytest.raises(error, match=match):
        function(*arguments, **options)


def test_host_and_gpu_do_not_mix(device, put):
    refused(fx.DTypeError, "target is in the host's memory", fx.cross_entropy, put(LOGITS), LABELS)
    refused(fx.DTypeError, "target.*on a GPU", fx.cross_entropy, LOGITS, put(LABELS))
    refused(fx.DTypeError, "weight.*on a GPU", fx.cross_entropy, LOGITS, LABELS, weight=put(LOGITS))
    refused(fx.DTypeError, "out is in the host's", fx.softmax, put(LOGITS), out=LOGITS.copy())
    refused(fx.DTypeError, "out.*on a GPU", fx.softmax, LOGITS, out=put(LOGITS))
    refused(fx.DTypeError, "grad_p is in the host's", fx.softmax_backward, put(LOGITS), LOGITS)
    other = ByDLPack(put.array(LABELS), device=1)
    refused(fx.BackendError, "target is on GPU 1.*GPU 0", fx.cross_entropy, put(LOGITS), other)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"typestr": ">f4"}, fx.DTypeError, "foreign byte order"),
        ({"typestr": "<i4"}, fx.DTypeError, "integers and booleans are not converted"),
        ({"mask": np.ones(5, bool)}, fx.DTypeError, "mask"),
        ({"strides": (22, 4)}, fx.DTypeError, "multiples of their size"),
        ({"shape": ()}, fx.ShapeError, "scalar"),
    ],
)
def test_logits_that_are_refused(put, change, error, match):
    logits = put(LOGITS)
    logits.facts |= change
    refused(error, match, fx.cross_entropy, logits, put(LABELS))


def test_shapes_and_layouts_that_are_refused(put):
    logits, labels = put(LOGITS), put(LABELS)
    refused(
        fx.ShapeError, "contiguous copy", fx.cross_entropy, logits, put(np.repeat(LABELS, 2)[::2])
    )
    deep = put(np.zeros((2, 3, 2, 3, 2, 4), np.float32).transpose(4, 3, 2, 1, 0, 5))
    refused(fx.ShapeError, "do not merge", fx.softmax, deep)
    across = put(np.zeros((3, 4, 5), np.float32))
    refused(fx.ShapeError, "not one in memory", fx.softmax, across, (0, 2))
    for name, value in (
        ("weight", random(6)),
        ("sample_weight", random(5)),
        ("sample_weight", np.float32(1)),
        ("grad_output", random(5)),
    ):
        call = fx.cross_entropy_and_grad
        refused(fx.ShapeError, name, call, logits, labels, **{name: put(value)})
    binary = fx.binary_cross_entropy_with_logits_and_grad
    refused(fx.ShapeError, "broadcast", binary, logits, logits, weight=put(random(4)))
    refused(fx.ShapeError, "scalar or", binary, logits, logits, grad_output=put(random(5)))
    wide = put(random(5, "float64"))
    refused(fx.DTypeError, "pass it as float32", binary, logits, logits, weight=wide)
    refused(fx.OptionError, "not negative", fx.cross_entropy, logits, labels, weight=-np.ones(5))


def test_out_that_is_refused(put):
    whole = put(random((8, 5)))
    facts = dict(whole.facts, shape=(6, 5))
    logits, moved = ByInterface(whole.array), ByInterface(whole.array)
    logits.facts = facts
    moved.facts = facts | {"data": (facts["data"][0] + 20, False)}
    refused(
        fx.OutputError, "overlaps logits", fx.cross_entropy_and_grad, logits, put(LABELS), out=moved
    )
    refused(fx.OutputError, "overlaps x", fx.softmax, logits, out=moved)
    fixed = put(LOGITS)
    fixed.facts["data"] = (fixed.facts["data"][0], True)
    refused(fx.OutputError, "read-only", fx.softmax, logits, out=fixed)
    refused(fx.ShapeError, "out needs", fx.softmax, logits, out=put(LOGITS[1:]))
    refused(fx.DTypeError, "out needs dtype", fx.softmax, logits, out=put(LOGITS.astype(float)))
    soft = put(np.abs(LOGITS))
    call = fx.cross_entropy_and_grad
    refused(fx.OutputError, "shares memory with target", call, put(LOGITS), soft, out=soft)
    grad = put(LOGITS[0])
    grad.facts["shape"], grad.facts["strides"] = (6, 5), (0, 4)
    refused(fx.OutputError, "one in memory", fx.softmax, put(LOGITS), out=grad)
    p, upstream = put(LOGITS), ByInterface(whole.array)
    upstream.facts = facts
    refused(fx.OutputError, "overlaps grad_p", fx.softmax_backward, p, upstream, out=moved)
