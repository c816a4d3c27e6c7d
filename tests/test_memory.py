"""Memory: what calls need beside their arrays, what refused ones leave, and long and large runs."""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent import boosting

ROOT = Path(__file__).parent.parent
CLASSES = 2048
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and needs glibc")


def arrays_in(found):
    if isinstance(found, tuple | list):
        for one in found:
            yield from arrays_in(one)
    elif is_dataclass(found):
        yield from arrays_in([getattr(found, field.name) for field in fields(found)])
    elif isinstance(found, np.ndarray):
        yield found


def extra_bytes(call):
    """Most memory that a call holds at once, without what it gives."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        found = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak - sum(one.nbytes for one in arrays_in(found))


def of_loss(dtype="float32", order="C", **options):
    def make(rows, on):
        logits = np.ones((rows, CLASSES), dtype, order=order)
        return lambda: fx.cross_entropy_and_grad(logits, np.arange(rows), **options, **on)

    return make


def of_probabilities(rows, on):
    logits = np.ones((rows, CLASSES), np.float32)
    target = np.broadcast_to(logits[:1] / CLASSES, logits.shape)
    weight = np.linspace(0, 1, CLASSES)
    rest = {"weight": weight, "label_smoothing": 0.1, "aux": ("target_grad",)}
    return lambda: fx.cross_entropy_and_grad(logits, target, **rest, **on)


def of_rows(function, dtype="float32", arrays=1, axis=-1):
    def make(rows, on):
        given = [np.ones((rows, CLASSES), dtype)] * arrays
        return lambda: function(*given, axis, **on)

    return make


def of_binary(rows, on):
    logits = np.ones((rows, CLASSES), np.float16)
    target = np.broadcast_to(np.float32(0.5), logits.shape)
    return lambda: fx.binary_cross_entropy_with_logits_and_grad(logits, target, **on)


def of_shards(rows, on):
    logits, target = np.ones((rows, CLASSES), np.float32), np.arange(rows)
    whole = {"class_offset": 0, "num_classes": CLASSES, **on}
    stats = fx.partial_stats(logits, target, **whole)

    def run():
        fx.partial_stats(logits, target, **whole)
        return fx.grad_from_stats(logits, target, stats, **whole)

    return run


def of_boosting(rows, on):
    scores = np.ones((rows, CLASSES), np.float32)
    return lambda: boosting.softmax_gradient_hessian(scores, np.arange(rows), **on)


# What each needs beside its arrays: bytes for each class and thread, of buffers of some rows.
NEEDS = {
    "loss and gradient": (of_loss(), 0),
    "float16": (of_loss("float16"), 20),
    "capped, smoothed, row by row": (
        of_loss(softcap=5.0, label_smoothing=0.1, reduction="none"),
        20,
    ),
    "side outputs": (of_loss(aux=("lse", "log_prob", "argmax", "correct", "entropy")), 20),
    "columns": (of_loss(order="F"), 5 * 64),
    "probabilities": (of_probabilities, 24),
    "softmax": (of_rows(fx.softmax), 0),
    "softmax of float16": (of_rows(fx.softmax, "float16"), 20),
    "log_softmax": (of_rows(fx.log_softmax), 0),
    "logsumexp": (of_rows(fx.logsumexp), 0),
    "softmax_backward": (of_rows(fx.softmax_backward, arrays=2), 0),
    "log_softmax_backward, float16": (of_rows(fx.log_softmax_backward, "float16", arrays=2), 520),
    "binary": (of_binary, 0),
    "shards": (of_shards, 0),
    "gradient and Hessian": (of_boosting, 20),
}
# And for each row, of which the logits have 8,192 bytes of float32: statistics, of each block of
# 1,024 classes too where the classes are split over processes.
OF_A_ROW = 300
# NumPy's passes have temporary arrays of a group of rows.
OF_NUMPY = 10_000_000


@pytest.mark.parametrize("name", NEEDS)
def test_no_call_needs_another_array_of_the_size_of_the_logits(backend, name):
    make, of_a_class = NEEDS[name]
    threads = 3
    on = {"backend": backend, "num_threads": threads}
    few, many = (extra_bytes(make(rows, on)) for rows in (256, 640))
    assert many - few <= 384 * OF_A_ROW + 16_000
    of_buffers = OF_NUMPY if backend == "numpy" else threads * of_a_class * CLASSES
    assert few <= 16_000 + 256 * OF_A_ROW + of_buffers


# --- calls that are refused leave nothing


def refused_calls(logits, target, out):
    """Where the compiled extension holds all arrays already, and where it is not reached."""
    bad = target.copy()
    bad[-1] = logits.shape[1]
    part = {"class_offset": 0, "num_classes": logits.shape[1]}
    yield fx.LabelError, lambda on: fx.cross_entropy_and_grad(logits, bad, out=out, **on)
    yield fx.LabelError, lambda on: fx.cross_entropy(logits, bad, label_smoothing=0.1, **on)
    yield fx.LabelError, lambda on: fx.partial_stats(logits, bad, **part, **on)
    yield fx.LabelError, lambda on: fx.check_labels(bad, logits.shape[1])
    yield (
        fx.LabelError,
        lambda on: fx.binary_cross_entropy_with_logits_and_grad(
            logits, np.full(logits.shape, 2), out=out, **on
        ),
    )
    overlapping = np.lib.stride_tricks.as_strided(logits.reshape(-1)[1:], (59, 70), logits.strides)
    yield (
        fx.OutputError,
        lambda on: fx.cross_entropy_and_grad(logits[:59], target[:59], out=overlapping, **on),
    )
    yield fx.ShapeError, lambda on: fx.softmax_backward(logits, out[1:], **on)


REFUSED = ("label", "label, smoothed", "shard", "labels", "binary target", "output", "shape")


def repeat(times, call, kind, on):
    for _ in range(times):
        try:
            call(on)
        except kind:
            continue
        pytest.fail(f"{kind.__name__} was not raised")


def held_bytes():
    """What Python's memory and NumPy's hold, caches that drop what they have aside."""
    # a type keeps the last names that were looked up, some thousand strings in all
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_call_holds_no_array_and_leaves_no_memory(backend, name):
    logits, target = np.ones((60, 70), np.float32), np.arange(60)
    out = np.zeros_like(logits)
    on = {"backend": backend, "num_threads": 2}
    kind, call = list(refused_calls(logits, target, out))[REFUSED.index(name)]
    counts = [sys.getrefcount(one) for one in (logits, target, out)]
    tracemalloc.start()
    try:
        repeat(30, call, kind, on)
        before = held_bytes()
        repeat(100, call, kind, on)
        left = held_bytes() - before
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(one) for one in (logits, target, out)] == counts
    assert left < 100 * 16  # less for each call than the smallest object
    assert not out.any()


def test_the_extension_lets_go_of_its_buffers():
    if fx.backends()["cython"] is not None:
        pytest.skip(f"cython: {fx.backends()['cython']}")
    from fastxent.backends import _kernels

    logits, labels = bytearray(4 * 6), bytearray(8 * 2)
    rows = memoryview(logits).cast("f", (2, 3))
    target = memoryview(labels).cast("q")
    assert _kernels.mean_loss(rows, target, None, None, 1) == pytest.approx(np.log(3))
    assert _kernels.check_labels(target, 3, None, None, None, 1) == (-1, 2, 2.0)
    labels[0] = 7
    assert _kernels.mean_loss(rows, target, None, rows, 1) is None
    assert _kernels.check_labels(target, 3, None, None, None, 1)[0] == 0
    with pytest.raises(TypeError):  # the third array has no buffer: the first two are let go
        _kernels.mean_loss(rows, target, None, object(), 1)
    with pytest.raises(BufferError):  # read-only, found after the logits
        _kernels.softmax(rows, 0, memoryview(bytes(24)).cast("f", (2, 3)), None, None, None, 1)
    rows.release()
    target.release()
    logits.append(0)  # BufferError while anybody holds them
    labels.append(0)


# --- the programs behind docs/reliability.md, made short


def run(name, out, *arguments):
    """Run a program of reliability/ as the page's maker does, and give what it kept."""
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", f"reliability.{name}", *arguments, "--out", str(out)]
    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = json.loads((out / f"{name}.json").read_text())
    assert kept["passed"]
    assert kept["faults"] == []
    return kept["figures"]


