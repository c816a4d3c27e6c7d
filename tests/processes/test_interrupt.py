"""Ctrl-C in a call of many seconds, and that looking out for it changes no bit."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="arrays larger than memory are made with memfd_create"
)

HERE = Path(__file__).parent
ROOT = Path(fx.__file__).parent.parent


def interrupted(backend, num_threads, *calls):
    """What became of each long call, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "long_calls.py"), backend, str(num_threads), *calls],
        env=os.environ | {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {found["call"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_long_call_is_interrupted_within_a_second(backend, num_threads):
    if backend == "numpy" and num_threads > 1:
        pytest.skip("numpy: it has one thread")
    found = interrupted(backend, num_threads)
    assert len(found) == 10
    assert {call: of_call["faults"] for call, of_call in found.items() if of_call["faults"]} == {}
    late = {call: of_call["seconds"] for call, of_call in found.items() if of_call["seconds"] > 1}
    assert late == {}


def test_a_call_of_pytorch_is_interrupted_within_a_second():
    """The engine of its gradients and its linear layer's chunks let the exception through."""
    pytest.importorskip("torch")
    if fx.backends()["cython"] is not None:
        pytest.skip(f"cython: {fx.backends()['cython']}")
    (found,) = interrupted("cython", 1, "of PyTorch").values()
    assert found["faults"] == []
    assert found["seconds"] <= 1


def results(shape, backend, num_threads):
    """Bits of the verbs on arrays that are large enough to be watched."""
    rng = np.random.default_rng(11)
    logits = rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, shape[1], shape[0], np.uint32)
    options = {"backend": backend, "num_threads": num_threads}
    loss, grad = fx.cross_entropy_and_grad(logits, labels, **options)
    found = [loss, grad]
    proba = fx.softmax(logits, out=np.empty_like(logits), **options)
    found += [proba, fx.softmax_backward(proba, logits, out=grad.copy(), **options)]
    found += fx.binary_cross_entropy_with_logits_and_grad(logits, proba, **options)
    stats = fx.partial_stats(logits, labels, class_offset=0, num_classes=shape[1], **options)
    found += [stats.max, stats.sum, stats.label_logit]
    return [np.asarray(array).tobytes() for array in found]


def elsewhere(*arguments):
    """`results` from a thread of its own: only the main thread can look out for signals."""
    found = []
    thread = threading.Thread(target=lambda: found.append(results(*arguments)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("shape", [(600_000, 10), (5001, 1000), (3, 1_700_000)])
@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_slices_change_no_bit(backend, shape, num_threads):
    assert results(shape, backend, num_threads) == elsewhere(shape, backend, num_threads)


def test_a_row_that_is_long_enough_to_be_cut_up_has_the_same_bits():
    reason = fx.backends()["cython"]
    if reason is not None:
        pytest.skip(f"cython: {reason}")
    row = np.random.default_rng(2).standard_normal((1, (1 << 24) + 5000), np.float32)
    options = {"backend": "cython", "reduction": "none"}
    loss, grad = fx.cross_entropy_and_grad(row, [7], num_threads=1, **options)
    other_loss, other = fx.cross_entropy_and_grad(row, [7], num_threads=3, **options)
    assert loss == other_loss
    assert np.array_equal(grad, other)
    # the rows of a call with enough of them for all threads are cut up, too
    both = np.broadcast_to(row, (2, row.shape[1]))
    losses = fx.cross_entropy(both, [7, 7], num_threads=1, **options)
    assert losses.tolist() == [loss[0], loss[0]]


def test_both_kinds_of_kernels_watch_the_same_calls():
    if fx.backends()["cython"] is not None:
        pytest.skip(f"cython: {fx.backends()['cython']}")
    from fastxent.backends import _kernels, contract

    assert _kernels.SLICE_ELEMENTS == contract.SLICE_ELEMENTS
