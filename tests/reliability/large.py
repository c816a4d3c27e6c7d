"""Arrays beyond the numbers at which indices and counts go wrong elsewhere: 2**31 and 2**24.

usage: python -m reliability.large [--backends NAME ...]

Example: PYTHONPATH=.:tests python -m reliability.large --backends cython numba

More than 2**31 elements, rows, classes and bytes between neighbours, and more than 2**24 classes,
whose numbers float32 cannot hold. Rows repeat a pattern of odd length, so that a wrapped index
meets another row, and every row of the result must have the bits that the pattern alone gets; the
pattern is held against the float64 reference. Needs 12 GB of memory and, with all backends, about
36 minutes on two cores that have other work.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastxent as fx
from fastxent import reference
from fastxent.bench.machine import available_bytes
from fastxent.conformance import compare_loss_and_grad
from reliability import records

__all__ = ["CHECKS", "WITHOUT", "Sizes", "main"]

BACKENDS = ("cython", "numba", "numpy")
CLASSES = 1024
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Sizes:
    """What the arrays go beyond, and the memory that they lie in, one after the other."""

    beyond: int
    many_classes: int
    memory: Array

    def period(self, most: int) -> int:
        """Rows of a pattern: an odd number, fewer where the arrays are small."""
        return min(most, self.beyond // 64 | 1)

    def take(self, shape: tuple[int, ...], dtype: str, at: int = 0) -> Array:
        """An array in the memory, `at` bytes from its beginning."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return self.memory[at : at + size].view(dtype).reshape(shape)


def bytes_needed(beyond: int) -> int:
    """Memory of the largest check: two float16 logits and a label a row."""
    return 5 * (beyond + 64)


class Pattern:
    """Rows that are repeated: an odd number of them."""

    def __init__(self, rows: int, classes: int, dtype: str, label_dtype: str = "int64") -> None:
        rng = np.random.default_rng(0)
        self.logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
        self.labels = rng.integers(0, min(classes, 255), rows).astype(label_dtype)

    def fill(self, array: Array, source: Array) -> None:
        """Repeat the rows of `source`."""
        for _, part in self.parts(array):
            part[...] = source[: len(part)]

    def parts(self, array: Array) -> Iterator[tuple[int, Array]]:
        """Rows of the array, as many at a time as there are in the pattern."""
        for begin in range(0, len(array), len(self.labels)):
            yield begin, array[begin : begin + len(self.labels)]

    def total(self, values: Array, rows: int) -> float:
        """Sum over so many rows of what the pattern's rows have."""
        whole, rest = divmod(rows, len(values))
        return whole * math.fsum(values.tolist()) + math.fsum(values[:rest].tolist())

    def wrong(self, array: Array, expected: Array) -> list[str]:
        """Say which row is the first that has not the bits of the pattern's."""
        for begin, part in self.parts(array):
            same = part.view(_bits(part)) == expected[: len(part)].view(_bits(part))
            if not same.all():
                row = begin + int(np.argmin(same.reshape(len(part), -1).all(axis=1)))
                return [f"row {row} of {len(array)} is not that of the pattern"]
        return []


def _bits(array: Array) -> str:
    return f"u{array.itemsize}"


def _close(name: str, found: Any, truth: float, share: float = 1e-6) -> list[str]:
    right = abs(float(found) - truth) <= share * max(1.0, abs(truth))
    return [] if right else [f"{name} is {found}, expected {truth}"]


def _loss(
    logits: Array, labels: Array, pattern: Pattern, backend: str, transpose: bool = False
) -> list[str]:
    """The gradient over the logits, each row as that of the pattern; the loss as their sum."""
    options: dict[str, Any] = {"reduction": "sum", "backend": backend}
    loss, grad = fx.cross_entropy_and_grad(pattern.logits, pattern.labels, **options)
    held = compare_loss_and_grad(
        loss, grad, pattern.logits, pattern.labels.astype(np.int64), {"reduction": "sum"}
    )
    faults = [f"the pattern: {one}" for one in held if not one.passed]
    options["axis"] = 0 if transpose else -1
    found, _ = fx.cross_entropy_and_grad(logits, labels, out=logits, **options)
    rows = logits.T if transpose else logits
    truth = reference.cross_entropy(pattern.logits, pattern.labels, reduction="none")
    faults += _close("the loss", found, pattern.total(truth, len(rows)))
    return faults + pattern.wrong(rows, grad)


