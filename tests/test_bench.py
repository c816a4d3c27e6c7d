"""The benchmark suite: every peer runs and is checked, rounds take turns, ceilings measure."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fastxent as fx
from fastxent.bench import ceilings, workloads
from fastxent.bench.check import Truth
from fastxent.bench.measure import Measurement, checked_calls, measure
from fastxent.bench.peers import named, others, own
from fastxent.bench.timer import Call, Plan, interleave
from fastxent.bench.workloads import OPTIONS, Workload, arrays, class_axis_1, options_of

TINY = Workload(33, 70, threads=2)
# Of each kind, one in the dtype and shape that take all its branches.
KINDS = {
    "softmax": replace(TINY, operation="softmax"),
    "log_softmax": replace(TINY, operation="log_softmax"),
    "axis 1": class_axis_1((3, 5, 7, 9), threads=2),
    "binary": Workload(5_000, 1, threads=2, operation="binary"),
    "bfloat16": replace(TINY, dtype="bfloat16"),
    "float16": replace(TINY, dtype="float16"),
}
# Compiling takes seconds for each shape and dtype: once is enough to see that it works.
COMPILED_ONCE = ("torch.compile",)


def every_peer():
    return [peer.name for peer in [*own(), *others()]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("name", every_peer())
def test_every_peer_is_right(name, labels, dtype):
    if name in COMPILED_ONCE and (labels, dtype) != ("soft", "float64"):
        pytest.skip("compiled once, for probabilities in float64")
    check_and_time(name, replace(TINY, labels=labels, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", every_peer())
def test_every_peer_is_right_in_every_kind(name, kind):
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")
    if name in COMPILED_ONCE and kind not in ("log_softmax", "bfloat16"):
        pytest.skip("compiled twice, for a softmax and half precision")
    if name.endswith("/in place") and not KINDS[kind].has_loss:
        pytest.skip("softmax is measured with `out=` and without")
    check_and_time(name, KINDS[kind])


def check_and_time(name, workload):
    peer = named(name)
    reason = peer.why_not(workload)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    measurement = Measurement(workload)
    calls = checked_calls(measurement, [peer])
    assert not measurement.wrong, measurement.skipped
    if name not in calls:
        pytest.skip(measurement.skipped[name])
    timing = interleave(calls, Plan(0.001, 2, 2))[name]
    assert 0 < timing.best <= timing.lower <= timing.median <= timing.upper
    assert timing.rounds == 2
    assert Truth.of(workload).faults(calls[name]()) == []  # the timed calls left all as it was


class Wrong:
    """A peer that is right but for one thing."""

    name = "wrong"

    def __init__(self, spoil):
        self.spoil = spoil

    def why_not(self, workload):
        return None

    def prepare(self, workload):
        logits, target = arrays(workload)
        return Call(lambda: self.spoil(*fx.cross_entropy_and_grad(logits, target), logits))


def half_precision(loss, grad, logits):
    return loss, grad.astype(np.float16).astype(grad.dtype)


def one_entry(loss, grad, logits):
    grad[7, 3] += 1e-4
    return loss, grad


def overwritten(loss, grad, logits):
    logits[-1, 0] += 1
    return loss, grad


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda loss, grad, logits: (loss * 1.0001, grad), "loss"),
        (lambda loss, grad, logits: (loss, grad * len(grad)), "gradient off"),
        (half_precision, "gradient off"),
        (one_entry, "adds up to"),
        (overwritten, "overwrote the logits"),
        (lambda loss, grad, logits: (loss, np.full_like(grad, np.nan)), "gradient off"),
        (lambda loss, grad, logits: (loss, grad.astype(np.float64)), "float64"),
        (lambda loss, grad, logits: (loss, grad.T), "shape"),
        (lambda loss, grad, logits: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_peer_is_caught_before_it_is_timed(spoil, message):
    workloads._arrays.cache_clear()
    measurement = measure(TINY, [named("NumPy"), Wrong(spoil)], Plan(0.001, 1, 1))
    workloads._arrays.cache_clear()
    assert measurement.wrong == ["wrong"]
    assert message in measurement.skipped["wrong"]
    assert "wrong" not in measurement.timings
    assert "NumPy" in measurement.timings


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("softmax", lambda p: p * 1.001, "softmax off"),
        ("softmax", lambda p: np.where(p == p.max(), p, p * 0.5), "adds up to"),
        ("log_softmax", lambda p: p + 0.01, "adds up to"),
        ("binary", lambda p: p + 1e-8, "gradient off"),
        ("bfloat16", lambda p: (p * 1.1).astype(p.dtype), "gradient off"),
        ("bfloat16", lambda p: p.astype(np.float32), "float32"),
        ("axis 1", lambda p: np.moveaxis(p, 1, -1), "shape"),
    ],
)
def test_a_wrong_result_of_every_kind_is_caught(kind, spoil, message):
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")
    workload = KINDS[kind]
    truth = Truth.of(workload)
    loss, output, *_ = named("numpy/new").prepare(workload)()
    assert truth.faults((loss, output)) == []
    assert message in "; ".join(truth.faults((loss, spoil(output))))


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_checked(option):
    workload = replace(TINY, option=option)
    truth = Truth.of(workload)
    result = named("numpy/new").prepare(workload)()
    assert truth.faults(result) == []
    plain = named("numpy/new").prepare(TINY)()
    if "aux" in options_of(workload):
        spoilt = result[2]._replace(**{option: getattr(result[2], option) + 1})
        assert truth.faults((*result[:2], spoilt)) == [f"{option} is off"]
    else:
        assert "loss" in truth.faults(plain)[0]


def test_options_are_timed_in_the_rounds_of_the_plain_call():
    peers = own(("out",), backends=("numpy",))
    others_beside = {"z_loss": (replace(TINY, option="z_loss"), [*peers, Wrong(overwritten)])}
    measurement = measure(TINY, peers, Plan(0.001, 2, 2), others=others_beside)
    workloads._arrays.cache_clear()
    assert measurement.timings.keys() >= {"numpy/out", "numpy/out, z_loss"}
    assert measurement.wrong == ["wrong, z_loss"]
    assert "overwrote" in measurement.skipped["wrong, z_loss"]


def test_a_backend_that_cannot_do_a_workload_is_left_out(monkeypatch):
    def cannot(*arguments, **options):
        raise fx.BackendError("it has no kernels for that")

    monkeypatch.setattr(fx, "cross_entropy_and_grad", cannot)
    measurement = measure(TINY, own(("out",)), Plan(0.001, 1, 1))
    assert measurement.wrong == []
    assert measurement.skipped["numpy/out"] == "it has no kernels for that"
    assert measurement.arithmetic == {}


def test_workloads_survive_json():
    for workload in (TINY, *KINDS.values(), replace(TINY, option="lse")):
        fields = json.loads(json.dumps(workload.as_dict()))
        assert Workload.from_dict(fields) == workload
    assert "operation" not in TINY.as_dict()
    assert str(KINDS["axis 1"]) == "3 x 5 x 7 x 9 float32 hard, 2 threads"
    assert str(KINDS["binary"]) == "5000 float32 binary, 2 threads"
    assert KINDS["binary"].counted_bytes == 3 * 5_000 * 4
    assert KINDS["bfloat16"].counted_bytes == TINY.counted_bytes // 2


def test_large_workloads_are_checked_on_some_rows_and_all():
    workload = Workload(40, 60_000)
    truth = Truth.of(workload)
    assert len(truth.checked) < workload.rows
    assert {0, workload.rows - 1} <= set(truth.checked)
    loss, grad = fx.cross_entropy_and_grad(*arrays(workload))
    assert truth.faults((loss, grad)) == []
    unchecked = next(row for row in range(workload.rows) if row not in truth.checked)
    grad[unchecked] *= 0.5
    grad[unchecked, 0] += 1e-3
    assert "adds up to" in truth.faults((loss, grad))[0]


def test_workloads_are_the_same_in_every_run_and_peaked():
    first = arrays(TINY)
    workloads._arrays.cache_clear()
    again = arrays(TINY)
    assert np.array_equal(first.logits, again.logits)
    assert np.array_equal(first.target, again.target)
    assert np.abs(first.logits).max() > 15
    soft = arrays(replace(TINY, labels="soft"))
    assert np.allclose(soft.target.sum(axis=1), 1, atol=1e-6)
    assert TINY.counted_bytes == 2 * 33 * 70 * 4
    assert replace(TINY, labels="soft", dtype="float64").counted_bytes == 3 * 33 * 70 * 8


def test_rounds_are_interleaved_and_rotate():
    order = []
    calls = {name: Call(lambda name=name: order.append(name)) for name in "abc"}
    timings = interleave(calls, Plan(1.0, 3, 3))
    assert {timing.rounds for timing in timings.values()} == {3}
    turns = order[len(order) - 18 :: 2]  # two calls a turn, the second one timed
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_slow_callables_take_part_in_fewer_rounds():
    assert Plan(1.0, 3, 50).rounds(1e-6) == 50
    assert Plan(1.0, 3, 50).rounds(0.05) == 10
    assert Plan(1.0, 3, 50).rounds(4.0) == 3


def test_inputs_that_are_overwritten_are_brought_back():
    state = np.zeros(1)
    seen = []

    def run():
        seen.append(state[0])
        state[0] += 1

    interleave({"counting": Call(run, lambda: state.fill(0))}, Plan(0.001, 4, 4))
    assert seen[-1] == 0
    assert Call(run, lambda: state.fill(0))() is None
    assert state[0] == 1


@pytest.fixture
def _numba():
    reason = ceilings.why_no_copies()
    if reason is not None:
        pytest.skip(f"numba: {reason}")


@pytest.mark.usefixtures("_numba")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_copies_copy_everything(dtype, threads):
    from fastxent.bench import copying

    rng = np.random.default_rng(0)
    source = rng.standard_normal((77, 3001)).astype(dtype)
    target = np.zeros_like(source)
    copying.copy(source, target, threads)()
    assert np.array_equal(target, -source)
    copying.copy_in_place(target, threads)()
    assert np.array_equal(target, source)
    second = rng.standard_normal(source.shape).astype(dtype)
    copying.copy_two(source, second, target, threads)()
    assert np.array_equal(target, source - second)


@pytest.mark.usefixtures("_numba")
def test_copies_are_vector_code_without_streaming_stores():
    from fastxent.bench import copying

    copying.copy(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), 1)()
    code = "\n".join(copying._in_chunks.inspect_asm().values())
    assert "memcpy" not in code
    assert "movnt" not in code
    assert re.search(r"[xyz]mm\d", code)


@pytest.mark.usefixtures("_numba")
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_ceilings_are_measured_with_the_kernels(labels):
    workload = Workload(256, 1000, labels=labels, threads=2)
    measurement = measure(workload, own(("out",), threads=1), Plan(0.001, 2, 3))
    assert measurement.timings[ceilings.COPY].median > 0
    assert measurement.timings[ceilings.COPY_IN_PLACE].median > 0
    assert set(measurement.arithmetic) <= {"cython", "numba"}
    assert all(seconds > 0 for seconds in measurement.arithmetic.values())
    assert measurement.timings.keys() >= {"numba/out x1"}


def fastxent(*arguments):
    command = [sys.executable, "-W", "error", "-m", "fastxent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_command_measures_one_shape(tmp_path):
    pytest.importorskip("rich", reason="rich is not installed")
    path = tmp_path / "result.json"
    result = fastxent("bench", "--shape", "64,10", "--quick", "--threads", "1", "--json", str(path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "64 x 10 float32 hard, 1 thread" in result.stdout
    assert "lower ceiling" in result.stdout
    able = [name for name, reason in fx.backends().items() if reason is None]
    for name in (*able, "NumPy"):
        assert name in result.stdout
    assert path.read_text().startswith("{")


@pytest.mark.parametrize("shape", ["banana", "3", "3,4,5", "0,4", "3,-1"])
def test_unknown_shape_is_a_usage_error(shape):
    result = fastxent("bench", f"--shape={shape}")
    assert result.returncode == 2
    assert f"invalid shape N,C value: '{shape}'" in result.stderr
