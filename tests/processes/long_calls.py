"""Calls of many seconds that are interrupted: a program of its own, run by test_interrupt.py.

usage: python long_calls.py BACKEND THREADS [CALL ...]

The arrays of a long call have 10^11 elements and take 0.3 GB: inputs repeat a row, and outputs are
addresses that show the same memory over and over. A second thread sends SIGINT once the process
has computed for a while. One line of JSON a call: how long the interrupt took, and what was wrong.
"""

import ctypes
import json
import math
import mmap
import os
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np

import fastxent as fx

CLASSES = 4000
ROWS = 25_000_000
# Chunks enough for the kernels of several threads, which are compiled before anything is measured.
FEW = 64
# Seconds of work until the signal; every call takes many more.
UNDER_WAY = 0.15

_FOLDED = 1 << 28
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000


def folded(shape, dtype):
    """Array of this shape whose every 2^28 bytes are the same memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    file = os.memfd_create("folded")
    os.ftruncate(file, _FOLDED)
    nobody = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    total = -(-size // _FOLDED) * _FOLDED
    base = _libc.mmap(None, total, 0, nobody, -1, 0)
    for place in range(base, base + total, _FOLDED):
        readable = mmap.PROT_READ | mmap.PROT_WRITE
        found = _libc.mmap(place, _FOLDED, readable, mmap.MAP_SHARED | _MAP_FIXED, file, 0)
        assert found == place, os.strerror(ctypes.get_errno())
    os.close(file)
    return np.frombuffer((ctypes.c_char * size).from_address(base), dtype).reshape(shape)


class Arrays:
    """What the calls take, of so many rows."""

    def __init__(self, rows, classes=CLASSES):
        rng = np.random.default_rng(5)
        self.row = rng.standard_normal((1, classes)).astype(np.float32)
        self.logits = np.broadcast_to(self.row, (rows, classes))
        self.labels = np.zeros(rows, np.uint8)
        few = rows < ROWS
        self.out = np.zeros((rows, classes), np.float32) if few else folded((rows, classes), "f4")
        self.hidden = np.ones((max(rows // 8, FEW), 2), np.float32)
        self.linear_weight = np.ones((classes * 2, 2), np.float32)


def in_place(arrays, options):
    """The gradient over the logits."""
    if len(arrays.labels) < ROWS:
        arrays.out[...] = arrays.logits
    return fx.cross_entropy_and_grad(arrays.out, arrays.labels, out=arrays.out, **options)


def binary(arrays, options):
    """Elements one by one, their gradient over them."""
    if len(arrays.labels) < ROWS:
        arrays.out[...] = arrays.logits
    target, out = np.broadcast_to(np.float32(1), arrays.out.shape), arrays.out
    return fx.binary_cross_entropy_with_logits_and_grad(out, target, out=out, **options)


def few_classes(arrays, options):
    """Rows of ten classes."""
    rows = 100 * len(arrays.labels)
    logits = np.broadcast_to(arrays.row[:, :10], (rows, 10))
    return fx.softmax(logits, out=arrays.out.reshape(-1, 10)[:rows], **options)


# Statistics of rows take memory: fewer of them, each more work.
OF_SHARD = {"class_offset": 0, "num_classes": CLASSES, "softcap": 30.0}


def statistics(arrays, options, rows):
    """What so many rows hand up."""
    return fx.partial_stats(arrays.logits[:rows], arrays.labels[:rows], **OF_SHARD, **options)


def gradient_of_shard(arrays, options):
    """The gradient from statistics of rows that are all alike."""
    rows = -(-len(arrays.labels) // 5)
    stats = statistics(arrays, options, 1)
    repeated = {
        name: np.repeat(stats[stats._fields.index(name)], rows, axis=-1)
        for name in ("max", "sum", "label_logit")
    }
    logits, labels, out = arrays.logits[:rows], arrays.labels[:rows], arrays.out[:rows]
    return fx.grad_from_stats(
        logits, labels, stats._replace(**repeated), **OF_SHARD, **options, out=out
    )


def of_pytorch(arrays, options):
    """The loss of a linear layer and its gradients, which are as small as its arrays."""
    import torch

    from fastxent.torch import linear_cross_entropy

    torch.set_num_threads(options["num_threads"])
    given = [
        torch.tensor(array, requires_grad=True) for array in (arrays.hidden, arrays.linear_weight)
    ]
    labels = torch.from_numpy(arrays.labels[: len(arrays.hidden)])
    loss = linear_cross_entropy(*given, labels, **options)
    loss.backward()
    return (loss.detach(), *(one.grad for one in given))


CALLS = {
    "loss": lambda a, o: fx.cross_entropy(a.logits, a.labels, **o),
    "loss and gradient": lambda a, o: fx.cross_entropy_and_grad(
        a.logits, a.labels, label_smoothing=0.1, out=a.out, **o
    ),
    "in place": in_place,
    "few classes": few_classes,
    "softmax": lambda a, o: fx.softmax(a.logits, out=a.out, **o),
    "softmax_backward": lambda a, o: fx.softmax_backward(a.logits, a.logits, out=a.out, **o),
    "binary": binary,
    "linear": lambda a, o: fx.linear_cross_entropy_and_grad(
        a.hidden, a.linear_weight, a.labels[: len(a.hidden)], **o
    ),
    "partial_stats": lambda a, o: statistics(a, o, -(-len(a.labels) // 5)),
    "grad_from_stats": gradient_of_shard,
}
# Taken only if named: PyTorch starts threads and takes memory of its own.
OTHERS = {"of PyTorch": of_pytorch}


def interrupt_when_under_way(sent):
    """Send SIGINT once the process has computed for UNDER_WAY seconds."""
    begin = time.process_time()
    while time.process_time() - begin < UNDER_WAY:
        time.sleep(0.005)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)


def tasks():
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def bits(found):
    """Bytes of all that a call gives: what NumPy prints leaves out most of an array."""
    if isinstance(found, tuple):
        return [bits(one) for one in found]
    return None if found is None else np.asarray(found).tobytes()


def try_once(call, large, small, options):
    """Interrupt a call; how long it took, and what was wrong."""
    faults, sent, seconds = [], [], math.inf
    expected = bits(call(small, options))  # starts threads, too
    before, row = tasks(), large.row.copy()
    memory = tracemalloc.get_traced_memory()[0]
    sender = threading.Thread(target=interrupt_when_under_way, args=(sent,))
    try:
        sender.start()
        call(large, options)
        faults.append("it came to its end")
        sender.join()
        time.sleep(1)  # for the signal, which ends it
    except KeyboardInterrupt as error:
        seconds = time.perf_counter() - sent[0]
        # frames would keep the arrays of the call
        error.__traceback__ = None
    sender.join()
    kept = tracemalloc.get_traced_memory()[0] - memory
    if kept > 1 << 16:
        faults.append(f"{kept} bytes are kept")
    if not np.array_equal(row, large.row):
        faults.append("the logits changed")
    if bits(call(small, options)) != expected:
        faults.append("the next call gives something else")
    if tasks() > before:
        faults.append(f"{tasks()} threads where {before} were")
    return seconds, faults


def main():
    """Interrupt the calls that are named, or all."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may ignore it
    backend, num_threads, *names = sys.argv[1:]
    options = {"backend": backend, "num_threads": int(num_threads)}
    large, small = Arrays(ROWS), Arrays(FEW)
    many = 200_000  # labels that several threads check
    fx.cross_entropy(np.zeros((many, 1), np.float32), large.labels[:many], **options)
    calls = {name: (CALLS | OTHERS)[name] for name in names or CALLS}
    for call in calls.values():
        call(small, options)  # imports and compiles, which is slow once memory is traced
    tracemalloc.start()
    for name, call in calls.items():
        # a busy machine may take a second away from a process; a call that cannot be interrupted
        # takes many, each time
        best = None
        for _ in range(3):
            seconds, faults = try_once(call, large, small, options)
            if best is None or faults or seconds < best:
                best = seconds
            if faults or best < 0.5:
                break
        print(json.dumps({"call": name, "seconds": best, "faults": faults}), flush=True)


if __name__ == "__main__":
    main()
