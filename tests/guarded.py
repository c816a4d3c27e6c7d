"""Arrays between pages that nobody may touch, and calls with them: a child of test_guard_pages.py.

python guarded.py BACKEND           calls of every verb of a backend, each named before it is made
python guarded.py BACKEND float64   in these dtypes, and in more shapes where few are the default
python guarded.py beyond            read a number beyond an array, which must kill the process
python guarded.py inside            the same of an array that fastxent makes itself
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

import fastxent as fx
from fastxent import boosting
from fastxent.backends import load
from fastxent.cases import AUX, Case
from fastxent.promises import grads_later, with_hess

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
NO_ACCESS = 0


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """Copy an array to where its last byte, or its first, has a forbidden page beside it."""
    flat = np.ascontiguousarray(array)
    pages = max(1, -(-flat.nbytes // PAGE))
    room = mmap.mmap(-1, (pages + 2) * PAGE)  # as long as there are arrays that point into it
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


def is_guarded(array: np.ndarray) -> bool:
    """Whether an array is of `guarded`, or a view of one that is."""
    owner: Any = array
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    return isinstance(getattr(owner, "obj", owner), mmap.mmap)


# What backends have of backends/contract.py, but for `mean_loss`, which takes the caller's arrays.
VERBS = (
    *("check_labels", "forward", "backward", "partial", "merge", "partial_backward"),
    *("softmax", "binary", "softmax_backward"),
)


def between_guards(verb: Callable[..., Any], at_end: bool) -> Callable[..., Any]:
    """A verb for which what fastxent itself has made is guarded: weights, statistics, results.

    Such arrays are contiguous; a copy takes the place of each, and is copied back.
    """

    def call(*arguments: Any) -> Any:
        copies: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def placed(value: Any) -> Any:
            if not isinstance(value, np.ndarray) or is_guarded(value):
                return value
            if not value.size or not value.flags.c_contiguous:
                return value
            return copies.setdefault(id(value), (value, guarded(value, at_end)))[1]

        def of_fields(value: Any) -> Any:
            if not dataclasses.is_dataclass(value):
                return placed(value)
            fields = [field.name for field in dataclasses.fields(value)]
            return dataclasses.replace(
                value, **{name: placed(getattr(value, name)) for name in fields}
            )

        found = verb(*map(of_fields, arguments))
        for array, copy in copies.values():
            if array.flags.writeable:
                array[...] = copy
        return found

    return call


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


def side_calls(backend: str, at_end: bool, shapes: tuple, dtypes: tuple) -> Iterator[str]:
    """Side outputs, gradients from statistics, Hessians, and losses of shards."""
    rng = np.random.default_rng(7)
    kinds = itertools.cycle(INTEGERS)
    for shape, dtype, layout in itertools.product(shapes, dtypes, ("rows", "columns")):
        logits = laid_out(rng.standard_normal(shape).astype(dtype), layout, at_end)
        soft = laid_out(rng.random(shape).astype(dtype), layout, at_end)
        labels = guarded(rng.integers(0, min(shape[1], 100), shape[0]).astype(next(kinds)), at_end)
        weight = guarded(rng.random(shape[0]), at_end)
        out = [laid_out(np.zeros(shape, dtype), layout, at_end) for _ in range(2)]
        name = f"{shape} {np.dtype(dtype).name} {layout} {labels.dtype}"
        options = {"backend": backend, "z_loss": 1e-3, "reduction": "none"}
        for target, asked in ((labels, AUX[:-1]), (soft, AUX)):  # the last is of probabilities
            yield f"side outputs of {target.dtype} {name}"
            fx.cross_entropy_and_grad(logits, target, aux=asked, out=out[0], **options)
        yield f"gradient from statistics {name}"
        list(grads_later(logits, labels, {}, backend, num_threads=3))
        yield f"Hessian and probabilities {name}"
        with_hess(logits, labels, Case(*shape, hess="product"), {"reduction": "sum"}, backend)
        if dtype in (np.float32, np.float64) and shape[1] > 1:
            pair = {"out": tuple(out), "sample_weight": weight, "backend": backend}
            yield f"Hessian of boosting {name}"
            boosting.softmax_gradient_hessian(logits, labels, **pair)
        yield f"shards {name}"
        shard_calls(logits, labels, out[0], backend, 2)
        yield f"shards with probabilities {name}"
        shard_calls(logits, soft, out[0], backend, 1)


def shard_calls(logits: Any, target: Any, out: Any, backend: str, shards: int) -> None:
    """The loss of shards that are all of the same logits; a single one in blocks."""
    begins = [at * logits.shape[1] for at in range(shards)]
    options = {"num_classes": shards * logits.shape[1], "label_smoothing": 0.1}
    options |= {"aux": ("lse", "entropy", "argmax"), "backend": backend}
    stats = fx.merge_stats(
        *(
            fx.partial_stats(logits, target, class_offset=begin, by_block=shards == 1, **options)
            for begin in begins
        )
    )
    fx.loss_from_stats(stats, target, **options)
    del options["aux"]
    for begin in begins:
        fx.grad_from_stats(logits, target, stats, class_offset=begin, out=out, **options)


def vector_calls(backend: str, at_end: bool, shapes: tuple, dtypes: tuple) -> Iterator[str]:
    """Labels alone, and the Hessian of one score a row."""
    rng = np.random.default_rng(8)
    for rows, kind in itertools.product(
        (1, 15, 16, 17, 8191, 8193, 20_000), np.typecodes["AllInteger"]
    ):
        labels = guarded(rng.integers(0, 100, rows).astype(kind), at_end)
        yield f"check_labels {rows} {labels.dtype}"
        with fx.use_backend(backend):
            fx.check_labels(labels, 100, ignore_index=7)
    for shape, dtype in itertools.product(shapes, dtypes):
        if dtype not in (np.float32, np.float64):
            continue
        scores, *out = (guarded(np.zeros(shape, dtype).ravel(), at_end) for _ in range(3))
        labels = guarded(rng.integers(0, 2, scores.size), at_end)
        yield f"Hessian of one score {scores.size} {scores.dtype}"
        boosting.logistic_gradient_hessian(
            scores, labels, sample_weight=np.abs(scores), out=tuple(out), backend=backend
        )


def read_beyond(array: np.ndarray) -> None:
    """Read the number behind an array."""
    print(np.lib.stride_tricks.as_strided(array, (array.size + 1,), array.strides)[-1])


def main(word: str, *names: str) -> None:
    """Make the calls, telling each before it is made."""
    if word == "beyond":
        read_beyond(guarded(np.zeros(3), at_end=True))
        return
    if word == "inside":
        between_guards(read_beyond, at_end=True)(np.zeros(3))
        return
    few = word == "numba" and not names  # each dtype is compiled anew
    shapes, dtypes = (SHAPES[1:8:2], DTYPES[:1]) if few else (SHAPES, DTYPES)
    if names:
        dtypes = tuple(dtype for dtype in DTYPES if np.dtype(dtype).name in names)
    backend, count = load(word), 0
    plain = {verb: getattr(backend, verb) for verb in VERBS}
    for at_end in (True, False):
        for verb, function in plain.items():
            setattr(backend, verb, between_guards(function, at_end))
        for calls in (loss_calls, other_calls, side_calls, vector_calls):
            for name in calls(word, at_end, shapes, dtypes):
                print(name, "before a guard" if at_end else "behind a guard", flush=True)
                count += 1
    print(count)


if __name__ == "__main__":
    main(*sys.argv[1:])
