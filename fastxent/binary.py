"""BinaryProblem: the public arguments of the binary loss as the one formula that kernels know.

    positive = ones * (gain * target + background)       the mass on 1
    negative = gain * (1 - target) + background          the mass on 0
    loss     = factor * (positive * log(1 + exp(-x)) + negative * log(1 + exp(x)))
    grad     = factor * upstream * (negative * sigma(x) - positive * sigma(-x))

docs/math.md derives it. Weights, smoothing and reductions only choose these factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent import checks, checks_binary, threads
from fastxent.backends.contract import BinaryOutputs
from fastxent.precision import Array
from fastxent.reduction import REDUCTIONS

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend

__all__ = ["BinaryProblem"]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_HALF = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class BinaryProblem:
    """One call, in the form that backends compute.

    All arrays have the same shape, of one dimension or more, and are views of the caller's: any
    strides, native byte order, maybe unaligned, maybe read-only.

    Attributes
    ----------
    logits : array
        float32, float64, or the bits of half precision as uint16: `logits_kind` says which.
    target : array
        Likewise, or integers: `target_kind` says which.
    compute : numpy.dtype
        float32 or float64: of the arithmetic, of the factors and of the loss.
    ones : float or array of the compute dtype
        Factor of the mass on 1.
    factor : float or array of the compute dtype
        Factor of each element's loss.
    upstream : float or array of the compute dtype
        Factor of each element's gradient.
    gain, background : float
        Share of the mass that lies where the target says, and mass on either side.
    num_threads : int
    """

    logits: Array
    logits_kind: str
    target: Array
    target_kind: str
    compute: np.dtype[Any]
    ones: float | Array
    factor: float | Array
    upstream: float | Array
    gain: float
    background: float
    num_threads: int


@dataclass(frozen=True, slots=True)
class BinaryCall:
    """The checked arguments of one call, in the caller's shapes.

    Attributes
    ----------
    logits, target : array
        As given.
    compute : numpy.dtype
    ones, factor, upstream : float or array of the compute dtype
    smoothing : float
    kind : {"none", "mean", "sum"}
    out : array or None
    num_threads : int
    """

    logits: Array
    target: Array
    compute: np.dtype[Any]
    ones: float | Array
    factor: float | Array
    upstream: float | Array
    smoothing: float
    kind: str
    out: Array | None
    num_threads: int

    @classmethod
    def build(
        cls,
        logits: Any,
        target: Any,
        *,
        weight: Any,
        pos_weight: Any,
        label_smoothing: Any,
        reduction: Any,
        num_threads: Any,
        grad_output: Any = None,
        out: Any = None,
    ) -> BinaryCall:
        """Check every public argument, but for the values of integer targets."""
        logits = checks_binary.check_binary_logits(logits)
        target = checks_binary.check_binary_target(target, logits)
        compute = _FLOAT64 if logits.dtype.itemsize == 8 else _FLOAT32
        shape = logits.shape
        factor = checks_binary.check_element_factor(weight, "weight", shape, compute)
        ones = checks_binary.check_element_factor(pos_weight, "pos_weight", shape, compute)
        upstream = checks_binary.check_element_upstream(grad_output, shape, compute)
        given = {
            "target": target,
            "weight": factor,
            "pos_weight": ones,
            "grad_output": upstream,
        }
        others = {name: array for name, array in given.items() if isinstance(array, np.ndarray)}
        return cls(
            logits=logits,
            target=target,
            compute=compute,
            ones=ones,
            factor=factor,
            upstream=upstream,
            smoothing=checks.check_label_smoothing(label_smoothing),
            kind=checks.check_choice(reduction, "reduction", REDUCTIONS),
            out=checks.check_out(out, logits, others, shape, logits.dtype.newbyteorder("=")),
            num_threads=threads.plan(num_threads, 0, logits.size * compute.itemsize),
        )

    def run(self, backend: Backend, wants_grad: bool) -> tuple[Any, Array | None]:
        """Loss, reduced, and gradient, if it is wanted."""
        logits, count = self.logits, self.logits.size
        grad = self.out
        if wants_grad and grad is None:
            grad = np.empty_like(logits, logits.dtype.newbyteorder("="))
        loss = np.empty_like(logits, self.compute) if self.kind == "none" else None
        total = None if self.kind == "none" else np.zeros(1)
        if count:
            problem, outputs = self._canonical(loss, grad, total)
            integers = self.target.dtype.kind in "iu"
            if integers and self.out is not None and backend.binary(problem, BinaryOutputs()):
                checks_binary.raise_bad_binary_target(self.target)
            if backend.binary(problem, outputs) and integers:
                checks_binary.raise_bad_binary_target(self.target)
        if total is None:
            assert loss is not None
            return loss[()], grad
        with np.errstate(all="ignore"):
            if self.kind == "mean":
                total /= count
            return self.compute.type(total[0]), grad

    def _canonical(
        self, loss: Array | None, grad: Array | None, total: Array | None
    ) -> tuple[BinaryProblem, BinaryOutputs]:
        """The algebra, and every array as a view that kernels can take."""
        logits, logits_kind = _as_kernels_see(self.logits)
        target, target_kind = _as_kernels_see(self.target)
        upstream = self.upstream
        if self.kind == "mean":
            upstream = upstream / self.logits.size
        arrays = [logits, target, self.ones, self.factor, upstream, loss]
        arrays.append(None if grad is None else _as_kernels_see(grad)[0])
        logits, target, ones, factor, upstream, loss, grad = _together(arrays)
        problem = BinaryProblem(
            logits=logits,
            logits_kind=logits_kind,
            target=target,
            target_kind=target_kind,
            compute=self.compute,
            ones=ones,
            factor=factor,
            upstream=upstream,
            gain=1.0 - self.smoothing,
            background=self.smoothing / 2,
            num_threads=self.num_threads,
        )
        return problem, BinaryOutputs(loss=loss, grad=grad, total=total)


def _as_kernels_see(array: Array) -> tuple[Array, str]:
    """Native byte order; half precision as its bits, booleans as bytes; and how it is stored."""
    dtype = array.dtype
    if not dtype.isnative:
        array, dtype = array.astype(dtype.newbyteorder("=")), dtype.newbyteorder("=")
    if dtype.kind == "b":
        return array.view(np.uint8), "uint8"
    if dtype.kind in "iu":
        return array, f"{'u' if dtype.kind == 'u' else ''}int{8 * dtype.itemsize}"
    if dtype.name in _HALF:
        return array.view(np.uint16), dtype.name
    return array, dtype.name


def _together(values: list[Any]) -> list[Any]:
    """The arrays among these, all of one shape, with as few dimensions as they have in common.

    Dimensions come in the order of the first array's memory. What is no array stays as it is.
    """
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if all(array.flags.c_contiguous for array in arrays):
        order, shape = tuple(range(arrays[0].ndim)), [arrays[0].size]
    else:
        order, shape = _merged(arrays)
    return [
        value.transpose(order).reshape(shape) if isinstance(value, np.ndarray) else value
        for value in values
    ]


def _merged(arrays: list[Array]) -> tuple[tuple[int, ...], list[int]]:
    """Order of the axes, and the shape after neighbours that every array can merge are merged."""
    sizes = arrays[0].shape
    order = sorted(
        range(len(sizes)),
        key=lambda axis: (sizes[axis] > 1, *(-abs(array.strides[axis]) for array in arrays)),
    )
    shape: list[int] = []
    inner = -1
    for axis in reversed([axis for axis in order if sizes[axis] > 1]):
        if shape and all(a.strides[axis] == a.strides[inner] * sizes[inner] for a in arrays):
            shape[0] *= sizes[axis]
        else:
            shape.insert(0, sizes[axis])
        inner = axis
    return tuple(order), shape or [math.prod(sizes)]
