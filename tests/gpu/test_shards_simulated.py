"""The verbs of shards in the GPU backend, on a simulated GPU."""

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

from sharding.verbs import sharded_call, single_call

from fastxent.backends import load
from fastxent.backends.contract import BLOCK, Outputs, PartialSums
from fastxent.backends.cuda import verbs_shards
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, ShardVariant, Variant
from fastxent.device_array import DeviceArray
from fastxent.precision import narrow, widen
from fastxent.problem import Problem
from gpu.disassembly import disassembled
from gpu.simulation.driver import SimulatedDriver

ROWS = 4
CAPPED = {"label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 15.0, "logit_scale": 0.7}


@pytest.fixture
def cuda():
    backend = load("cuda")
    backend.driver = SimulatedDriver()
    yield backend
    backend.driver = None


@pytest.fixture
def small_blocks(monkeypatch):
    """Two warps a block, to save time."""
    monkeypatch.setattr(verbs_shards, "_GEOMETRY", LoopGeometry(64))


def bits_of(rng, classes, kind):
    """Logits with masked classes, many of a row, and a masked row."""
    x = 4 * rng.normal(size=(ROWS, classes))
    x[:, 2] = -np.inf
    x[1, :60] = -np.inf
    x[2] = -np.inf
    stored = narrow(x.astype(np.float64 if kind == "float64" else np.float32), kind)
    return stored, {"storage": kind} if stored.dtype == np.uint16 else {}


def labels_of(rng, classes):
    labels = rng.integers(3, classes, ROWS)
    labels[0], labels[3] = classes - 1, -100
    return labels


def close(found, expected, kind, scale=1.0):
    """Within a few units of the dtype in which rows are computed, or stored."""
    epsilon = {"float64": 2.0**-52, "float32": 2.0**-23}.get(kind, 2.0**-7)
    np.testing.assert_allclose(found, expected, rtol=40 * epsilon, atol=40 * epsilon * scale)


def check(cuda, problem, cuts, aux=True, **how):
    truth = load("numpy")
    expected, expected_grad = single_call(truth, problem, aux)
    found, grad, sums = sharded_call(cuda, problem, cuts, aux, **how)
    kind = problem.precision.kind
    computed = "float64" if kind == "float64" else "float32"
    for field in fields(Outputs):
        ours, other = getattr(found, field.name), getattr(expected, field.name)
        if other is not None:
            close(ours, other, computed, scale=10.0)
    close(widen(grad, kind), widen(expected_grad, kind), kind, scale=0.3)
    return sums


def test_merged_blocks_are_the_whole(cuda):
    classes = BLOCK + 130
    rng = np.random.default_rng(1)
    logits, _ = bits_of(rng, classes, "float32")
    soft = rng.random(logits.shape, np.float32)
    for target in (labels_of(rng, classes), soft):
        problem = Problem.build(logits, target).with_labels(cuda)
        check(cuda, problem, (0, BLOCK, classes))


CASES = [
    ("float32", "labels", {}),
    ("float32", "probabilities", CAPPED),
    ("float64", "labels", CAPPED),
    ("float64", "booleans", {}),
    ("float16", "labels", CAPPED),
    ("bfloat16", "probabilities", {}),
]


@pytest.mark.parametrize(("kind", "target", "options"), CASES)
def test_merged_shards_are_the_whole(cuda, small_blocks, kind, target, options):
    classes = 140
    rng = np.random.default_rng(1)
    logits, storing = bits_of(rng, classes, kind)
    soft = rng.random(logits.shape, np.float32)
    targets = {"labels": labels_of(rng, classes), "probabilities": soft, "booleans": soft > 0.5}
    weighted = {"weight": np.linspace(0.5, 1.5, classes), **options, **storing}
    problem = Problem.build(logits, targets[target], **weighted).with_labels(cuda)
    check(cuda, problem, (0, 60, classes))


def test_a_shard_in_one_part(cuda):
    classes = BLOCK + 207
    rng = np.random.default_rng(2)
    logits, _ = bits_of(rng, classes, "float32")
    problem = Problem.build(logits, labels_of(rng, classes), **CAPPED).with_labels(cuda)
    check(cuda, problem, (0, 100, 101, classes), parts=1)
    launches = cuda.driver.launches
    steps = [launch.spec.variant.step for launch in launches]
    assert steps == ["partial"] * 3 + ["merge"] + ["backward"] * 3
    assert [launch.grid for launch in launches[:4]] == [ROWS, ROWS, ROWS, 1]


def test_columns_and_rows_of_two_dimensions(cuda, small_blocks):
    classes = 90
    rng = np.random.default_rng(3)
    logits, _ = bits_of(rng, classes, "float32")
    labels = labels_of(rng, classes)
    expected, _ = single_call(load("numpy"), Problem.build(logits, labels).with_labels(cuda), False)
    for view, target in (
        (np.asfortranarray(logits), labels),
        (np.zeros((2, 3, classes), np.float32)[:, :2], labels.reshape(2, 2)),
    ):
        view[...] = logits.reshape(view.shape)
        problem = Problem.build(view, target).with_labels(cuda)
        found, _, _ = sharded_call(cuda, problem, (0, 50, classes), False)
        close(found.loss, expected.loss, "float32", scale=10.0)


def test_gradient_over_the_logits(cuda, small_blocks):
    classes = 170
    rng = np.random.default_rng(4)
    logits, _ = bits_of(rng, classes, "float32")
    labels = labels_of(rng, classes)
    problem = Problem.build(logits, labels, **CAPPED).with_labels(cuda)
    _, expected, _ = sharded_call(cuda, problem, (0, 100, classes), False)
    _, grad, _ = sharded_call(cuda, problem, (0, 100, classes), False, in_place=True)
    np.testing.assert_array_equal(grad, expected)


def test_skipped_rows_and_labels_out_of_range(cuda, small_blocks):
    classes = 70
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(3, classes)).astype(np.float32)
    logits[0] = np.nan
    labels = np.array([-100, 3, 7])
    problem = Problem.build(logits, labels).with_labels(cuda)
    problem = replace(problem, target=np.array([-100, classes, 7]))
    found, grad, sums = sharded_call(cuda, problem, (0, 30, classes), True)
    for field, value in {"max": 0, "sum": 1, "spread": 0, "argmax": -1}.items():
        assert (getattr(sums, field)[:, 0] == value).all(), field
    assert (found.loss[0], found.row_sum[0], found.mass[0]) == (0, 1, 0)
    assert np.isnan(found.loss[1])
    assert np.isnan(found.log_prob[1])
    assert np.isfinite(found.loss[2])
    assert not grad[:2].any()
    assert grad[2].any()


