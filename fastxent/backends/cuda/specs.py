"""What a kernel is compiled for: light tuples that name it, in memory and on disk."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "ROW_INTEGERS",
    "ROW_REALS",
    "KernelSpec",
    "LoopGeometry",
    "RowGeometry",
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
        Whether every row of logits and gradient begins at a multiple of 16 bytes.
    min_blocks : int
        Blocks that a multiprocessor must have registers for.
    """

    threads: int
    rows: int
    vectors: int
    cluster: int = 1
    aligned: bool = True
    min_blocks: int = 1


class TileGeometry(NamedTuple):
    """A block moves `rows` whole rows of few classes as one piece of memory; a thread a row."""

    classes: int
    rows: int
    aligned: bool = True


class LoopGeometry(NamedTuple):
    """A block walks along one row, or each of its threads along its own."""

    threads: int
    aligned: bool = True


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