@LINUX
@pytest.mark.slow
def test_every_array_refused_in_turn_ends_in_an_error_and_nothing_else(backend, tmp_path):
    from reliability import faults

    if faults.build(tmp_path) is None:
        pytest.skip("there is no C compiler")
    calls = ("--calls", "all options", "in place", "long rows", "shards", "linear")
    figures = run("faults", tmp_path, "--ways", "blocks", "limit", "--backends", backend, *calls)
    assert figures["refused"] > 100
    assert figures["limited"] == 5
    assert figures["errors"] > 100


@LINUX
@pytest.mark.slow
def test_mixed_calls_from_threads_leave_nothing(tmp_path):
    pytest.importorskip("torch")
    if any(fx.backends()[name] is not None for name in ("cython", "numba")):
        pytest.skip("needs both compiled backends")
    figures = run("soak", tmp_path, "--minutes", "0.08", "--every", "0.5", "--share", "0.02")
    assert figures["calls"] > figures["kinds"]
    assert figures["refused"] > 0
    assert figures["different_results"] == 0


@LINUX
def test_a_leak_is_seen():
    pytest.importorskip("rich")
    from reliability import soak

    def samples(bytes_of_a_call, threads=0, descriptors=0):
        return [
            soak.Sample(
                n,
                10_000 * n,
                10**8 + int(10_000 * n * bytes_of_a_call),
                9 + threads * n,
                5 + descriptors * (n // 100),
            )
            for n in range(140)
        ]

    assert soak.judged(soak.Found(samples(1)))[1] == []
    for leaking in (samples(16), samples(0, threads=1), samples(0, descriptors=1)):
        assert len(soak.judged(soak.Found(leaking))[1]) == 1
    assert soak.judged(soak.Found(samples(0), ["a call: another result"]))[1]


def test_the_large_checks_are_right_where_arrays_are_small(backend):
    from reliability import large

    needed = large.bytes_needed(200_001)
    sizes = large.Sizes(200_001, 10_001, np.empty(needed, np.uint8))
    for check in large.CHECKS:
        assert check(sizes, backend) == [], check.__name__


def test_a_row_that_is_not_the_patterns_is_found():
    from reliability import large

    pattern = large.Pattern(7, 4, "float32")
    rows = np.empty((100, 4), np.float32)
    pattern.fill(rows, pattern.logits)
    assert pattern.wrong(rows, pattern.logits) == []
    rows[93, 2] = np.nextafter(rows[93, 2], np.float32(9))
    assert pattern.wrong(rows, pattern.logits) == ["row 93 of 100 is not that of the pattern"]