class NeverWaits(SimulatedDriver):
    """A driver that is caught when something waits for the GPU."""

    def download(self, *arguments):
        raise AssertionError("something waits")

    synchronize = wait_on_host = download


def test_arrays_of_the_device_stay_there_and_nothing_waits(cuda, small_blocks):
    classes = 70
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(3, classes)).astype(np.float32)
    weight = np.linspace(0.5, 1.5, classes)
    problem = Problem.build(logits, np.array([1, -100, 65]), weight=weight, label_smoothing=0.1)
    problem = problem.with_labels(cuda)
    expected, expected_grad = single_call(load("numpy"), problem, True)
    driver = cuda.driver = NeverWaits()
    place = cuda.place(0, 7)

    def put(array):
        return cuda.upload(np.ascontiguousarray(array), place)

    def get(array):
        here = np.empty(array.shape, array.dtype)
        SimulatedDriver.download(driver, here, array.address, 7, 0)
        return here

    def new(shape, dtype=np.float64):
        return place.allocate(shape, np.dtype(dtype))

    sums = PartialSums(
        max=new((2, 3)),
        sum=new((2, 3)),
        mass=new((2, 3)),
        dot=new((2, 3)),
        spread=new((2, 3)),
        argmax=new((2, 3), np.int64),
        label_logit=new((3,)),
    )
    at_label, grads = [], []
    there = replace(problem, target=put(problem.target), spike=put(problem.spike))
    shards = []
    for number, (begin, end) in enumerate(((0, 40), (40, classes))):
        shard = replace(
            there,
            logits=put(logits[:, begin:end]),
            background=put(problem.background[begin:end]),
            classes=end - begin,
            class_offset=begin,
        )
        shards.append(shard)
        rows = {
            name: DeviceArray(array.address + 24 * number, (1, 3), array.dtype, place, array)
            for name in ("max", "sum", "mass", "dot", "spread", "argmax")
            for array in [getattr(sums, name)]
        }
        at_label.append(new((3,)))
        cuda.partial(shard, PartialSums(**rows, label_logit=at_label[-1]))
    sums.label_logit = put(get(at_label[0]) + get(at_label[1]))
    out = Outputs(
        loss=new((3,), np.float32),
        row_max=new((3,), np.float32),
        row_sum=new((3,)),
        mass=new((3,)),
        argmax=new((3,), np.int64),
        entropy=new((3,), np.float32),
        lse=new((3,), np.float32),
        correct=new((3,), np.uint8),
        partial=new((1,)),
    )
    cuda.merge(replace(there, logits=None, background=None), sums, out)
    for name in ("loss", "row_sum", "argmax", "entropy"):
        close(get(getattr(out, name)), getattr(expected, name), "float32", scale=10.0)
    close(get(out.partial)[0], expected.total[0], "float32")
    statistics = put(get(out.row_max).astype(np.float64)), out.row_sum, out.mass
    for shard in shards:
        grads.append(new(shard.logits.shape, np.float32))
        cuda.partial_backward(shard, *statistics, grads[-1])
    close(np.hstack([get(grad) for grad in grads]), expected_grad, "float32", scale=0.3)


@pytest.mark.parametrize(
    ("step", "formula"),
    [
        ("partial", Variant("float64", "float64", "classes", "capped", "loss", True)),
        ("merge", Variant("float32", task="loss", sides=True)),
        ("backward", Variant("bfloat16", "bfloat16", "classes", "capped", "backward")),
    ],
)
def test_everything_stays_in_registers(step, formula):
    spec = KernelSpec("shard", ShardVariant(step, formula), LoopGeometry(128))
    assert disassembled(spec, (7, 5)).spills == 0
