"""The same bits on every way: a fixed corpus of calls, the ways to make each, and their digests.

What ``fastxent check --thorough`` and the determinism program of the tests share.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import api
from fastxent.backends import backends
from fastxent.cases import AUX, BLOCK, Case
from fastxent.comparison import same_bits
from fastxent.trials import binary, jacobian, linear

__all__ = ["THREADS", "Sample", "at_level", "corpus", "digest", "levels_of_equal_bits", "ways"]

Array = NDArray[Any]

THREADS = (1, 2, 3, 4, 7, 8, 16, 64)

# Rows and classes: in the lanes, a row that is a block and more, rows that threads share, many
# chunks, and classes along a middle axis.
SHAPES: tuple[tuple[int | tuple[int, ...], int, int], ...] = (
    *((53, 7, -1), (4_000, 10, -1), (300, 257, -1), (9, BLOCK + 1, -1), (3, 40_001, -1)),
    *((1, 100_003, -1), ((3, 700), 21, 1), ((2, 300), 130, 1)),
)
MANY: dict[str, Any] = {"weight": "positive", "label_smoothing": 0.1, "sample_weight": True}
MANY |= {"z_loss": 1e-3, "softcap": 30.0, "aux": AUX}


@dataclass(frozen=True)
class Sample:
    """One call of the corpus: a function, the recipe of its arguments, and the logits' dtype."""

    function: str
    case: Case
    dtype: str

    def __str__(self) -> str:
        return f"{self.function} of {self.case} [{self.dtype}]"

    def outputs(self, backend: str, num_threads: int | None = None) -> dict[str, Array]:
        """Make the call; every result by its name."""
        runtime: dict[str, Any] = {"backend": backend, "num_threads": num_threads}
        return _CALLS[self.function](self.case, self.dtype, runtime)


def corpus(dtypes: Sequence[str]) -> list[Sample]:
    """Give the samples of some dtypes, always the same and in the same order."""
    samples: list[Sample] = []
    for rows, classes, axis in SHAPES:
        shape = Case(rows, classes, axis=axis)
        masked = replace(shape, logits="minus-inf", labels="ignored", reduction="none")
        losses = [masked, replace(shape, labels="ignored"), replace(shape, labels="soft")]
        losses += [replace(one, **MANY) for one in losses[1:]]
        losses.append(replace(shape, logits="ties", aux=("argmax", "correct", "entropy")))
        for dtype in dtypes:
            samples += [Sample("loss", case, dtype) for case in losses]
            samples += [Sample(name, shape, dtype) for name in ("softmax", "jacobian")]
            samples += [
                Sample("binary", replace(shape, labels=labels, weight=weight), dtype)
                for labels, weight in (("soft", "none"), ("hard", "positive"))
            ]
            if classes <= BLOCK + 1:
                samples.append(Sample("linear", replace(shape, labels="ignored"), dtype))
            if classes > BLOCK:
                samples.append(Sample("shards", replace(shape, labels="ignored"), dtype))
    return samples


def digest(outputs: Mapping[str, Array]) -> str:
    """blake2b of names, dtypes, shapes and bits; any NaN counts as any other."""
    found = hashlib.blake2b(digest_size=16)
    for name, array in outputs.items():
        values = np.asarray(array)
        found.update(f"{name} {values.dtype} {values.shape}".encode())
        if values.dtype.kind not in "biu":
            values = values.astype(np.float64)  # exact for every storage dtype
            values = np.where(np.isnan(values), np.nan, values)
        found.update(values.tobytes())
    return found.hexdigest()


def ways(
    sample: Sample, backend: str, thread_counts: Sequence[int] = THREADS, repetitions: int = 2
) -> Iterator[tuple[str, bool]]:
    """Make a call on every way that must not change a bit.

    Parameters
    ----------
    sample : Sample
        The call.
    backend : str
        Name of the backend.
    thread_counts : sequence of int
        Numbers of threads; the first is what the others are compared with.
    repetitions : int
        How often the call without `num_threads=` is made.

    Yields
    ------
    tuple of str and bool
        The way, and whether it gave the same bits.
    """
    first = sample.outputs(backend, thread_counts[0])
    expected = digest(first)
    for count in thread_counts[1:]:
        yield f"num_threads={count}", digest(sample.outputs(backend, count)) == expected
    for _ in range(repetitions):
        yield "again", digest(sample.outputs(backend)) == expected
    if sample.function == "loss":
        yield from _ways_of_memory(sample, backend, first)
    if sample.function in _OF_ROWS and sample.case.axis == -1:
        yield "rows in another order", _permutes(sample, backend)


def levels_of_equal_bits() -> tuple[str, ...]:
    """Instruction levels of the compiled backend that have to give the same bits.

    Those up to the one in use: FASTXENT_ISA may forbid higher ones. Without a fused multiply-add,
    the baseline rounds otherwise.
    """
    if backends()["cython"] is not None:
        return ()
    from fastxent.backends import _kernels

    names, _ = _kernels.levels()
    allowed = names[: names.index(_kernels.level()) + 1]
    return tuple(name for name in allowed if name in ("v3", "v4"))


