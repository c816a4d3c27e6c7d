"""What a backend is: a name, `why_not`, and verbs that fill arrays the caller allocated.

Absence is None all the way down: an output that is None is not computed, an option that is None
costs nothing. The contract grows by verbs and outputs, never by flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fastxent.backends.outputs import (
    BinaryOutputs,
    HessRule,
    LabelSummary,
    Outputs,
    PartialSums,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastxent.binary import BinaryProblem
    from fastxent.device_array import DeviceArray, Place
    from fastxent.jacobian import JacobianProblem
    from fastxent.precision import Array
    from fastxent.problem import Problem

__all__ = [
    "ADDRESS_STEP",
    "BLOCK",
    "CHUNK_ELEMENTS",
    "JACOBIAN_TILE_CLASSES",
    "KINDS",
    "LABEL_CHUNK",
    "SLICE_ELEMENTS",
    "TILE_CLASSES",
    "Backend",
    "BinaryOutputs",
    "DeviceBackend",
    "Forward",
    "HessRule",
    "LabelSummary",
    "Outputs",
    "PartialSums",
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

# A call of more elements can be interrupted: compiled kernels let Python run handlers of signals
# after so many, some milliseconds' work of each thread, and from time to time later on.
SLICE_ELEMENTS = 1 << 22

# Where the arrays of a recorded call are: see `DeviceBackend.record`. No GPU has so much memory.
ADDRESS_STEP = 1 << 56

# How numbers are stored: kernels know a kind by its place here. Half precision comes as uint16
# views of the bits, booleans as uint8. Logits are of the first four kinds, probabilities of the
# first five; the verb `binary` takes targets of any.
KINDS = (
    *("float32", "float64", "float16", "bfloat16"),
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
)


class Forward(Protocol):
    """What gives outputs of rows: a backend, or statistics of rows that it is to merge."""

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `log_proba` and `mass`, as far as they are not None."""