def elements(sizes: Sizes, backend: str, dtype: str = "float32") -> list[str]:
    """More elements than 2**31, in place."""
    rows = sizes.beyond // CLASSES + 3
    pattern = Pattern(sizes.period(1021), CLASSES, dtype)
    logits = sizes.take((rows, CLASSES), dtype)
    pattern.fill(logits, pattern.logits)
    return _loss(logits, np.resize(pattern.labels, rows), pattern, backend)


def half_elements(sizes: Sizes, backend: str) -> list[str]:
    """More elements of float16 than 2**31, the rows in reversed order, in place."""
    rows = sizes.beyond // CLASSES + 3
    pattern = Pattern(sizes.period(1021), CLASSES, "float16")
    logits = sizes.take((rows, CLASSES), "float16")[::-1]
    pattern.fill(logits, pattern.logits)
    return _loss(logits, np.resize(pattern.labels, rows), pattern, backend)


def rows(sizes: Sizes, backend: str) -> list[str]:
    """More rows than 2**31: two classes of float16, uint8 labels, in place."""
    count = sizes.beyond + 3
    pattern = Pattern(sizes.period(2**19 - 1), 2, "float16", "uint8")
    logits = sizes.take((count, 2), "float16")
    labels = sizes.take((count,), "uint8", logits.nbytes)
    pattern.fill(logits, pattern.logits)
    pattern.fill(labels, pattern.labels)
    return _loss(logits, labels, pattern, backend)


def distant_classes(sizes: Sizes, backend: str) -> list[str]:
    """More than 2**31 bytes from a class to the next: ``axis=0``, in place."""
    count = sizes.beyond // 2 + 5
    pattern = Pattern(sizes.period(2**19 - 1), 2, "float16", "uint8")
    logits = sizes.take((2, count), "float16")
    labels = sizes.take((count,), "uint8", logits.nbytes)
    pattern.fill(logits.T, pattern.logits)
    pattern.fill(labels, pattern.labels)
    return _loss(logits, labels, pattern, backend, transpose=True)


def mean_of_rows(sizes: Sizes, backend: str) -> list[str]:
    """A mean over more rows than 2**31, of logits that take no memory; which label is bad."""
    count = sizes.beyond + 3
    labels = sizes.take((count,), "uint8")
    labels[:] = 0
    labels[::3] = 1
    ones = (count + 2) // 3
    logits = np.broadcast_to(np.array([0.0, 1.0], np.float32), (count, 2))
    on_zero, on_one = math.log1p(math.e), math.log1p(math.exp(-1))
    options: dict[str, Any] = {"backend": backend, "weight": [1.0, 3.0]}
    truth = ((count - ones) * on_zero + 3 * ones * on_one) / (count + 2 * ones)
    faults = _close("the mean", fx.cross_entropy(logits, labels, **options), truth)
    live = fx.cross_entropy(logits, labels, ignore_index=0, backend=backend)
    faults += _close("the mean of those that count", live, on_one)
    labels[sizes.beyond + 1] = 2
    try:
        fx.cross_entropy(logits, labels, backend=backend)
    except fx.LabelError as error:
        if f"target[{sizes.beyond + 1}] is 2" in str(error):
            return faults
        return [*faults, f"the error names another row: {error}"]
    return [*faults, "a bad label was taken"]


def classes(sizes: Sizes, backend: str) -> list[str]:
    """One row of more classes than 2**31, in place: closed forms."""
    count, height = sizes.beyond + 3, 3.0
    logits = sizes.take((1, count), "float32")
    logits[:] = 0
    logits[0, -1] = height
    options: dict[str, Any] = {"backend": backend, "out": logits, "aux": ("argmax", "lse")}
    loss, _, aux = fx.cross_entropy_and_grad(logits, [count - 1], **options)
    total = count - 1 + math.exp(height)
    faults = _close("the loss", loss, math.log(total) - height)
    faults += _close("lse", aux.lse[0], math.log(total))
    faults += _close("argmax", aux.argmax[0], count - 1, 0)
    faults += _close("the gradient at the label", logits[0, -1], math.exp(height) / total - 1)
    least, most = logits[0, :-1].min(), logits[0, :-1].max()
    for value in (least, most):
        faults += _close("the gradient times s", float(value) * total, 1.0)
    return faults


