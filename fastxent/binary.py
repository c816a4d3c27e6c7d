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

from fastxent import checks, threads
from fastxent.backends.contract import BinaryOutputs
from fastxent.layout import empty_like
from fastxent.precision import Array, Precision, kernel_dtype, kind_of, native, precision_of
from fastxent.reduction import REDUCTIONS

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend, HessRule

__all__ = ["BinaryCall", "BinaryProblem"]


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
    hess_rule : HessRule or None
        What `BinaryOutputs.hess` holds; None for sigma * (1 - sigma).
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
    hess_rule: HessRule | None = None


@dataclass(frozen=True, slots=True)
class BinaryCall:
    """The checked arguments of one call, in the caller's shapes.

    Attributes
    ----------
    logits, target : array
        As given.
    precision : Precision
        Of the logits.
    target_kind : str
        How targets are stored.
    ones, factor, upstream : float or array of the compute dtype
        As in `BinaryProblem`, but for the denominator of the mean.
    smoothing : float
    reduction : {"none", "mean", "sum"}
    out : array or None
    num_threads : int
    """

    logits: Array
    target: Array
    precision: Precision
    target_kind: str
    ones: float | Array
    factor: float | Array
    upstream: float | Array
    smoothing: float
    reduction: str
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
        storage: Any = None,
    ) -> BinaryCall:
        """Check every public argument, but for the values of integer targets.

        `storage` ("float16" or "bfloat16") says what the bits in uint16 logits, `out` and targets
        are, as adapters hand them over.
        """
        storage = checks.check_storage(storage)
        logits = checks.check_logits(logits, storage=storage, may_be_scalar=True)
        precision = precision_of(logits.dtype, storage)
        assert precision is not None  # check_logits has passed
        shape, compute = logits.shape, precision.compute
        target = checks.check_binary_target(target, logits, storage)
        factor = checks.check_element_factor(weight, "weight", shape, compute)
        ones = checks.check_element_factor(pos_weight, "pos_weight", shape, compute)
        upstream = checks.check_element_upstream(grad_output, shape, compute)
        smoothing = checks.check_label_smoothing(label_smoothing)
        reduction = checks.check_choice(reduction, "reduction", REDUCTIONS)
        if out is not None:
            others = {"target": target, "weight": factor, "pos_weight": ones}
            arrays = {**others, "grad_output": upstream}
            checks.check_out(
                out,
                logits,
                {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)},
                shape,
                precision.storage,
            )
        return cls(
            logits=logits,
            target=target,
            precision=precision,
            target_kind=kind_of(target.dtype, storage) or native(target.dtype).name,
            ones=ones,
            factor=factor,
            upstream=upstream,
            smoothing=smoothing,
            reduction=reduction,
            out=out,
            num_threads=threads.plan(num_threads, 0, logits.size * compute.itemsize),
        )

    def run(self, backend: Backend, wants_grad: bool) -> tuple[Any, Array | None]:
        """Loss, reduced, and gradient, if it is wanted."""
        logits, precision = self.logits, self.precision
        grad = (
            empty_like(logits, precision.storage) if wants_grad and self.out is None else self.out
        )
        loss = empty_like(logits, precision.loss) if self.reduction == "none" else None
        total = np.zeros(1) if loss is None else None
        if logits.size:
            upstream = self.upstream
            if self.reduction == "mean":
                upstream = upstream / logits.size
            problem, outputs = self.problem(upstream, loss, grad, total)
            # nothing may be written to the caller's array before all targets are known to be good
            if self._needs_check and self.out is not None:
                self._check(backend.binary(problem, BinaryOutputs()))
            self._check(backend.binary(problem, outputs))
        if total is None:
            assert loss is not None
            return loss[()], grad
        with np.errstate(all="ignore"):
            if self.reduction == "mean":
                total /= logits.size
            return precision.loss.type(total[0]), grad

    @property
    def _needs_check(self) -> bool:
        """Whether targets are integers, which are 0 or 1: booleans cannot be anything else."""
        return self.target_kind == self.target.dtype.name and self.target.dtype.kind in "iu"

    def _check(self, bad: bool) -> None:
        if bad and self._needs_check:
            checks.raise_bad_binary_target(self.target)

    def problem(
        self,
        upstream: float | Array,
        loss: Array | None,
        grad: Array | None,
        total: Array | None,
    ) -> tuple[BinaryProblem, BinaryOutputs]:
        """The algebra, and every array as a view that kernels can take.

        `upstream` has the denominator of the mean.
        """
        kind = self.precision.kind
        views = [
            _as_stored(self.logits, kind),
            _as_stored(self.target, self.target_kind),
            *(self.ones, self.factor, upstream, loss),
            None if grad is None else _as_stored(grad, kind),
        ]
        logits, target, ones, factor, upstream, loss, grad = _together(views)
        problem = BinaryProblem(
            logits=logits,
            logits_kind=kind,
            target=target,
            target_kind=self.target_kind,
            compute=self.precision.compute,
            ones=ones,
            factor=factor,
            upstream=upstream,
            gain=1.0 - self.smoothing,
            background=self.smoothing / 2,
            num_threads=self.num_threads,
        )
        return problem, BinaryOutputs(loss=loss, grad=grad, total=total)


def _as_stored(array: Array, kind: str) -> Array:
    """Native byte order; the bits of what kernels do not take as it is."""
    if not array.dtype.isnative:
        array = array.astype(native(array.dtype))
    kernel = kernel_dtype(array.dtype, kind)
    return array if array.dtype == kernel else array.view(kernel)


def _is_array(value: Any) -> bool:
    """Whether this is an array, of the host or of a GPU, and neither a number nor None."""
    return not (value is None or isinstance(value, float))


def _together(values: list[Any]) -> list[Any]:
    """The arrays among these, all of one shape, with as few dimensions as that allows.

    Dimensions come in the order of the first array's memory. What is no array stays as it is.
    """
    arrays = [value for value in values if _is_array(value)]
    if all(array.flags.c_contiguous for array in arrays):
        order, shape = tuple(range(arrays[0].ndim)), [arrays[0].size]
    else:
        order, shape = _merged(arrays)
    return [
        value.transpose(order).reshape(shape) if _is_array(value) else value for value in values
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