@contextmanager
def at_level(name: str) -> Iterator[None]:
    """Let the compiled backend of this process run at an instruction level; then as before."""
    from fastxent.backends import _kernels

    before = _kernels.level()
    _kernels.lower_level(name)
    try:
        yield
    finally:
        _kernels.lower_level(before)


# What a sample calls --------------------------------------------------------------------------


def _loss(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    logits, target, options = case.arguments(dtype)
    return _loss_of(logits, target, options, case.asked, runtime)


def _loss_of(
    logits: Array,
    target: Array,
    options: dict[str, Any],
    asked: tuple[str, ...],
    runtime: dict[str, Any],
) -> dict[str, Array]:
    loss, grad, *more = api.cross_entropy_and_grad(logits, target, **options, **runtime, aux=asked)
    asides = {name: getattr(more[0], name) for name in asked} if more else {}
    return {"loss": loss, "grad": grad, **asides}


def _softmax(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    return _softmax_of(case.arguments(dtype)[0], case.axis, runtime)


def _softmax_of(x: Array, axis: int, runtime: dict[str, Any]) -> dict[str, Array]:
    functions = (api.softmax, api.log_softmax, api.logsumexp)
    return {function.__name__: function(x, axis, **runtime) for function in functions}


def _jacobian(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    of_softmax = jacobian.arguments(case, dtype, is_log=False)
    of_log = jacobian.arguments(case, dtype, is_log=True)
    return {
        "softmax_backward": api.softmax_backward(*of_softmax, case.axis, **runtime),
        "log_softmax_backward": api.log_softmax_backward(*of_log, case.axis, **runtime),
    }


def _binary(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    logits, target, options = binary.arguments(case, dtype)
    compute = api.binary_cross_entropy_with_logits_and_grad
    loss, grad = compute(logits, target, **options, **runtime)
    return {"loss": loss, "grad": grad}


def _linear(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    (hidden, weights, bias, target), options, _ = linear.arguments(case, dtype)
    compute = api.linear_cross_entropy_and_grad
    loss, grads = compute(hidden, weights, target, linear_bias=bias, **options, **runtime)
    return {"loss": loss, **grads._asdict()}


def _shards(case: Case, dtype: str, runtime: dict[str, Any]) -> dict[str, Array]:
    logits, target, _ = case.arguments(dtype)
    of_all: dict[str, Any] = {"num_classes": case.classes, **runtime}
    cut = case.classes // 2 // BLOCK * BLOCK
    shards = [(logits[..., :cut], 0), (logits[..., cut:], cut)]
    stats = api.merge_stats(
        *(
            api.partial_stats(part, target, class_offset=begin, by_block=True, **of_all)
            for part, begin in shards
        )
    )
    grads = [
        api.grad_from_stats(part, target, stats, class_offset=begin, **of_all)
        for part, begin in shards
    ]
    loss = api.loss_from_stats(stats, target, **of_all)
    return {"loss": loss, "first": grads[0], "second": grads[1]}


_CALLS = {
    "loss": _loss,
    "softmax": _softmax,
    "jacobian": _jacobian,
    "binary": _binary,
    "linear": _linear,
    "shards": _shards,
}

# Other ways -----------------------------------------------------------------------------------


def _ways_of_memory(
    sample: Sample, backend: str, first: Mapping[str, Array]
) -> Iterator[tuple[str, bool]]:
    """The loss alone, and the gradient into an array that is there already."""
    logits, target, options = sample.case.arguments(sample.dtype)
    forward = {name: value for name, value in options.items() if name != "grad_output"}
    alone = api.cross_entropy(logits, target, **forward, backend=backend)
    yield "the loss alone", same_bits(alone, first["loss"])
    for way, out in (("out=", np.empty_like(logits)), ("in place", logits)):
        loss, grad = api.cross_entropy_and_grad(logits, target, **options, backend=backend, out=out)
        same = same_bits(loss, first["loss"]) and same_bits(grad, first["grad"])
        yield way, same and grad is out


_OF_ROWS = ("loss", "softmax")


def _permutes(sample: Sample, backend: str) -> bool:
    """Whether rows in another order have the results of the rows, in that order."""
    case = replace(sample.case, reduction="none")
    logits, target, options = case.arguments(sample.dtype)
    order = np.random.default_rng(zlib.crc32(str(case).encode())).permutation(len(logits))
    runtime: dict[str, Any] = {"backend": backend}
    if sample.function == "softmax":
        found = _softmax_of(logits, -1, runtime)
        moved = _softmax_of(logits[order], -1, runtime)
    else:
        of_rows = {
            name: value[order] if name in ("sample_weight", "grad_output") else value
            for name, value in options.items()
        }
        found = _loss_of(logits, target, options, case.asked, runtime)
        moved = _loss_of(logits[order], target[order], of_rows, case.asked, runtime)
    return all(same_bits(moved[name], found[name][order]) for name in found)
