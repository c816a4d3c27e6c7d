"""Calls of every public function whose arrays have more than 1,024 bytes each, to be starved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fastxent as fx
from fastxent import boosting
from reliability.mixture import Call

__all__ = ["calls", "calls_in_code", "calls_of_jax", "calls_of_torch"]


def calls(backend: str, rows: int = 320) -> Iterator[Call]:
    """Every public function, with arrays of more than 1,024 bytes each."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 330)).astype(np.float32)
    columns = rng.standard_normal((330, rows))
    long = rng.standard_normal((2, 40 * rows)).astype(np.float16)
    few = rng.standard_normal((40 * rows, 10)).astype(np.float32)
    y, y_few = rng.integers(0, 330, rows), rng.integers(0, 10, 40 * rows)
    y_long = rng.integers(0, 40 * rows, 2)
    soft = rng.dirichlet(np.ones(330), rows)
    weight, weights = rng.random(330), rng.random(rows)
    hidden, layer = rng.standard_normal((rows, 20)), rng.standard_normal((330, 20))
    on: dict[str, Any] = {"backend": backend, "num_threads": 2}
    out = np.empty_like(x)
    many = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")
    ranges = ((0, 200), (200, 330))

    def shards() -> Any:
        total = {"num_classes": 330, **on}
        parts = (fx.partial_stats(x[:, a:b], y, class_offset=a, **total) for a, b in ranges)
        stats = fx.merge_stats(*parts)
        grad = fx.grad_from_stats(x[:, :200], y, stats, class_offset=0, **total)
        return fx.loss_from_stats(stats, y, **total), grad

    def module() -> Any:
        loss = fx.CrossEntropyLoss(weight=weight, **on)
        return loss.forward(x, y), loss.backward()

    fused = functools.partial(fx.cross_entropy_and_grad, **on)
    taken = np.empty_like(x)

    def in_place() -> Any:
        """Without side outputs compiled kernels have all memory before they write."""
        taken[...] = x
        try:
            return fused(taken, y, out=taken, weight=weight)
        except MemoryError:
            if backend != "numpy" and not np.array_equal(taken, x):
                raise RuntimeError("the logits were written over") from None
            raise

    options: dict[str, Any] = {"weight": weight, "label_smoothing": 0.1, "sample_weight": weights}
    options |= {"aux": many, "softcap": 5.0, "reduction": "none", "z_loss": 0.1}
    binary = functools.partial(fx.binary_cross_entropy_with_logits_and_grad, **on)
    layered = functools.partial(fx.linear_cross_entropy_and_grad, hidden, layer, y, backend=backend)
    found: dict[str, Callable[[], Any]] = {
        "cross_entropy": lambda: fx.cross_entropy(x, y, **on),
        "cross_entropy_and_grad": lambda: fused(x, y),
        "few classes": lambda: fused(few, y_few),
        "few classes, weighted": lambda: fused(few, y_few, weight=np.ones(10), aux=("lse",)),
        "in place": in_place,
        "out": lambda: fused(x, y, out=out),
        "all options": lambda: fused(x, y, **options),
        "columns": lambda: fused(columns, y, axis=0),
        "long rows": lambda: fused(long, y_long),
        "probabilities": lambda: fused(x, soft, weight=weight, aux=("target_grad", "log_prob")),
        "foreign byte order": lambda: fused(x.astype(">f4"), y.astype(">i2")),
        "check_labels": lambda: fx.check_labels(np.resize(y, 10**6), 330),
        "softmax": lambda: fx.softmax(x, **on),
        "log_softmax": lambda: fx.log_softmax(x.reshape(4, -1, 330), (0, 2), **on),
        "logsumexp": lambda: fx.logsumexp(x, **on),
        "softmax_backward": lambda: fx.softmax_backward(x, x, **on),
        "log_softmax_backward": lambda: fx.log_softmax_backward(columns, columns, 0, **on),
        "binary": lambda: binary(x, x > 0, weight=weight, reduction="none"),
        "many binary": lambda: binary(few, few > 0),
        "shards": shards,
        "CrossEntropyLoss": module,
        "boosting": lambda: boosting.softmax_gradient_hessian(few, y_few, **on),
        "linear": layered,
        "linear in chunks": lambda: layered(memory_budget=20_000_000),
    }
    for name, run in found.items():
        yield Call(name, run)


def calls_of_torch(backend: str) -> Iterator[Call]:
    """The functions of `fastxent.torch`, with their backward pass."""
    import torch

    from fastxent import torch as fxt

    state = torch.Generator().manual_seed(0)
    x = torch.randn(320, 330, generator=state).requires_grad_()
    half = x.detach().to(torch.bfloat16).requires_grad_()
    y = torch.randint(0, 330, (320,), generator=state)
    soft = torch.softmax(x.detach(), 1)
    hidden, layer = x[:, :20].detach().requires_grad_(), x.detach()[:, :20].clone()

    def pair(function: Callable[..., Any], at: Any, *rest: Any, **options: Any) -> Any:
        result = function(at, *rest, backend=backend, **options)
        return result, torch.autograd.grad(result.sum(), at)

    yield Call("cross_entropy", lambda: pair(fxt.cross_entropy, x, y))
    yield Call("half", lambda: pair(fxt.cross_entropy, half, y, label_smoothing=0.1))
    yield Call("probabilities", lambda: pair(fxt.cross_entropy, x, soft, reduction="none"))
    yield Call("binary", lambda: pair(fxt.binary_cross_entropy_with_logits, x, soft))
    yield Call("softmax", lambda: pair(fxt.softmax, x, -1))
    linear = fxt.linear_cross_entropy
    yield Call("linear", lambda: pair(linear, hidden, layer, y % 320))


def calls_of_jax(backend: str) -> Iterator[Call]:
    """Jitted functions of `fastxent.jax`: what its handlers allocate is the extension's own."""
    import jax
    import jax.numpy as jnp

    from fastxent import jax as fxj

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((40_000, 20)), jnp.float32)
    half = jnp.asarray(rng.standard_normal((16, 9000)), jnp.bfloat16)
    y, y_half = jnp.arange(40_000) % 20, jnp.arange(16)
    weights = jnp.asarray(rng.random(9000), jnp.float32)

    def grad_of(loss: Callable[[Any], Any], at: Any) -> Callable[[], Any]:
        compiled = jax.jit(jax.value_and_grad(loss))

        def run() -> Any:
            return [np.asarray(one, np.float64) for one in compiled(at)]

        return run

    yield Call("cross_entropy", grad_of(lambda x: fxj.cross_entropy(x, y), x))
    yield Call(
        "half, weighted",
        grad_of(lambda x: fxj.cross_entropy(x, y_half, weight=weights, label_smoothing=0.1), half),
    )
    yield Call("softmax", grad_of(lambda x: fxj.softmax(x).astype(jnp.float32)[:, 0].sum(), half))


def calls_in_code(backend: str) -> Iterator[Call]:
    """Functions of `fastxent.numba`, called from compiled code."""
    import numba

    from fastxent import numba as fxn

    x = np.random.default_rng(0).standard_normal((2, 300_000))  # so many that stacks are too small
    y, out = np.arange(2), np.empty((2, 300_000))

    @numba.njit
    def mean(x: Any, y: Any, out: Any) -> Any:
        return fxn.cross_entropy_and_grad(x, y, out)

    @numba.njit
    def row(x: Any, y: Any, out: Any) -> Any:
        return fxn.cross_entropy_row_and_grad(x[0], y[0], out[0])

    yield Call("means", lambda: (mean(x, y, out), out))
    yield Call("rows", lambda: (row(x, y, out), out[0]))
