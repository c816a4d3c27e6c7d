"""Calls of every public function, legal and refused ones, each with what it has to give.

The soak run draws from them: whatever runs beside a call, its result has the bits it had alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastxent as fx
from fastxent import boosting, on_disk
from fastxent.cases import OPTION_CASES, Case, dtype_of

__all__ = ["BACKENDS", "Call", "calls", "digest", "outcome"]

BACKENDS = ("cython", "numba", "numpy")
DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call with its arguments: what `run` gives never differs."""

    name: str
    run: Callable[[], Any]


def _parts(found: Any) -> Iterator[Any]:
    if isinstance(found, tuple | list):
        for one in found:
            yield from _parts(one)
    elif dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            yield from _parts(getattr(found, field.name))
    elif hasattr(found, "detach"):
        yield from _parts(found.detach().double().numpy())  # NumPy has no bfloat16
    else:
        yield found


def digest(found: Any) -> str:
    """Hash of the bits of a result, of whatever arrays, numbers and words it consists."""
    state = hashlib.blake2b(digest_size=16)
    for part in _parts(found):
        if isinstance(part, np.ndarray | np.generic):
            state.update(f"{part.dtype}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).tobytes())
        else:
            state.update(repr(part).encode())
    return state.hexdigest()


def outcome(call: Call) -> str:
    """Hash of what a call gives; of an error that fastxent raises on purpose, its words."""
    try:
        return digest(call.run())
    except fx.FastxentError as error:
        return f"{type(error).__name__}: {error}"


def _case(case: Case, dtype: str, backend: str) -> Call:
    logits, target, options = case.arguments(dtype)
    options |= {"backend": backend, "num_threads": case.num_threads, "aux": case.asked}

    def run() -> Any:
        if case.out == "none":
            return fx.cross_entropy_and_grad(logits, target, **options)
        given = logits.copy()
        out = given if case.out == "in-place" else np.empty_like(given)
        return fx.cross_entropy_and_grad(given, target, out=out, **options)

    return Call(f"{case} [{dtype}, {backend}]", run)


def _of_cases(share: float) -> Iterator[Call]:
    """Every option alone and in pairs, of each dtype on each backend; of all of them a share."""
    everything = [
        (case, dtype, backend)
        for case in OPTION_CASES
        for dtype in DTYPES
        for backend in BACKENDS
        if case.why_not(dtype) is None
    ]
    step = max(1, round(1 / share))
    for case, dtype, backend in everything[::step]:
        yield _case(case, dtype, backend)


def _of_functions(dtype: str, backend: str, files: Path) -> Iterator[tuple[str, Any]]:
    """Every public function of NumPy arrays, at a few shapes of its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 700)).astype(dtype_of(dtype))
    long = rng.standard_normal((2, 40_000)).astype(dtype_of(dtype))
    few = rng.standard_normal((3000, 10)).astype(dtype_of(dtype))
    y, y_long = rng.integers(0, 700, 24), rng.integers(0, 40_000, 2)
    y_few = rng.integers(0, 10, 3000).astype(np.uint8)
    on = {"backend": backend, "num_threads": 2}
    yield "cross_entropy", lambda: fx.cross_entropy(few, y_few, **on)
    yield "a long row", lambda: fx.cross_entropy_and_grad(long, y_long, **on)
    yield "few classes", lambda: fx.cross_entropy_and_grad(few, y_few, **on)
    yield "softmax", lambda: fx.softmax(x, **on)
    yield "log_softmax over two axes", lambda: fx.log_softmax(x.reshape(4, 6, 700), (0, 2), **on)
    yield "logsumexp of columns", lambda: fx.logsumexp(x, 0, **on)
    yield "softmax_backward", lambda: fx.softmax_backward(x, x, **on)
    yield "log_softmax_backward", lambda: fx.log_softmax_backward(few, few, 0, **on)
    ones = (few > 0).astype(np.uint8)
    yield "binary", lambda: fx.binary_cross_entropy_with_logits_and_grad(few, ones, **on)
    yield "check_labels", lambda: fx.check_labels(y_few, 10)

    def module() -> Any:
        loss = fx.CrossEntropyLoss(label_smoothing=0.1, backend=backend)
        return loss.forward(x, y), loss.backward()

    yield "CrossEntropyLoss", module

    def shards() -> Any:
        parts = [
            fx.partial_stats(x[:, at : at + 350], y, class_offset=at, num_classes=700, **on)
            for at in (0, 350)
        ]
        stats = fx.merge_stats(*parts)
        loss = fx.loss_from_stats(stats, y, num_classes=700, **on)
        rest = {"class_offset": 350, "num_classes": 700}
        return loss, fx.grad_from_stats(x[:, 350:], y, stats, **rest, **on)

    yield "shards", shards
    path = files / f"{dtype}.npy"
    if dtype != "bfloat16":  # a dtype that the file format does not know
        np.save(path, x)
        yield "on_disk", lambda: on_disk.cross_entropy(path, y, memory_budget=20_000, **on)
    if dtype in ("float32", "float64"):
        yield "boosting", lambda: boosting.softmax_gradient_hessian(few, y_few, **on)
    hidden = rng.standard_normal((24, 16)).astype(dtype_of(dtype))
    weight = rng.standard_normal((700, 16)).astype(dtype_of(dtype))
    yield "linear", lambda: fx.linear_cross_entropy_and_grad(hidden, weight, y, backend=backend)


def _refused(backend: str) -> Iterator[tuple[str, Any]]:
    """Calls that raise: nothing of them may stay."""
    x = np.random.default_rng(1).standard_normal((300, 40)).astype(np.float32)
    y = np.arange(300) % 40
    bad = y.copy()
    bad[299] = 40
    fixed = x.copy()
    fixed.flags.writeable = False
    fused = functools.partial(fx.cross_entropy_and_grad, backend=backend)
    yield "label", lambda: fused(x, bad)
    yield "label, weighted", lambda: fused(x, bad, weight=np.ones(40))
    yield "shape", lambda: fused(x, y[:-1])
    yield "option", lambda: fused(x, y, label_smoothing=2.0)
    yield "dtype", lambda: fused(x.astype(complex), y)
    yield "read-only out", lambda: fused(x, y, out=fixed)
    yield "overlapping out", lambda: fused(x[1:], y[1:], out=x[:-1])
    yield (
        "binary target",
        lambda: fx.binary_cross_entropy_with_logits(x, np.full(x.shape, 2), backend=backend),
    )
    yield "shard", lambda: fx.partial_stats(x, bad, class_offset=0, num_classes=40, backend=backend)
    yield "linear", lambda: fx.linear_cross_entropy(x, x, bad, backend=backend)


def _of_torch(backend: str) -> Iterator[tuple[str, Any]]:
    """The functions of `fastxent.torch`, with their backward pass."""
    import torch

    from fastxent import torch as fxt

    state = torch.Generator().manual_seed(0)

    def tensor(*shape: int, dtype: Any = torch.float32) -> Any:
        return torch.randn(*shape, generator=state).to(dtype).requires_grad_()

    def pair(function: Callable[..., Any], x: Any, *rest: Any, **options: Any) -> Any:
        result = function(x, *rest, **options)
        return result, torch.autograd.grad(result.sum(), x)

    on = {"backend": backend}
    x, half = tensor(64, 300), tensor(64, 300, dtype=torch.bfloat16)
    y = torch.randint(0, 300, (64,), generator=state)
    soft = torch.softmax(tensor(64, 300), 1).detach()
    yield "cross_entropy", lambda: pair(fxt.cross_entropy, x, y, **on)
    yield "bfloat16", lambda: pair(fxt.cross_entropy, half, y, label_smoothing=0.1, **on)
    yield "probabilities", lambda: pair(fxt.cross_entropy, x, soft, reduction="none", **on)
    yield "binary", lambda: pair(fxt.binary_cross_entropy_with_logits, x, soft, **on)
    yield "softmax", lambda: pair(fxt.softmax, x, -1, **on)
    hidden, weight = tensor(64, 8), tensor(300, 8)
    yield "linear", lambda: pair(fxt.linear_cross_entropy, hidden, weight, y, **on)
    yield "refused", lambda: fxt.cross_entropy(x, torch.full((64,), 300), **on)


def calls(share: float, files: Path) -> list[Call]:
    """Make the calls: of the cases of the suite a share, all others whole.

    Parameters
    ----------
    share : float
        Of the cases, above 0 and at most 1.
    files : Path
        Folder of arrays on disk, which must outlive the calls.

    Returns
    -------
    list of Call
    """
    found = list(_of_cases(share))
    for backend in BACKENDS:
        for dtype in DTYPES:
            for name, run in _of_functions(dtype, backend, files):
                found.append(Call(f"{name} [{dtype}, {backend}]", run))
        found += [Call(f"refused: {name} [{backend}]", run) for name, run in _refused(backend)]
        found += [Call(f"torch: {name} [{backend}]", run) for name, run in _of_torch(backend)]
    return found
