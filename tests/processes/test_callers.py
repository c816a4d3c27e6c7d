"""Many Python threads call at once: the same bits, and the lock of Python is free meanwhile."""

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


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_gil_is_released(backend, num_threads):
    """Another thread runs in the middle of a call."""
    logits = np.broadcast_to(np.zeros(30_000, np.float32), (10_000, 30_000))
    fx.logsumexp(logits[:3], backend=backend, num_threads=num_threads)

    def ticks_amid_a_call():
        span = []

        def call():
            start = time.perf_counter()
            fx.logsumexp(logits, backend=backend, num_threads=num_threads)
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
