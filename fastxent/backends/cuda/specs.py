"""What a kernel is compiled for: light tuples that name it, in memory and on disk."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "ARGUMENTS",
    "ELEMENTS_A_THREAD",
    "ROW_INTEGERS",
    "ROW_REALS",
    "SCALED_VECTORS_A_THREAD",
    "SHARD_INTEGERS",
    "BinaryVariant",
    "ClassFactorsVariant",
    "JacobianVariant",
    "KernelSpec",
    "LabelsVariant",
    "LoopGeometry",
    "RowFactorsVariant",
    "RowGeometry",
    "ScalingVariant",
    "ShardVariant",
    "SumsVariant",
    "TileGeometry",
    "Variant",
]


class Variant(NamedTuple):
    """What the kernels of rows compute, as far as it is decided when they are compiled.

    Attributes
    ----------
    kind : {"float32", "float64", "float16", "bfloat16"}
        How logits, gradient, probabilities and Hessian are stored.
    target : str
        "none", "label", or how probabilities are stored: one of the four, or "uint8".
    mass : {"label", "uniform", "classes"}
        The mass beside that on the label: none (and a gain of 1), the same for all classes, or
        arrays with an entry a class.
    transform : {"plain", "scaled", "capped"}
        From logits x to z: x itself, ``logit_scale * x``, or the soft cap of that.
    task : {"loss", "grad", "backward", "softmax", "log_softmax"}
        "backward" gives the gradient from the row statistics that "loss" or "grad" gave.
    sides : bool
        Whether argmax and entropy are tracked.
    target_grad : bool
        Whether there is a gradient with respect to the probabilities.
    curvature : {"", "proba", "product", "distance"}
        Probabilities beside the gradient, and the kind of `HessRule`.
    """

    kind: str = "float32"
    target: str = "label"
    mass: str = "label"
    transform: str = "plain"
    task: str = "grad"
    sides: bool = False
    target_grad: bool = False
    curvature: str = ""


class RowGeometry(NamedTuple):
    """Part of a warp, a warp, a block or a cluster of blocks for each row.

    Attributes
    ----------
    threads : int
        Threads a row and block.
    rows : int
        Rows a block; more than one only where `threads` is at most a warp.
    vectors : int
        16-byte vectors a thread.
    cluster : int
        Blocks a row.
    aligned : bool
        Whether every row of logits begins and ends at a multiple of 16 bytes.
    min_blocks : int
        Blocks that a multiprocessor must have registers for.
    alike : bool
        Whether those of the result, gradient or softmax, do where the logits do.
    """

    threads: int
    rows: int
    vectors: int
    cluster: int = 1
    aligned: bool = True
    min_blocks: int = 1
    alike: bool = True


class TileGeometry(NamedTuple):
    """A block moves `rows` whole rows of few classes as one piece of memory; a thread a row.

    `aligned` says that all arrays stored as the logits begin at multiples of 16 bytes.
    """

    classes: int
    rows: int
    aligned: bool = True


class LoopGeometry(NamedTuple):
    """A block walks along one row, or each of its threads along its own; else as `RowGeometry`."""

    threads: int
    aligned: bool = True
    alike: bool = True


class KernelSpec(NamedTuple):
    """One compiled kernel.

    Attributes
    ----------
    module : str
        Name of the module in `fastxent.backends.cuda.kernels`.
    variant, geometry : tuple
        What its `make` takes.
    """

    module: str
    variant: Any
    geometry: Any

    @property
    def threads(self) -> int:
        """Threads a block."""
        geometry = self.geometry
        if isinstance(geometry, RowGeometry):
            return geometry.threads * geometry.rows
        return int(geometry.rows if isinstance(geometry, TileGeometry) else geometry.threads)

    @property
    def cluster(self) -> int:
        """Blocks a cluster."""
        return int(getattr(self.geometry, "cluster", 1))

    @property
    def min_blocks(self) -> int:
        """Blocks that a multiprocessor must have registers for."""
        return int(getattr(self.geometry, "min_blocks", 1))


# Arguments of every kernel of rows, in this order; all of them are 8 bytes wide. Addresses are 0
# where an array is absent; pitches are elements from row to row.
ROW_INTEGERS = (
    *("logits", "logits_pitch", "grad", "grad_pitch", "soft", "soft_pitch"),
    *("target_grad", "target_grad_pitch", "proba", "proba_pitch", "hess", "hess_pitch"),
    *("labels", "label_kind", "skip", "has_skip"),
    *("row_scale", "row_weight", "denominator"),
    *("spike_of", "background_of", "background_total_at", "gain_of"),
    *("row_max", "row_sum", "loss", "partial", "log_prob", "argmax", "entropy"),
    *("lse", "z_loss_of", "correct"),
    *("rows", "classes", "layout"),
)
ROW_REALS = (
    *("scale", "spike", "background", "background_total", "gain"),
    *("logit_scale", "softcap", "z_loss", "hess_factor", "hess_floor"),
)

# And besides, where only some classes are on the device: `classes` counts those of all shards.
SHARD_INTEGERS = (
    *("part_max", "part_sum", "part_mass", "part_dot", "part_spread", "part_argmax"),
    *("label_logit", "row_mass", "parts", "part_classes", "classes_here", "class_offset"),
)

# Elements that a thread of the elementwise kernels takes, and 16-byte vectors that one of the
# module `scaling` takes, one block's width apart: so many loads are under way at once.
ELEMENTS_A_THREAD = 4
SCALED_VECTORS_A_THREAD = 4


class ShardVariant(NamedTuple):
    """Module `shard`: rows of which only some classes are here.

    Attributes
    ----------
    step : {"partial", "merge", "backward"}
    formula : Variant
        Its task is "loss", and "backward" of that step.
    """

    step: str
    formula: Variant


class LabelsVariant(NamedTuple):
    """Module `labels`: the first bad label, the rows that count, and their mass.

    Attributes
    ----------
    step : {"chunks", "finish"}
        A block for each `contract.LABEL_CHUNK` labels, then one that adds up what those found.
        Of one chunk the partial results are the results.
    label : str
        How labels are stored, one of the integers among `contract.KINDS`.
    class_mass, row_mass : str
        Kinds of the factors of classes and of rows; "" where there are none.
    """

    step: str = "chunks"
    label: str = "int64"
    class_mass: str = ""
    row_mass: str = ""


class SumsVariant(NamedTuple):
    """Module `sums`: one block adds up partial sums and divides.

    Attributes
    ----------
    kind : {"float32", "float64"}
        Of the result.
    """

    kind: str = "float32"


class ClassFactorsVariant(NamedTuple):
    """Module `class_factors`: one block makes factors of classes from their weights.

    Attributes
    ----------
    weight : str
        Kind of the weights, any of `contract.KINDS`.
    compute : {"float32", "float64"}
        What `background_of` and `gain_of` are rounded to.
    """

    weight: str = "float32"
    compute: str = "float32"


class RowFactorsVariant(NamedTuple):
    """Module `row_factors`: the product of up to three factors of rows.

    Attributes
    ----------
    first, second, third : str
        Kind of each, any of `contract.KINDS`; "" for a number, the same for all rows.
    """

    first: str = ""
    second: str = ""
    third: str = ""


class ScalingVariant(NamedTuple):
    """Module `scaling`: a gradient times the upstream one.

    Attributes
    ----------
    kind : str
        How the gradient is stored, one of the first four of `contract.KINDS`.
    upstream : str
        Kind of the upstream gradient, any of `contract.KINDS`.
    form : {"number", "rows", "strided"}
        One number for a piece of memory without gaps (in place, a 1 is found before anything else
        is read); one a row for contiguous rows; or whatever strides the layout table has.
    """

    kind: str = "float32"
    upstream: str = "float32"
    form: str = "number"


class BinaryVariant(NamedTuple):
    """Module `binary`: elements that are each a choice of two.

    Attributes
    ----------
    kind : str
        How logits, gradient, probabilities and Hessian are stored.
    target : str
        How targets are stored, any of `contract.KINDS`.
    is_integer : bool
        Whether a target other than 0 and 1 is a bad one; booleans need no check.
    curvature : {"", "product", "distance"}
        Whether there is a Hessian or probabilities, and the kind of `HessRule`.
    form : {"dense", "strided"}
        All arrays side by side in the same order, or whatever strides the layout table has.
    """

    kind: str = "float32"
    target: str = "float32"
    is_integer: bool = False
    curvature: str = ""
    form: str = "dense"


class JacobianVariant(NamedTuple):
    """Module `jacobian`: the Jacobian of the softmax, or of its logarithm, times a gradient.

    Attributes
    ----------
    kind : str
        How all three arrays are stored.
    is_log : bool
    form : {"rows", "strided"}
        A block for each row of contiguous classes, or a thread for each row of any strides.
    """

    kind: str = "float32"
    is_log: bool = False
    form: str = "rows"


# Arguments of the kernels of each module: integers, then reals, all of them 8 bytes wide. Both
# steps of `labels` take the same. Strides count elements. Grids:
# labels        a block for each LABEL_CHUNK rows; "finish", sums and class_factors: one
# shard         rows * parts; "merge": rows / threads, so many partial sums of losses, too
# row_factors   rows / (threads * ELEMENTS_A_THREAD), rounded up as all of these
# scaling       "number": bytes / (threads * SCALED_VECTORS_A_THREAD * 16); else
#               elements / (threads * ELEMENTS_A_THREAD)
# binary        elements / (threads * ELEMENTS_A_THREAD): so many partial sums, too
# jacobian      rows; "strided": rows / threads
_ROW_ARGUMENTS = (ROW_INTEGERS, ROW_REALS)
ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("row", "tile", "two_pass", "strided"), _ROW_ARGUMENTS),
    "shard": ((*ROW_INTEGERS, *SHARD_INTEGERS), ROW_REALS),
    "labels": (
        (
            *("labels", "skip", "has_skip", "class_mass", "row_mass", "rows", "classes"),
            *("mass_partial", "live_partial", "bad_partial", "partials"),
            *("mass", "live", "bad_row"),  # float64 (1,), int64 (1,), int64 (1,): -1 for none
        ),
        (),
    ),
    "sums": (
        ("partial", "count", "denominator", "zero_when_empty", "bad_row", "total"),
        ("divisor",),
    ),
    "class_factors": (
        ("weight", "spike_of", "background_of", "background_total", "gain_of", "classes"),
        ("on_label", "share"),
    ),
    "row_factors": (
        (
            *("first", "first_stride", "second", "second_stride", "third", "third_stride"),
            *("row_scale", "rows"),
        ),
        ("first_number", "second_number", "third_number"),
    ),
    # layout, of "strided" only: `dims` sizes, then as many strides each of source, out, upstream
    "scaling": (
        (
            *("source", "out", "upstream", "upstream_stride"),
            *("elements", "classes", "dims", "layout"),
        ),
        (),
    ),
    # layout, of "strided" only: `dims` sizes, the last one that of neighbours, then as many strides
    # of each array up to hess, in this order. Where an array of factors is absent (0) its number
    # counts. partial: float64, losses of each block; bad_partial: float64, its count of bad targets
    "binary": (
        (
            *("logits", "target", "ones", "factor", "upstream", "loss", "grad", "proba", "hess"),
            *("partial", "bad_partial", "elements", "dims", "layout"),
        ),
        (
            *("ones_number", "factor_number", "upstream_number", "gain", "background"),
            *("hess_factor", "hess_floor"),
        ),
    ),
    # layout, of "strided" only: four sizes of the leading dimensions, then for each array four
    # strides and that of the classes
    "jacobian": (
        (
            *("first", "first_pitch", "grad", "grad_pitch", "out", "out_pitch"),
            *("rows", "classes", "layout"),
        ),
        (),
    ),
}