class Backend(Forward, Protocol):
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

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` from the row statistics that `forward` gave, with the bits of its `grad`."""

    def partial(self, problem: Problem, sums: PartialSums) -> None:
        """Fill what is not None with the sums of each block of `BLOCK` classes of `problem`.

        Its classes are number `class_offset` and following of `num_classes`, at least one, and its
        labels count from the first of all classes. Rows are never put into the SIMD lanes,
        whatever the layout and the number of classes: the sums of a block have the bits that they
        have in a row of more than `TILE_CLASSES` classes that `forward` takes.
        """

    def merge(self, problem: Problem, sums: PartialSums, out: Outputs) -> None:
        """Fill outputs of rows from the sums of all `num_classes` classes, in class order.

        These are `loss`, `total`, `row_max`, `row_sum`, `log_prob`, `argmax`, `entropy` and `mass`,
        as far as they are not None; `sums` has what they need. Any number of parts, at least one;
        a single part is what the row hands up, and is taken as it is. With the parts of `partial`
        these are the bits of `forward`, that of `total` too: the losses of ``max(1, CHUNK_ELEMENTS
        // num_classes)`` rows make one partial sum.

        Of the problem are used the rows, `target` (where it is None the mass of a row is the sum of
        its `mass`, else `spike` of the label and `background_total`), `skip`, `spike`,
        `background_total`, `z_loss`, `num_classes`, `precision` and `num_threads`: no logits, no
        probabilities and no factors of classes. They need not be there.
        """

    def partial_backward(
        self, problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
    ) -> None:
        """Fill `grad`, rows like those of `problem`, from the statistics of all classes.

        They are what `merge` gives, contiguous and float64: `row_mass` is `Outputs.mass`, to which
        ``2 * z_loss * L`` is added here. A label of other classes puts no mass on these. The bits
        are those that `forward` gives these classes among all, where `class_offset` is a multiple
        of `BLOCK`. `grad` may be the logits themselves; with fewer classes than `num_classes` here
        too, at least one.
        """

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


class DeviceBackend(Backend, Protocol):
    """A backend that takes `DeviceArray` as well, and then returns before the GPU is done.

    Every verb runs on the place of its first array, or of the problem's logits. All arrays of a
    call are on that device, and nothing is read back. Arrays may be empty. In a `Problem` whose
    logits are on a device, so are all other arrays: class factors (with `background_total` as
    float64 of one entry where the weights are on the device), `row_scale`, `row_weight_at` and
    `denominator_at`; `target` is contiguous.

    A label outside [0, C) that is not skipped gives its row a NaN loss and log_prob and gradients
    of 0, of `merge` and `partial_backward` one outside [0, num_classes); so does an integer target
    of `binary` that is neither 0 nor 1, and `binary` returns False. `merge` fills `partial`, `lse`,
    `z_loss` and `correct` as `forward` does, the last for labels only.

    `check_labels` and `mean_loss` are for arrays of the host only.
    """

    @property
    def plans(self) -> dict[Any, Any]:
        """What callers keep of `record`, for as long as it is good."""

    def place(self, device: int, stream: int) -> Place:
        """Device and stream, with memory of the backend's own."""

    def check_not_captured(self, place: Place) -> None:
        """Refuse work whose memory is given back while a graph goes on using it."""

    def upload(self, array: Array, place: Place, is_result: bool = False) -> DeviceArray:
        """Copy of a contiguous array of the host in new memory of the place.

        `array` may change as soon as this returns. A result is for the caller, who may keep it and
        work on it elsewhere; what is none is gone when the call returns.
        """

    def download(self, array: DeviceArray) -> Array:
        """Copy of a contiguous array, for the host. This waits for the GPU."""

    def device_of(self, address: int) -> int:
        """Number of the device whose memory an address lies in."""

    def wait(self, place: Place, stream: int) -> None:
        """Let what is launched on `place` from now on wait for what `stream` has to do now."""

    def record(self, calls: Callable[[], None]) -> Callable[[Place, tuple[int, ...]], None] | None:
        """Let verbs note their launches, and launch nothing; give what launches them.

        None where numbers of the host would have to be copied to the GPU.

        Array number i of the calls, counted from 1, begins at ``i * ADDRESS_STEP``; the function
        that is given takes a place on the same device, and where the arrays of these numbers begin
        there, at the same distance from a multiple of 16.
        """

    def partial_count(self, problem: Problem) -> int:
        """How many partial sums `forward` writes."""

    def binary_partial_count(self, problem: BinaryProblem) -> int:
        """How many partial sums `binary` writes."""

    def label_mass(
        self,
        target: DeviceArray,
        num_classes: int,
        skip: int | None,
        class_mass: DeviceArray | None,
        row_mass: DeviceArray | None,
        mass: DeviceArray,
        bad_row: DeviceArray,
    ) -> None:
        """Write `LabelSummary.mass` to `mass`, float64 of one entry; bad labels do not count.

        `LabelSummary.bad_row` is written to `bad_row`, int64 of one entry. `class_mass` and
        `row_mass` are real numbers of any of `KINDS`.
        """

    def first_bad_label(self, target: DeviceArray, num_classes: int, skip: int | None) -> int:
        """`LabelSummary.bad_row`. This waits for the GPU."""

    def class_factors(
        self,
        weight: DeviceArray,
        on_label: float,
        share: float,
        spike_of: DeviceArray | None,
        background_of: DeviceArray | None,
        background_total: DeviceArray | None,
        gain_of: DeviceArray | None,
    ) -> None:
        """Write what fastxent.mass computes on the host, with its bits.

        weight * on_label as float64 and in the compute dtype (`spike_of`, `gain_of`), weight *
        share in the compute dtype, and the sum of that as float64.
        """

    def row_factors(self, factors: tuple[DeviceArray | float, ...], row_scale: DeviceArray) -> None:
        """Write the product of up to three factors: numbers, or (N,) real arrays of any kind.

        An array may have any stride, 0 too.
        """

    def finish_sum(
        self,
        partial: DeviceArray,
        divisor: float,
        denominator: DeviceArray | None,
        zero_when_empty: bool,
        bad_row: DeviceArray | None,
        loss: DeviceArray,
    ) -> None:
        """Write sum(partial) / divisor / denominator to the one entry of `loss`, in its dtype.

        A denominator of 0 gives NaN, or 0 for `zero_when_empty`, unless `bad_row`, int64 of one
        entry, has a row (it is not negative). The sum of no entries is 0.
        """

    def scale(self, grad: DeviceArray, kind: str, upstream: DeviceArray, out: DeviceArray) -> None:
        """Write the rows `grad` times `upstream`, one real number or one a row, to the rows `out`.

        `out` may be `grad`. Half precision comes as its bits: `kind` tells what they are.
        """