def uncountable_classes(sizes: Sizes, backend: str) -> list[str]:
    """More classes than float32 can count: its sums, labels and the first of equal maxima."""
    faults = []
    count = sizes.many_classes + 5
    first = sizes.many_classes + 1  # the nearest float32 is another class
    for dtype, rounding in (("float32", 1e-6), ("float64", 1e-12), ("float16", 5e-4)):
        logits = np.zeros((2, count), dtype)
        logits[0, first : first + 2] = 1
        labels = np.array([first, first + 1])
        loss, grad, aux = fx.cross_entropy_and_grad(
            logits, labels, reduction="none", aux=("argmax", "correct"), backend=backend
        )
        total = count - 2 + 2 * math.e
        faults += _close(f"{dtype}: the loss", loss[0], math.log(total) - 1)
        faults += _close(f"{dtype}: the loss of equal logits", loss[1], math.log(count))
        if aux.argmax.tolist() != [first, 0] or aux.correct.tolist() != [True, False]:
            faults.append(f"{dtype}: argmax {aux.argmax}, correct {aux.correct}")
        for row, p in ((0, math.e / total), (1, 1 / count)):
            at_label = grad[row, first + row]
            faults += _close(f"{dtype}: the gradient at the label", at_label, p - 1, rounding)
        if dtype != "float16":  # there it is below the smallest number
            faults += _close(f"{dtype}: the sum of the gradient", grad[1].sum(dtype=float), 0.0)
            lse = fx.logsumexp(logits.T, 0, backend=backend)
            faults += _close(f"{dtype}: lse of columns", lse[1], math.log(count))
    return faults


def _same_rows(
    sizes: Sizes, function: Callable[..., Any], *others: Array, in_place: bool = True
) -> list[str]:
    """A function of rows of float16, over its input: each row as that of the pattern."""
    count = sizes.beyond // CLASSES + 3
    pattern = Pattern(sizes.period(1021), CLASSES, "float16")
    x = sizes.take((count, CLASSES), "float16")
    pattern.fill(x, pattern.logits)
    expected = function(pattern.logits, *(one[: len(pattern.labels)] for one in others))
    many = [np.broadcast_to(one[:1], x.shape) for one in others]
    found = function(x, *many, out=x) if in_place else function(x, *many)
    return pattern.wrong(found[1] if isinstance(found, tuple) else found, _second(expected))


def _second(found: Any) -> Array:
    result: Array = found[1] if isinstance(found, tuple) else found
    return result


def softmax(sizes: Sizes, backend: str) -> list[str]:
    """softmax, log_softmax and logsumexp of more elements than 2**31."""
    on = {"backend": backend}
    faults = _same_rows(sizes, lambda x, **out: fx.softmax(x, **on, **out))
    faults += _same_rows(sizes, lambda x, **out: fx.log_softmax(x, **on, **out))
    return faults + _same_rows(sizes, lambda x: fx.logsumexp(x, **on), in_place=False)


def softmax_backward(sizes: Sizes, backend: str) -> list[str]:
    """The Jacobian product of more elements than 2**31, in place; the softmax takes no memory."""
    proba = np.random.default_rng(1).dirichlet(np.ones(CLASSES)).astype(np.float16)
    many = np.broadcast_to(proba, (1021, CLASSES))

    def product(grad: Array, p: Array, **out: Any) -> Any:
        return fx.softmax_backward(p, grad, backend=backend, **out)

    return _same_rows(sizes, product, many)


def binary(sizes: Sizes, backend: str) -> list[str]:
    """The binary loss of more elements than 2**31, in place; the target takes no memory."""
    many = np.broadcast_to((np.arange(CLASSES) % 3 == 0).astype(np.uint8), (1021, CLASSES))

    def loss(x: Array, target: Array, **out: Any) -> Any:
        return fx.binary_cross_entropy_with_logits_and_grad(
            x, target, reduction="sum", backend=backend, **out
        )

    return _same_rows(sizes, loss, many)


