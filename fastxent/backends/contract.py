"""What a backend is: a name, `why_not`, and verbs that fill arrays the caller allocated.

Absence is None all the way down: an output that is None is not computed, an option that is None
costs nothing. The contract grows by verbs and outputs, never by flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem
    from fastxent.jacobian import JacobianProblem
    from fastxent.precision import Array
    from fastxent.problem import Problem

__all__ = [
    "BLOCK",
    "CHUNK_ELEMENTS",
    "JACOBIAN_TILE_CLASSES",
    "KINDS",
    "LABEL_CHUNK",
    "TILE_CLASSES",
    "Backend",
    "BinaryOutputs",
    "HessRule",
    "LabelSummary",
    "Outputs",
]

# Classes per block: the unit of summation and of scaling. One f32 accumulator over a whole row of
# 128,256 peaked logits gave a gradient error of 3.6e-6, blocks of 1,024 added in f64 1.9e-7.
BLOCK = 1024

# Labels per partial sum: fixed, so that the sum of their masses has the same bits for any number
# of threads.
LABEL_CHUNK = 8192

# Most classes for which compiled backends put rows, not classes, into the SIMD lanes. A row of 96
# takes the same time either way (60 ns on AVX-512), one of 65 takes 43 ns instead of 61.
TILE_CLASSES = 100

# The same for the Jacobian products, which go three times through memory and compute little: 96
# classes take 50 ns as a row and 104 in a tile, 32 take 17 either way.
JACOBIAN_TILE_CLASSES = 32

# Elements a chunk: a few microseconds of work, so that a core that is busy elsewhere delays a call
# by one chunk only. The losses of a chunk's rows make one partial sum.
CHUNK_ELEMENTS = 1 << 14

# How numbers are stored: kernels know a kind by its place here. Half precision comes as uint16
# views of the bits, booleans as uint8. Logits are of the first four kinds, probabilities of the
# first five; the verb `binary` takes targets of any.
KINDS = (
    *("float32", "float64", "float16", "bfloat16"),
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
)


class HessRule(NamedTuple):
    """What the diagonal of the Hessian is: see `Outputs.hess` and `BinaryOutputs.hess`.

    Attributes
    ----------
    kind : {"product", "distance"}
        Of p * (1 - p), or of the distance from p to the target.
    factor : float
    floor : float
        The least value, also where the row's factor is 0; a NaN stays one.
    """

    kind: str = "product"
    factor: float = 1.0
    floor: float = 0.0


@dataclass(slots=True)
class Outputs:
    """Arrays that a backend fills; None means do not compute.

    Arrays of (rows.., C) are views like `Problem.logits`, each with its own dimensions and strides;
    row number n in C order is what they share. Arrays of (N,) are contiguous. A skipped row holds
    loss 0, grad 0, proba 0, hess 0, row_max 0, row_sum 1, log_prob 0, argmax -1, entropy 0.

    Attributes
    ----------
    loss : (N,) array of the loss dtype
        Loss of each row before `row_scale`.
    total : (1,) float64 array
        Sum of the rows' losses before they are rounded, added up in an order that depends on the
        shape only.
    grad : (rows.., C) array of the storage dtype, may be the logits themselves
        Gradient of each row times `row_scale`.
    hess : (rows.., C) array of the storage dtype
        The diagonal of the Hessian by `Problem.hess_rule`: max(factor * row_scale * p * (1 - p),
        floor), or with "distance" max(factor * row_scale * |p - [k = label]|, floor). Soft caps,
        scales and the mass of targets do not enter it.
    row_max, row_sum : (N,) arrays, compute dtype and float64
        m = max z and s = sum exp(z - m): the state between forward and backward.
    proba, log_proba : (rows.., C) arrays of the storage dtype, may be the logits themselves
        Softmax and its logarithm. `forward` gives the softmax beside the gradient, in an array of
        its own.
    log_prob : (N,) array of the loss dtype
        Hard labels: log p of the label, (z_y - m) - log s. Probabilities: sum_k t_k (z_k - L) with
        the mass t as `gain` and `background` make it; a class without mass adds nothing.
    argmax : (N,) int64 array
        First class of the largest z; -1 where `row_sum` is NaN or 0.
    entropy : (N,) array of the loss dtype
        -sum_k p_k log p_k; a class with p = 0 adds nothing.
    target_grad : (rows.., C) array of `Problem.target_grad_kind`
        Gradient with respect to `soft`: -row_scale * gain_k * (z_k - L).
    """

    loss: Array | None = None
    total: Array | None = None
    grad: Array | None = None
    hess: Array | None = None
    row_max: Array | None = None
    row_sum: Array | None = None
    proba: Array | None = None
    log_proba: Array | None = None
    log_prob: Array | None = None
    argmax: Array | None = None
    entropy: Array | None = None
    target_grad: Array | None = None


@dataclass(slots=True)
class BinaryOutputs:
    """Arrays that the verb `binary` fills; None means do not compute.

    Attributes
    ----------
    loss : array of the logits' shape, of the compute dtype
        Loss of each element times its `factor`.
    grad : array of the logits' shape, stored as the logits, maybe the logits themselves
        Gradient of each element times its `factor` and `upstream`.
    proba : array of the logits' shape, stored as the logits
        sigma(x).
    hess : array of the logits' shape, stored as the logits
        By `BinaryProblem.hess_rule`: max(rule.factor * factor * upstream * sigma * (1 - sigma),
        floor), or with "distance" the size of the gradient without its factors, |sigma - target|
        where nothing is weighed or smoothed, for sigma * (1 - sigma).
    total : (1,) float64 array
        Sum of the losses, added up in an order that depends on the shape only.
    """

    loss: Array | None = None
    grad: Array | None = None
    proba: Array | None = None
    hess: Array | None = None
    total: Array | None = None


class LabelSummary(NamedTuple):
    """What one pass over the labels finds.

    Attributes
    ----------
    bad_row : int
        First row whose label is neither the skipped one nor in ``[0, C)``; -1 if there is none.
    live : int
        Rows that are not skipped.
    mass : float
        Sum of ``class_mass[label] * row_mass[row]`` over the live rows (a factor that is None
        counts as 1), added up in chunks of `LABEL_CHUNK` rows.
    """

    bad_row: int
    live: int
    mass: float


class Backend(Protocol):
    """One implementation of the verbs. All arrays are canonical: see `Problem`."""

    @property
    def name(self) -> str:
        """The name that `backend=` and `use_backend` take."""

    def why_not(self, problem: Problem | None = None) -> str | None:
        """Why this backend cannot run (`problem`, or anything at all); None if it can."""

    def info(self) -> dict[str, str]:
        """Facts for a bug report."""

    def check_labels(
        self,
        target: Array,
        num_classes: int,
        skip: int | None,
        class_mass: Array | None,
        row_mass: Array | None,
        num_threads: int,
    ) -> LabelSummary:
        """Find the first bad label, count the live rows and add up their mass."""

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `log_proba`, as far as they are not None."""

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` from the row statistics that `forward` gave, with the bits of its `grad`."""

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """Mean loss of rows without options, its gradient into `grad`: all of a call in one step.

        The arrays are the caller's, unchecked but for being NumPy arrays. None, and nothing
        written, where anything about them is out of the ordinary, a bad label too: then the door
        takes over. The bits are those of `forward`.
        """

    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1.

        Then what was written means nothing. Without outputs only the targets are looked at.
        """

    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out`, rows like those of `problem`, with the Jacobian product.

        Of the softmax where the problem has `proba`, of its logarithm where it has `log_proba`.
        `out` may be one of the inputs.
        """
