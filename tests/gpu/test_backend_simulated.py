"""The GPU backend on a simulated GPU: its verbs for arrays of the device and of the host."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import fastxent as fx
from fastxent.backends import load
from fastxent.backends.contract import LABEL_CHUNK, BinaryOutputs, HessRule, Outputs
from fastxent.backends.cuda import runtime, tables
from fastxent.backends.cuda.arguments import pack_of
from fastxent.binary import BinaryProblem
from fastxent.device_array import DeviceArray
from fastxent.jacobian import JacobianProblem
from fastxent.mass import mass_of
from fastxent.precision import narrow, precision_of, widen
from fastxent.problem import Problem
from gpu.simulation.driver import SimulatedDriver

NUMPY = load("numpy")
KINDS = ("float32", "float64", "float16", "bfloat16")


class NeverWaits(SimulatedDriver):
    """A driver that is caught when something waits for the GPU."""

    waiting_allowed = False

    def download(self, *arguments):
        assert self.waiting_allowed
        super().download(*arguments)

    def synchronize(self, *_):
        assert self.waiting_allowed

    def wait_on_host(self, event):
        assert self.waiting_allowed

    def upload(self, address, array, stream, device):
        assert self.waiting_allowed or array.nbytes <= 1 << 24
        super().upload(address, array, stream, device)


@pytest.fixture
def cuda():
    backend = load("cuda")
    backend.driver = NeverWaits()
    yield backend
    backend.driver = None


@pytest.fixture
def put(cuda):
    """Copy an array to the device, with strides like those it has."""
    place = cuda.place(0, 7)

    def copy(array):
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        there = cuda.upload(root.ravel("K"), place)
        offset = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return DeviceArray(
            there.address + offset, array.shape, array.dtype, place, there, array.strides
        )

    return copy


@pytest.fixture
def get(cuda):
    """Copy an array from the device, with the strides it has there."""

    def copy(array):
        root = array.owner if isinstance(array.owner, DeviceArray) else array
        assert root.is_dense
        memory = np.empty(root.nbytes, np.uint8)
        SimulatedDriver.download(cuda.driver, memory, root.address, 0, 0)
        offset = array.address - root.address
        return np.ndarray(array.shape, array.dtype, memory, offset, array.strides)

    return copy


@pytest.fixture
def empty(cuda):
    return cuda.place(0, 7).allocate


def random(shape, kind, seed=0):
    """Numbers of a kind, as kernels get them."""
    values = np.random.default_rng(seed).normal(size=shape) * 3
    dtype = np.float64 if kind == "float64" else np.float32
    return narrow(values.astype(dtype), kind)


FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 700, 2 * LABEL_CHUNK + 5])
@pytest.mark.parametrize(
    ("dtype", "class_kind", "row_kind"),
    [(np.int64, None, None), (np.int8, "float32", "float64"), (np.uint16, "float16", None)],
)
def test_label_mass_is_that_of_the_host(cuda, put, get, empty, rows, dtype, class_kind, row_kind):
    rng = np.random.default_rng(rows)
    target = rng.integers(0, 12, rows).astype(dtype)
    weights = None if class_kind is None else rng.random(11).astype(class_kind)
    of_rows = None if row_kind is None else rng.random(rows).astype(row_kind)
    mass, bad_row = empty((1,), FLOAT64), empty((1,), np.dtype(np.int64))
    cuda.label_mass(
        put(target),
        11,
        3,
        None if weights is None else put(weights),
        None if of_rows is None else put(of_rows),
        mass,
        bad_row,
    )
    good = (target < 11) & (target != 3)
    factors = np.ones(rows)
    if weights is not None:
        factors *= weights[np.where(good, target, 0)]
    if of_rows is not None:
        factors *= of_rows
    assert get(mass)[0] == pytest.approx(factors[good].sum(), rel=1e-14)
    bad = np.flatnonzero(target == 11)
    assert get(bad_row)[0] == (bad[0] if bad.size else -1)
    cuda.driver.waiting_allowed = True
    assert cuda.first_bad_label(put(target), 11, 3) == (bad[0] if bad.size else -1)
    assert cuda.first_bad_label(put(target), 12, 3) == -1


@pytest.mark.parametrize("kind", ["float32", "float16", "int32"])
@pytest.mark.parametrize("compute", [FLOAT32, FLOAT64])
def test_class_factors_have_the_bits_of_the_host(cuda, put, get, empty, kind, compute):
    classes, smoothing = 37, 0.1
    weights = (np.random.default_rng(1).random(classes) * 5).astype(kind)
    spike, background, gain = (empty((classes,), dtype) for dtype in (FLOAT64, compute, compute))
    total = empty((1,), FLOAT64)
    cuda.class_factors(
        put(weights), 1 - smoothing, smoothing / classes, spike, background, total, gain
    )
    exact = weights.astype(np.float64)
    hard = mass_of(exact, smoothing, classes, True, compute)
    soft = mass_of(exact, smoothing, classes, False, compute)
    assert np.array_equal(get(spike), hard["spike"])
    assert np.array_equal(get(background), hard["background"])
    assert np.array_equal(get(gain), soft["gain"])
    assert get(total)[0] == pytest.approx(hard["background_total"], rel=1e-15)


def test_row_factors_are_products(cuda, put, get, empty):
    rng = np.random.default_rng(2)
    rows = 1500
    first, second = rng.random(rows), rng.random(2 * rows).astype(np.float32)[::2]
    result = empty((rows,), FLOAT64)
    cuda.row_factors((put(first), 0.25, put(second)), result)
    assert np.array_equal(get(result), first * 0.25 * second)
    cuda.row_factors((put(second),), result)
    assert np.array_equal(get(result), second.astype(np.float64))


def test_sums_are_divided_and_rounded_once(cuda, put, get, empty):
    partial = np.random.default_rng(3).random(5000)
    loss, wide = empty((1,), FLOAT32), empty((1,), FLOAT64)
    cuda.finish_sum(put(partial), 8.0, put(np.array([3.0])), False, None, loss)
    cuda.finish_sum(put(partial), 8.0, None, False, None, wide)
    assert get(loss)[0] == np.float32(partial.sum() / 24)
    assert get(wide)[0] == pytest.approx(partial.sum() / 8, rel=1e-14)
    for zero_when_empty, expected in ((False, np.nan), (True, 0.0)):
        for bad_row in (None, put(np.array([-1]))):
            cuda.finish_sum(put(partial), 1.0, put(np.zeros(1)), zero_when_empty, bad_row, loss)
            assert np.array_equal(get(loss), [np.float32(expected)], equal_nan=True)
        cuda.finish_sum(
            put(partial), 1.0, put(np.zeros(1)), zero_when_empty, put(np.array([3])), loss
        )
        assert np.isnan(get(loss)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upstream_rows", [1, 6])
@pytest.mark.parametrize("layout", ["dense", "odd", "transposed", "apart", "new"])
def test_scaling(cuda, put, get, kind, upstream_rows, layout):
    rows, classes = 6, 11
    whole = random((rows + 1, classes + 3), kind)
    grad = {
        "dense": whole[:6, :11].copy(),
        "odd": whole.reshape(-1)[1 : 1 + rows * classes].reshape(rows, classes),
        "transposed": random((classes, rows), kind).T,
        "apart": whole[1:, 2:13],
        "new": whole[:6, :11].copy(),
    }[layout]
    upstream = np.random.default_rng(4).random(upstream_rows).astype(np.float32) + 1
    there = put(grad)
    out = put(np.full((rows, classes), 7, grad.dtype)) if layout == "new" else there
    cuda.scale(there, kind, put(upstream), out)
    factors = upstream.astype(widen(grad, kind).dtype).reshape(-1, 1)
    assert np.array_equal(get(out), narrow(widen(grad, kind) * factors, kind))


def products(kind, rng, shape):
    proba = narrow(rng.random(shape).astype(np.float64 if kind == "float64" else np.float32), kind)
    return proba, random(shape, kind, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [5, 40, 700])
@pytest.mark.parametrize("is_log", [False, True])
def test_jacobian_products_of_the_device(cuda, put, get, kind, classes, is_log):
    precision = precision_of(
        np.dtype(np.uint16 if len(kind) > 7 else kind), kind if len(kind) > 7 else None
    )
    assert precision.kind == kind
    rng = np.random.default_rng(6)
    first, grad = products(kind, rng, (2, 3, classes))
    first_classes_apart = np.asfortranarray(first)
    for given in (first, first_classes_apart):

        def problem(a, b):
            named = {"log_proba": a} if is_log else {"proba": a}
            return JacobianProblem(grad=b, precision=precision, num_threads=1, **named)

        expected = np.empty_like(first)
        NUMPY.softmax_backward(problem(given, grad), expected)
        out = put(np.zeros_like(first))
        cuda.softmax_backward(problem(put(given), put(grad)), out)
        p, g = (np.abs(widen(array, kind).astype(np.float64)) for array in (first, grad))
        terms = (np.exp(p) if is_log else p) * (g + (g if is_log else p * g).sum(-1, keepdims=True))
        epsilon = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(kind) or np.finfo(kind).eps
        found, truth = (widen(a, kind).astype(np.float64) for a in (get(out), expected))
        assert (np.abs(found - truth) <= 4 * epsilon * (np.abs(truth) + terms)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target_kind", ["own", "int64", "uint8"])
@pytest.mark.parametrize("layout", ["dense", "strided"])
def test_binary_of_the_device(cuda, put, get, empty, kind, target_kind, layout):
    rng = np.random.default_rng(8)
    shape = (5, 300)
    compute = FLOAT64 if kind == "float64" else FLOAT32
    x = random(shape, kind)
    target = rng.integers(0, 2, shape).astype(np.int64 if target_kind == "int64" else np.uint8)
    if target_kind == "own":
        target = narrow(rng.random(shape).astype(compute), kind)
    ones, factor = (rng.random(shape).astype(compute) for _ in range(2))
    if layout == "strided":
        x, ones = np.asfortranarray(x), np.broadcast_to(ones[:1], shape)

    def problem(copy):
        return BinaryProblem(
            logits=copy(x),
            logits_kind=kind,
            target=copy(target),
            target_kind=kind if target_kind == "own" else target_kind,
            compute=compute,
            ones=copy(ones),
            factor=copy(factor),
            upstream=0.5,
            gain=0.9,
            background=0.05,
            num_threads=1,
            hess_rule=HessRule("distance", 2.0, 1e-3),
        )

    names = ("loss", "grad", "proba", "hess")
    dtypes = (compute, x.dtype, x.dtype, x.dtype)
    truth = BinaryOutputs(*(np.zeros(shape, dtype) for dtype in dtypes), total=np.zeros(1))
    assert not NUMPY.binary(problem(lambda array: array), truth)
    there = problem(put)
    out = BinaryOutputs(*(put(np.zeros(shape, dtype)) for dtype in dtypes))
    out.partial = empty((cuda.binary_partial_count(there),), FLOAT64)
    assert not cuda.binary(there, out)
    for name in names:
        stored = compute.name if name == "loss" else kind
        found, expected = (
            widen(array, stored).astype(np.float64)
            for array in (get(getattr(out, name)), getattr(truth, name))
        )
        epsilon = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(stored) or np.finfo(stored).eps
        assert np.abs(found - expected).max() <= 8 * epsilon * np.abs(expected).max(), name
    assert get(out.partial).sum() == pytest.approx(truth.total[0], rel=1e-6)


def test_a_bad_binary_target_gives_nan_and_no_gradient(cuda, put, get):
    x = np.array([0.5, -1.0, 2.0], np.float32)
    target = np.array([1, 2, 0])
    problem = BinaryProblem(
        *(put(x), "float32", put(target), "int64", FLOAT32, 1.0, 1.0, 1.0, 1.0, 0.0, 1)
    )
    out = BinaryOutputs(loss=put(np.zeros(3, np.float32)), grad=put(np.ones(3, np.float32)))
    assert not cuda.binary(problem, out)
    assert np.isnan(get(out.loss)).tolist() == [False, True, False]
    assert (get(out.grad) == 0).tolist() == [False, True, False]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arrays_of_the_host_go_there_and_back(cuda, axis):
    cuda.driver.waiting_allowed = True
    rng = np.random.default_rng(9)
    x, g = rng.normal(size=(3, 4, 35)), rng.normal(size=(3, 4, 35))
    p = fx.softmax(x, axis, backend="numpy")
    for function, first in ((fx.softmax_backward, p), (fx.log_softmax_backward, np.log(p))):
        found, truth = (function(first, g, axis, backend=name) for name in ("cuda", "numpy"))
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-14)
        out = g.copy()
        assert function(first, out, axis, out=out, backend="cuda") is out
        assert np.array_equal(out, found)
    y = rng.integers(0, 2, x.shape)
    for options in ({}, {"reduction": "none"}, {"pos_weight": rng.random(35)}):
        found, truth = (
            fx.binary_cross_entropy_with_logits_and_grad(x, y, backend=name, **options)
            for name in ("cuda", "numpy")
        )
        np.testing.assert_allclose(found[0], truth[0], rtol=1e-13)
        np.testing.assert_allclose(found[1], truth[1], rtol=1e-12, atol=1e-18)
    with pytest.raises(fx.LabelError):
        fx.binary_cross_entropy_with_logits(x, y + 1, backend="cuda")


def test_a_new_layout_is_refused_while_a_stream_is_captured(cuda, put):
    grad = put(np.asfortranarray(random((6, 11), "float32"))[:, ::2])
    upstream = put(np.ones(6, np.float32))
    cuda.driver.capturing = True
    with pytest.raises(fx.BackendError, match="before the capture"):
        cuda.scale(grad, "float32", upstream, grad)
    cuda.driver.capturing = False
    cuda.scale(grad, "float32", upstream, grad)
    cuda.driver.capturing = True
    cuda.scale(grad, "float32", upstream, grad)


def test_memory_goes_back(cuda, put):
    """What a call allocates is free after it, in the order of the stream."""
    cuda.driver.waiting_allowed = True
    given = []
    free = cuda.driver.free

    def note(address, device, stream):
        given.append(stream)
        free(address, device, stream)

    cuda.driver.free = note
    fx.softmax_backward(np.ones((2, 40)), np.ones((2, 40)), backend="cuda")
    assert given == [0, 0, 0]


def test_a_child_process_leaves_the_memory_of_its_parent(cuda, empty, monkeypatch):
    given = []
    monkeypatch.setattr(cuda.driver, "free", lambda *arguments: given.append(arguments))
    array, other = empty((3,), FLOAT32), empty((3,), FLOAT32)
    address = array.address
    with monkeypatch.context() as child:
        child.setattr(runtime.os, "getpid", lambda: -1)
        del other
    assert given == []
    del array
    assert given == [(address, 0, None)]


def strided(put, classes):
    return put(np.asfortranarray(random((6, 2 * classes), "float32"))[:, ::2])


def test_tables_are_ordered_behind_their_copies(cuda, put):
    """Streams wait for the copy until it is done, and only then."""
    driver = cuda.driver
    grad, upstream = strided(put, 11), put(np.ones(6, np.float32))
    driver.running = True
    for stream in (7, 8):
        for array in (grad, upstream):
            array.place = cuda.place(0, stream)
        cuda.scale(grad, "float32", upstream, grad)
    assert driver.events == [("wait", 7, 7), ("wait", 8, 7)]
    driver.running = False
    cuda.scale(grad, "float32", upstream, grad)
    driver.running = True
    cuda.scale(grad, "float32", upstream, grad)
    assert len(driver.events) == 2


def test_tables_are_few_but_those_of_graphs_stay(cuda, put, monkeypatch):
    monkeypatch.setattr(tables, "MOST_TABLES", 3)
    driver, freed = cuda.driver, []
    free = driver.free
    upstream = put(np.ones(6, np.float32))
    arrays = [strided(put, classes) for classes in range(3, 11)]

    def scale(array):
        cuda.scale(array, "float32", upstream, array)
        return driver.launches[-1].arguments["layout"]

    def note(address, device, stream):
        freed.append(address)
        free(address, device, stream)

    monkeypatch.setattr(driver, "free", note)
    first = scale(arrays[0])
    driver.capturing = driver.running = driver.waiting_allowed = True
    assert scale(arrays[0]) == first
    driver.capturing = driver.running = driver.waiting_allowed = False
    given = [scale(array) for array in arrays[1:]]
    assert freed == given[:-3]
    assert scale(arrays[-2]) == given[-2]


def test_recorded_launches_keep_their_tables(cuda, put, monkeypatch):
    monkeypatch.setattr(tables, "MOST_TABLES", 1)
    grad, upstream = strided(put, 11), put(np.ones(6, np.float32))
    replay = cuda.record(lambda: cuda.scale(grad, "float32", upstream, grad))
    other = strided(put, 12)
    cuda.scale(other, "float32", upstream, other)
    cuda.driver.running = True
    replay(cuda.place(0, 9), ())  # a table that was given back would be a fault
    assert cuda.driver.events[-1] == ("wait", 9, 7)


def test_labels_are_not_checked_while_a_stream_is_captured(cuda, put):
    labels = put(np.arange(3))
    cuda.driver.capturing = True
    with pytest.raises(fx.BackendError, match="cannot be checked"):
        cuda.first_bad_label(labels, 3, None)


def test_memory_of_the_backend_is_refused_while_a_stream_is_captured(cuda, empty):
    cuda.driver.capturing = True
    for allocate in (empty, cuda.place(0, 7).scratch):
        with pytest.raises(fx.BackendError, match="only PyTorch keeps memory for a graph"):
            allocate((3,), FLOAT32)


def problem_on_device(problem, put):
    """The same problem with its arrays on the device, as they lie."""
    names = ("logits", "target", "soft", "spike", "background", "gain", "row_scale")
    values = {name: getattr(problem, name) for name in names}
    return replace(
        problem,
        **{name: put(v) if isinstance(v, np.ndarray) else v for name, v in values.items()},
    )


def outputs_of(problem):
    """Room for every output that this problem can have."""
    rows, wide = problem.rows, problem.precision.loss
    matrix = (rows, problem.classes)
    out = Outputs(
        loss=np.zeros(rows, wide),
        grad=np.zeros(matrix, problem.precision.kernel),
        hess=np.zeros(matrix, problem.precision.kernel),
        row_max=np.zeros(rows, problem.precision.compute),
        row_sum=np.zeros(rows),
        proba=np.zeros(matrix, problem.precision.kernel),
        log_prob=np.zeros(rows, wide),
        argmax=np.zeros(rows, np.int64),
        entropy=np.zeros(rows, wide),
    )
    if problem.soft is not None:
        out.target_grad = np.zeros(matrix, problem.soft.dtype)
    return out


def wide_of(name, array, problem):
    """The numbers of an output, to compute with."""
    kind = problem.precision.kind
    is_stored = name in ("grad", "hess", "proba", "target_grad")
    return widen(array, kind if is_stored else array.dtype.name).astype(np.float64)


def assert_forward_as_numpy(cuda, put, get, problem, tolerance, **changes):
    """Forward on the device, where `changes` were made to the problem there, and of NumPy."""
    truth = outputs_of(problem)
    NUMPY.forward(problem, truth)
    there = replace(problem_on_device(problem, put), **changes)
    given = {name: getattr(truth, name) for name in truth.__slots__}
    out = Outputs(**{n: None if a is None else put(np.full_like(a, 7)) for n, a in given.items()})
    out.partial = put(np.zeros(cuda.partial_count(there)))
    cuda.forward(there, out)
    found = {name: get(getattr(out, name)) for name, a in given.items() if a is not None}
    for name, array in found.items():
        one, other = (wide_of(name, a, problem) for a in (array, given[name]))
        size = np.abs(other[np.isfinite(other)]).max(initial=1e-9)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size, err_msg=name)
    total = np.nansum(found["loss"].astype(np.float64))
    assert np.nansum(get(out.partial)) == pytest.approx(total, rel=1e-5)
    return found


TOLERANCE = {"float32": 2e-6, "float64": 4e-15, "float16": 1e-3, "bfloat16": 8e-3}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["labels", "soft"])
def test_rows_of_sequences_without_their_last(cuda, put, get, kind, target):
    """logits[:, :-1]: as many launches as there are sequences, and the results side by side."""
    classes = 301
    logits = random((3, 6, classes), kind)[:, :-1]
    rng = np.random.default_rng(11)
    labels = rng.integers(0, classes, (3, 5))
    labels[1, 2] = -100
    storage = kind if kind in ("float16", "bfloat16") else None
    options = {"weight": rng.random(classes), "label_smoothing": 0.1, "z_loss": 1e-3}
    soft = narrow(rng.random(logits.shape).astype(widen(logits, kind).dtype), kind)
    problem = Problem.build(
        logits, labels if target == "labels" else soft, storage=storage, **options
    )
    problem = problem.with_labels(NUMPY)
    assert problem.logits.ndim == 3
    assert_forward_as_numpy(cuda, put, get, problem, TOLERANCE[kind])
    (first, *_), (launches,) = cuda.driver.launches, {len(cuda.driver.launches)}
    assert first.spec.module == "row"
    assert launches == 3


@pytest.mark.parametrize("classes", [10, 203])
def test_a_result_that_lies_otherwise(cuda, put, get, classes):
    """Logits at a multiple of 16 bytes, the gradient 4 bytes behind one, with gaps."""
    logits, labels = random((5, classes), "float32"), np.arange(5)
    problem = Problem.build(logits, labels).with_labels(NUMPY)
    truth = np.empty_like(logits)
    NUMPY.forward(problem, Outputs(grad=truth))
    room = np.full((6, classes + 2), 7, np.float32)
    grad = put(room[1:, 1 : classes + 1])
    cuda.forward(problem_on_device(problem, put), Outputs(grad=grad))
    found = get(grad)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-7)
    root = np.ndarray(room.shape, room.dtype, found.base)
    root[1:, 1 : classes + 1] = 7
    assert (root == 7).all()


def test_what_is_known_on_the_device_only(cuda, put, get):
    """A denominator, weights of rows and the background's total, as addresses."""
    classes = 40
    logits, labels = random((6, classes), "float32"), np.array([3, 0, -100, 39, 7, 40])
    rng = np.random.default_rng(12)
    weight, row_weight = rng.random(classes), rng.random(6)
    good = np.where(labels == 40, 1, labels)
    problem = Problem.build(logits, good, weight=weight, label_smoothing=0.2, reduction="sum")
    problem = problem.with_labels(NUMPY)
    truth = outputs_of(problem)
    NUMPY.forward(problem, truth)
    there = replace(
        problem_on_device(problem, put),
        target=put(labels),
        background_total=put(np.array([problem.background_total])),
        row_weight_at=put(row_weight),
        denominator_at=put(np.array([4.0])),
        z_loss=0.5,
    )
    wide = np.zeros(6, np.float32)
    out = Outputs(
        loss=put(wide), lse=put(wide), z_loss=put(wide), correct=put(np.full(6, 9, np.uint8))
    )
    out.grad = put(truth.grad)
    out.argmax = put(truth.argmax)
    cuda.forward(there, out)
    lse = truth.row_max + np.log(truth.row_sum)
    lse[2] = 0
    np.testing.assert_allclose(get(out.lse), lse, rtol=1e-6)
    np.testing.assert_allclose(get(out.z_loss), 0.5 * lse**2, rtol=1e-6)
    loss = (truth.loss + 0.5 * lse**2) * row_weight
    loss[5] = np.nan
    np.testing.assert_allclose(get(out.loss), loss, rtol=2e-6)
    assert np.array_equal(get(out.argmax), truth.argmax)
    assert np.array_equal(get(out.correct), truth.argmax == labels)
    grad = get(out.grad)
    assert not grad[[2, 5]].any()
    plain = replace(there, denominator_at=None, row_scale=0.25)
    again = put(np.zeros_like(grad))
    cuda.forward(plain, Outputs(grad=again))
    np.testing.assert_allclose(grad, get(again), rtol=1e-6)
    nothing = replace(there, denominator_at=put(np.zeros(1)))
    cuda.forward(nothing, Outputs(grad=again))
    assert not get(again).any()


def test_no_launch_without_rows(cuda, put):
    problem = Problem.build(np.zeros((0, 40), np.float32), np.zeros(0, np.int64))
    problem = problem_on_device(problem.with_labels(NUMPY), put)
    assert cuda.partial_count(problem) == 0
    cuda.forward(problem, Outputs(grad=put(np.zeros((0, 40), np.float32))))
    assert not cuda.driver.launches


def test_names_that_a_kernel_does_not_have_are_found():
    with pytest.raises(KeyError, match="rowz"):
        pack_of("row")({"rowz": 1})
