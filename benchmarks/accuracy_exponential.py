"""How far the exponential inside the kernels is from the truth, in units in the last place.

A hard label's gradient is T / s * e away from the label, with T the label's class weight, s the
row's sum and e the stored exponential. Give each row a weight of its own that equals s, and the
public gradient *is* e, bit for bit. That the factor is 1 can be seen: classes at the maximum are
in every row, and their gradient shows it.

The rows are of one block of the kernels, long enough for the kernel of long rows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent.cases import BLOCK

Array = NDArray[Any]
Exponential = Callable[[Array], Array]
Advance = Callable[[int], None]

AIM = 1.0  # ULP
ROWS = 64  # of a call, and the classes at 0 that each row has for the labels
POINTS = ROWS * (BLOCK - ROWS)  # exponentials that a call shows
FIRST, LAST = 0x8000_0000, 0xFF80_0000  # the bits of -0.0 and of -inf in float32
SAMPLED = 61  # odd, so that the lowest bits of the sampled floats take all values
JUDGED_BY_MPMATH = 400
_EXPONENT_BITS = np.uint64(0x7FF0_0000_0000_0000)


@dataclass(frozen=True)
class Result:
    """The worst of many exponentials of one implementation."""

    name: str
    dtype: str
    points: int
    every: bool  # whether these are all numbers of the dtype from -inf to -0.0
    worst: float
    at: float
    ends: bool  # whether exp(0) is 1 and exp(-inf) is 0
    seconds: float

    @property
    def met(self) -> bool:
        """Whether the aim is met."""
        return self.worst <= AIM and self.ends


def of_backend(backend: str) -> Exponential:
    """Exponentials as the kernels of a backend store them, of `POINTS` numbers."""
    labels = np.arange(ROWS)
    beside = (labels + 1) % ROWS
    logits, weight = np.zeros((ROWS, BLOCK)), np.ones(BLOCK)

    def exponential(x: Array) -> Array:
        z = logits.astype(x.dtype)
        z[:, ROWS:] = x.reshape(ROWS, -1)
        grad = np.empty_like(z)
        weight[:ROWS] = ROWS + np.exp(z[:, ROWS:].astype(np.float64)).sum(axis=1)
        for _ in range(20):
            fx.cross_entropy_and_grad(
                z, labels, weight=weight, reduction="sum", backend=backend, out=grad
            )
            factor = grad[labels, beside].astype(np.float64)
            if (factor == 1).all():
                return grad[:, ROWS:].reshape(-1)
            weight[:ROWS] /= factor
        raise RuntimeError(f"{backend}: no class weight equals the sum of its row")

    return exponential


def of_torch() -> Exponential:
    """`torch.exp`."""
    import torch

    return lambda x: torch.exp(torch.from_numpy(x)).numpy()


def of_jax() -> Exponential:
    """`jax.numpy.exp`, compiled."""
    import jax

    jax.config.update("jax_enable_x64", True)
    compiled = jax.jit(jax.numpy.exp)
    return lambda x: np.asarray(compiled(x))


def exact_ends(backend: str, dtype: str) -> bool:
    """Whether exp(0) is 1 and exp(-inf) is 0: then a row of both has the loss log(1) = 0."""
    logits = np.full((1, BLOCK), -np.inf, dtype)
    logits[0, 0] = 0
    loss, grad = fx.cross_entropy_and_grad(logits, [0], reduction="sum", backend=backend)
    return bool(loss == 0 and not grad.any())


def spacing_below(exact: Array, dtype: Any) -> Array:
    """Distance of the numbers of a dtype around `exact`: of those below it, at a power of two."""
    floor = exact.astype(np.float64)
    if exact.dtype != floor.dtype:
        floor = np.where(floor > exact, np.nextafter(floor, 0), floor)
    power = (floor.view(np.uint64) & _EXPONENT_BITS).view(np.float64)
    kind = np.finfo(dtype)
    return np.maximum(power, float(kind.tiny)) * float(kind.eps)


def errors(result: Array, exact: Array) -> Array:
    """Errors in units in the last place; 0 is right wherever a normal number would not be."""
    distance = np.abs(result - exact) / spacing_below(exact, result.dtype)
    distance[(result == 0) & (exact < np.finfo(result.dtype).tiny)] = 0
    return distance


def float32_chunks(step: int) -> Iterator[Array]:
    """Every `step`-th float32 from -0.0 down, and -inf at the end of the last chunk."""
    for first in range(FIRST, LAST + 1, step * POINTS):
        bits = np.arange(first, first + step * POINTS, step)
        yield np.minimum(bits, LAST).astype(np.uint32).view(np.float32)


@functools.cache
def float64_points(scale: int) -> Array:
    """Points of [-745, 0]: spread evenly, small ones, and where the argument's reduction turns."""
    rng = np.random.default_rng(0)
    spread = -745 * rng.random(2_000_000 // scale)
    small = -(10.0 ** rng.uniform(-320, 0, 500_000 // scale))
    turns = np.arange(1, 2150)[:, None] * (-np.log(2) / 2)
    near = rng.integers(-8, 9, (len(turns), max(1, 400 // scale))) * np.spacing(turns)
    ends = np.array([-0.0, -708.396418532264, -708.4, -709.0, -744.44, -745.2, -np.inf])
    points = np.concatenate([spread, small, (turns + near).ravel(), ends])
    return np.pad(points, (0, -len(points) % POINTS))


def _worst(
    exponential: Exponential,
    chunks: Iterator[Array],
    judge: Callable[[Array], Array],
    advance: Advance,
) -> tuple[float, float, int]:
    worst, at, points = 0.0, 0.0, 0
    for x in chunks:
        error = errors(exponential(x), judge(x))
        here = int(np.where(np.isnan(error), np.inf, error).argmax())
        if not error[here] <= worst:
            worst, at = float(error[here]), float(x[here])
        points += len(x)
        advance(len(x))
    return worst, at, points


def measure_float32(
    name: str, exponential: Exponential, ends: bool, step: int, advance: Advance
) -> Result:
    """Every `step`-th float32, against NumPy's exp in float64, whose error is 1e-8 of an ULP."""
    started = time.perf_counter()
    worst, at, points = _worst(
        exponential, float32_chunks(step), lambda x: np.exp(x.astype(np.float64)), advance
    )
    seconds = time.perf_counter() - started
    points = min(points, LAST - FIRST + 1)
    return Result(name, "float32", points, step == 1, worst, at, ends, seconds)


def measure_float64(
    name: str, exponential: Exponential, ends: bool, scale: int, advance: Advance
) -> Result:
    """Some millions of float64, against exp in long double."""
    started = time.perf_counter()
    x = float64_points(scale)
    worst, at, points = _worst(
        exponential,
        iter(x.reshape(-1, POINTS)),
        lambda x: np.exp(x.astype(np.longdouble)),
        advance,
    )
    seconds = time.perf_counter() - started
    return Result(name, "float64", points, False, worst, at, ends, seconds)


def error_of_long_double() -> float:
    """Largest error, in ULP of float64, of the long double that judges it: against mpmath."""
    import mpmath

    x = np.random.default_rng(1).choice(float64_points(8), JUDGED_BY_MPMATH)
    x = x[x > -708]
    judged = np.exp(x.astype(np.longdouble))
    spacing = spacing_below(judged, np.float64)
    worst = 0.0
    with mpmath.workdps(60):
        for number, close, unit in zip(x, judged, spacing, strict=True):
            # mpmath takes doubles: a long double between 1/2 and 1 is the sum of two
            part, exponent = np.frexp(close)
            halves = float(part), float(part - np.longdouble(float(part)))
            value = mpmath.ldexp(mpmath.mpf(halves[0]) + halves[1], int(exponent))
            error = abs(value - mpmath.exp(float(number))) / float(unit)
            worst = max(worst, float(error))
    return worst
