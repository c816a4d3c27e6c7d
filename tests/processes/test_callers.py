"""Many Python threads call at once: the same bits, and the lock of Python is free meanwhile."""

import functools
import json
import threading
import time

import numpy as np
import pytest

import fastxent as fx
from processes.answers import LAYERS, tbb_library
from processes.runs import environment, run


def many(backends, layer, *arguments, **variables):
    """What 32 threads of a new process got."""
    if layer == "tbb" and tbb_library() is None:
        pytest.skip("the threading layer tbb needs `pip install tbb`")
    able = [name for name in backends if fx.backends()[name] is None]
    if not able or ("numba" in backends and "numba" not in able and len(backends) == 1):
        pytest.skip(f"{backends}: {fx.backends()}")
    command = ["-m", "processes.callers", "--backends", *able, *arguments]
    if "numba" in able:
        command += ["--layer", layer]
    out, fault = run(command, environment(layer, **variables), 300)
    assert not fault, (out, fault)
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("layer", LAYERS)
def test_thirty_two_threads_on_one_backend(layer):
    found = many(["numba"], layer, "--rounds", "10")
    assert found == {"calls": 320, "callers_with_wrong_bits": 0, "errors": []}


def test_thirty_two_threads_on_one_compiled_backend():
    assert many(["cython"], None, "--rounds", "10")["callers_with_wrong_bits"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_thirty_two_threads_across_backends(layer):
    found = many(["cython", "numba", "numpy"], layer, "--rounds", "10")
    assert found == {"calls": 320, "callers_with_wrong_bits": 0, "errors": []}


def test_thirty_two_threads_ask_for_a_kernel_that_is_not_compiled(tmp_path):
    """On the layer that would abort; each layer and more kernels in reliability/callers.py."""
    found = many(
        ["numba"],
        "workqueue",
        *("--call", "labels", "--rounds", "2"),
        FASTXENT_CACHE_DIR=str(tmp_path),
    )
    assert found == {"calls": 64, "callers_with_wrong_bits": 0, "errors": []}
    assert list(tmp_path.glob("numba-*/*.nbc"))


LOGITS = np.broadcast_to(np.zeros(4000, np.float32), (4000, 4000))
TALL = np.broadcast_to(np.zeros(4000, np.float32), (75_000, 4000))  # where no output is as large
MANY_LABELS = np.zeros(30_000_000, np.uint8)
LABELS = MANY_LABELS[: len(TALL)]
OF_SHARD = {"class_offset": 0, "num_classes": 4000}


def check_labels(backend, num_threads):
    """It takes one thread, and no backend as an argument."""
    with fx.use_backend(backend):
        fx.check_labels(MANY_LABELS, 1)


def gradient_of_shard():
    """The gradient, from statistics that are there already."""
    labels, out = LABELS[: len(LOGITS)], np.empty(LOGITS.shape, np.float32)
    stats = fx.partial_stats(LOGITS, labels, **OF_SHARD, backend="numpy")
    return lambda **options: fx.grad_from_stats(
        LOGITS, labels, stats, **OF_SHARD, out=out, **options
    )


def with_output(verb, second):
    """A call that writes as many elements as it reads."""
    out = np.empty(LOGITS.shape, np.float32)
    return lambda **options: verb(LOGITS, second, out=out, **options)


# Each makes a call, which takes a backend and a number of threads. Those of the compiled backend
# let go of the lock in places of their own.
CALLS = {
    "logsumexp": lambda: lambda **options: fx.logsumexp(TALL, **options),
    "gradient": lambda: with_output(fx.cross_entropy_and_grad, LABELS[: len(LOGITS)]),
    "binary": lambda: with_output(fx.binary_cross_entropy_with_logits_and_grad, LOGITS),
    "softmax_backward": lambda: with_output(fx.softmax_backward, LOGITS),
    "labels": lambda: check_labels,
    "partial_stats": lambda: (
        lambda **options: fx.partial_stats(TALL, LABELS, **OF_SHARD, **options)
    ),
    "grad_from_stats": gradient_of_shard,
}


@pytest.mark.parametrize(
    ("backend", "name", "num_threads"),
    [("cython", name, 1) for name in CALLS]
    + [("cython", "logsumexp", 2), ("numba", "logsumexp", 1), ("numba", "logsumexp", 2)]
    + [("numba", "gradient", 1), ("numba", "softmax_backward", 2)],
    indirect=["backend"],
)
def test_gil_is_released(backend, name, num_threads):
    """Another thread runs in the middle of a call."""
    run_call = functools.partial(CALLS[name](), backend=backend, num_threads=num_threads)
    run_call()  # compiles

    def ticks_amid_a_call():
        span = []

        def call():
            start = time.perf_counter()
            run_call()
            span.extend([start, time.perf_counter()])

        caller = threading.Thread(target=call)
        ticks = []
        caller.start()
        while caller.is_alive():
            ticks.append(time.perf_counter())
        start, end = span
        quarter = (end - start) / 4
        return sum(start + quarter < tick < end - quarter for tick in ticks)

    # A call that holds the GIL leaves no tick in its middle, ever. One that does not leaves some as
    # soon as the machine has a core for this thread: a busy one may need another call.
    assert any(ticks_amid_a_call() for _ in range(30))
