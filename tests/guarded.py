"""Arrays between pages that nobody may touch, and calls with them: a child of test_guard_pages.py.

python guarded.py BACKEND       every call of `CALLS` on a backend, each named before it is made
python guarded.py beyond        read a number beyond an array, which must kill the process
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Iterator

import ml_dtypes
import numpy as np

import fastxent as fx

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
NO_ACCESS = 0
maps: list[mmap.mmap] = []  # kept until the process ends: arrays point into them


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """Copy an array to where its last byte, or its first, has a forbidden page beside it."""
    flat = np.ascontiguousarray(array)
    pages = max(1, -(-flat.nbytes // PAGE))
    room = mmap.mmap(-1, (pages + 2) * PAGE)
    maps.append(room)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for page in (0, pages + 1):
        if LIBC.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (pages * PAGE - flat.nbytes if at_end else 0)
    placed = np.frombuffer(room, flat.dtype, flat.size, offset).reshape(flat.shape)
    placed[...] = flat
    return placed


def laid_out(array: np.ndarray, layout: str, at_end: bool) -> np.ndarray:
    """The same numbers with the classes first in memory, or backwards."""
    if layout == "columns":
        return guarded(np.ascontiguousarray(array.T), at_end).T
    if layout == "backwards":
        return guarded(array[::-1, ::-1], at_end)[::-1, ::-1]
    return guarded(array, at_end)


# Rows and classes on both sides of a set of lanes, of a tile and of a block.
SHAPES = ((1, 1), (3, 7), (17, 16), (16, 17), (5, 33), (3, 100), (3, 101), (2, 1024), (2, 1025))
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
INTEGERS = (np.int64, np.uint8, np.int16, np.uint32)


def loss_calls(backend: str, at_end: bool, shapes: tuple, dtypes: tuple) -> Iterator[str]:
    """Loss and gradient with class indices and with probabilities, new and in place."""
    rng = np.random.default_rng(5)
    kinds = itertools.cycle(INTEGERS)
    for shape, dtype, layout in itertools.product(shapes, dtypes, ("rows", "columns", "backwards")):
        logits = laid_out(rng.standard_normal(shape).astype(dtype), layout, at_end)
        labels = guarded(rng.integers(0, min(shape[1], 100), shape[0]).astype(next(kinds)), at_end)
        out = laid_out(np.zeros(shape, dtype), layout, at_end)
        factor = np.float64 if dtype == np.float64 else np.float32
        options = {
            "weight": guarded(rng.random(shape[1]).astype(factor), at_end),
            "sample_weight": guarded(rng.random(shape[0]), at_end),
        }
        name = f"{shape} {np.dtype(dtype).name} {layout} {labels.dtype}"
        yield f"plain {name}"
        fx.cross_entropy_and_grad(logits, labels, out=out, backend=backend)
        yield f"weighed {name}"
        fx.cross_entropy_and_grad(
            logits, labels, out=out, backend=backend, label_smoothing=0.1, **options
        )
        yield f"in place {name}"
        fx.cross_entropy_and_grad(logits, labels, out=logits, backend=backend)
        soft = laid_out(rng.random(shape).astype(dtype), layout, at_end)
        yield f"soft {name}"
        fx.cross_entropy_and_grad(out, soft, out=logits, backend=backend, num_threads=3)


def other_calls(backend: str, at_end: bool, shapes: tuple, dtypes: tuple) -> Iterator[str]:
    """The softmax functions, their products, and the binary loss."""
    rng = np.random.default_rng(6)
    for shape, dtype, layout in itertools.product(shapes, dtypes, ("rows", "columns")):
        x = laid_out(rng.standard_normal(shape).astype(dtype), layout, at_end)
        out = laid_out(np.zeros(shape, dtype), layout, at_end)
        name = f"{shape} {np.dtype(dtype).name} {layout}"
        yield f"softmax {name}"
        fx.softmax(x, out=out, backend=backend)
        yield f"softmax_backward {name}"
        fx.softmax_backward(out, x, out=x, backend=backend)
        yield f"log_softmax {name}"
        fx.log_softmax(x, out=out, backend=backend)
        yield f"logsumexp {name}"
        fx.logsumexp(x, backend=backend)
        target = laid_out((rng.random(shape) < 0.5).astype(np.uint8), layout, at_end)
        yield f"binary {name}"
        fx.binary_cross_entropy_with_logits_and_grad(x, target, out=out, backend=backend)


def main(word: str) -> None:
    """Make the calls, telling each before it is made."""
    if word == "beyond":
        array = guarded(np.zeros(3), at_end=True)
        print(np.lib.stride_tricks.as_strided(array, (4,), (8,))[3])
        return
    few = word == "numba"  # each dtype is compiled anew
    shapes, dtypes = (SHAPES[1:8:2], DTYPES[:1]) if few else (SHAPES, DTYPES)
    count = 0
    for at_end in (True, False):
        for calls in (loss_calls, other_calls):
            for name in calls(word, at_end, shapes, dtypes):
                print(name, "before a guard" if at_end else "behind a guard", flush=True)
                count += 1
    print(count)


if __name__ == "__main__":
    main(sys.argv[1])