def shards(sizes: Sizes, backend: str) -> list[str]:
    """Two shards of more elements than 2**31 together, the gradient over the logits."""
    count, half = sizes.beyond // CLASSES + 3, CLASSES // 2
    pattern = Pattern(sizes.period(1021), CLASSES, "float16")
    logits = sizes.take((count, CLASSES), "float16")
    pattern.fill(logits, pattern.logits)
    total: dict[str, Any] = {"num_classes": CLASSES, "backend": backend}

    def both(x: Array, y: Array) -> float:
        shares = [(at, x[:, at : at + half]) for at in (0, half)]
        stats = fx.merge_stats(
            *(fx.partial_stats(share, y, class_offset=at, **total) for at, share in shares)
        )
        loss = fx.loss_from_stats(stats, y, reduction="sum", **total)
        for at, share in shares:
            fx.grad_from_stats(
                share, y, stats, class_offset=at, reduction="sum", out=share, **total
            )
        return float(loss)

    expected = pattern.logits.copy()
    alone = both(expected, pattern.labels)
    truth = reference.cross_entropy(pattern.logits, pattern.labels, reduction="none")
    faults = _close("the loss of the pattern", alone, math.fsum(truth.tolist()))
    found = both(logits, np.resize(pattern.labels, count))
    faults += _close("the loss", found, pattern.total(truth, count))
    return faults + pattern.wrong(logits, expected)


def linear(sizes: Sizes, backend: str) -> list[str]:
    """A linear layer whose logits, never whole, are more than 2**31."""
    wide, features = 2**14 + 3, 8
    period = min(509, sizes.beyond // wide | 1)
    count = period * (sizes.beyond // wide // period + 1)
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((period, features)).astype(np.float32)
    weight = rng.standard_normal((wide, features)).astype(np.float32)
    labels = rng.integers(0, wide, period)
    options: dict[str, Any] = {"backend": backend, "reduction": "sum"}
    loss, grads = fx.linear_cross_entropy_and_grad(hidden, weight, labels, **options)
    truth = reference.cross_entropy(
        hidden.astype(float) @ weight.astype(float).T, labels, reduction="sum"
    )
    faults = _close("the loss of the pattern", loss, float(truth), 1e-5)
    times = count // period
    found, many = fx.linear_cross_entropy_and_grad(
        np.tile(hidden, (times, 1)), weight, np.tile(labels, times), **options
    )
    faults += _close("the loss", found, float(truth) * times, 1e-5)
    pairs = (
        ("hidden", many[0].reshape(times, period, features), grads[0]),
        ("weights", many[1] / times, grads[1]),
    )
    for name, result, expected in pairs:
        error = float(np.abs(result - expected).max() / np.abs(expected).max())
        faults += _close(f"the error of the gradient of the {name}", error, 0.0, 1e-4)
    return faults


CHECKS: tuple[Callable[[Sizes, str], list[str]], ...] = (
    *(uncountable_classes, elements, half_elements, rows, mean_of_rows, distant_classes, classes),
    *(softmax, softmax_backward, binary, shards, linear),
)
# The numpy backend takes a row at a time, with two arrays like it: 17 GB more for 2**31 classes.
WITHOUT = {"numpy": (classes,)}


def main(given: list[str]) -> int:
    """Run the checks, print what was wrong, keep it; 0 where all was right, 2 without memory."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Example: PYTHONPATH=.:tests python -m reliability.large --backends cython numba",
    )
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names of checks")
    parser.add_argument("--beyond", type=int, default=2**31, metavar="N", help="default: 2**31")
    parser.add_argument("--many-classes", type=int, default=2**24, metavar="N", help="2**24")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    asked = parser.parse_args(given)
    needed, free = bytes_needed(asked.beyond), available_bytes()
    if free is not None and free < 1.1 * needed:
        print(f"{1.1 * needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} are free")
        return 2
    checks = [
        (backend, check)
        for backend in asked.backends
        for check in CHECKS
        if (not asked.only or check.__name__ in asked.only)
        and check not in WITHOUT.get(backend, ())
    ]
    sizes = Sizes(asked.beyond, asked.many_classes, np.empty(needed, np.uint8))
    faults: list[str] = []
    begin = time.monotonic()
    with records.progress("large", total=len(checks)) as advance:
        for backend, check in checks:
            name = f"{backend}, {check.__name__}"
            advance(0, name)
            faults += [f"{name}: {fault}" for fault in check(sizes, backend)]
            advance()
    figures = {
        "checks": len(checks),
        "backends": ", ".join(asked.backends),
        "elements": asked.beyond,
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 1),
        "wrong": len(faults),
    }
    seconds = time.monotonic() - begin
    records.keep("large", figures, not faults, seconds, faults, asked.out)
    print(f"{figures['checks']} checks in {seconds:.0f} s, {len(faults)} faults")
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
