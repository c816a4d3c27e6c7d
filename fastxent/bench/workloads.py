"""What is measured: operations, shapes, labels, dtypes and options, and the arrays made of them."""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from fastxent.precision import Array

__all__ = [
    "BINARY_ELEMENTS",
    "CLASS_AXIS_SHAPES",
    "HALF_SHAPES",
    "HALVES",
    "OPTIONS",
    "OPTIONS_SHAPE",
    "SHAPES",
    "SOFTMAX_SHAPES",
    "SOFT_SHAPES",
    "Arrays",
    "Workload",
    "aligned",
    "arrays",
    "class_axis_1",
    "dtype_of",
    "options_of",
]

# From a classifier's two classes to the vocabulary of a language model, and one row alone.
SHAPES = (
    (262_144, 2),
    (65_536, 10),
    (32_768, 100),
    (8_192, 1_000),
    (1_024, 32_000),
    (512, 50_257),
    (256, 128_256),
    (4, 262_144),
    (1, 1_048_576),
)
SOFT_SHAPES = ((8_192, 1_000), (1_024, 32_000), (256, 128_256))

HALVES = ("bfloat16", "float16")
HALF_SHAPES = ((1_024, 32_000), (256, 128_256))
# Segmentation of images, and the words of sentences.
CLASS_AXIS_SHAPES = ((8, 21, 512, 512), (32, 1_000, 64))
SOFTMAX_SHAPES = ((65_536, 10), (8_192, 1_000), (1_024, 32_000))
BINARY_ELEMENTS = 10_000_000

# Each is timed in the rounds of the plain call of this shape; `options_of` has their values.
OPTIONS_SHAPE = (1_024, 32_000)
OPTIONS = (
    "weight",
    "label_smoothing",
    "ignore_index",
    "z_loss",
    "logit_scale",
    "lse",
    "argmax",
    "softcap",
)

# Of the logits' size: logits, outputs, and what the others copy and leave behind. At 2048 x 32000
# the peak was 8.8 with class indices and 9.8 with probabilities, beyond what the frameworks take.
ARRAYS_AT_ONCE, SOFT_ARRAYS = 9, 1

LINE = 64  # bytes of a line of the cache

OUTLIERS = 100  # one logit in so many is an outlier


@dataclass(frozen=True)
class Workload:
    """One operation on `rows` of `classes` logits; by default the mean loss and its gradient.

    Attributes
    ----------
    labels : {"hard", "soft"}
        Class indices (int64), or probabilities in the dtype of the logits.
    dtype : {"float32", "float64", "float16", "bfloat16"}
    threads : int
        CPUs that everybody may use.
    operation : {"cross_entropy", "softmax", "log_softmax", "binary"}
        "binary": each row is one logit, and its label 0 or 1 in the dtype of the logits.
    shape : tuple of int
        Of the logits, if their classes are on axis 1; empty: a row after the other.
    option : str
        One of `OPTIONS`, or none.
    """

    rows: int
    classes: int
    labels: str = "hard"
    dtype: str = "float32"
    threads: int = 1
    operation: str = "cross_entropy"
    shape: tuple[int, ...] = ()
    option: str = ""

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        labels = self.labels if self.operation == "cross_entropy" else self.operation
        option = f", {self.option}" if self.option else ""
        return f"{self.shape_text} {self.dtype} {labels}{option}, {threads}"

    @property
    def shape_text(self) -> str:
        """The shape as a person writes it."""
        return " x ".join(str(length) for length in self.logits_shape)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the logits, and so of the gradient."""
        if self.operation == "binary":
            return (self.rows,)
        return self.shape or (self.rows, self.classes)

    @property
    def axis(self) -> int:
        """Where the classes are."""
        return 1 if self.shape else -1

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.rows * self.classes

    @property
    def bytes_of_logits(self) -> int:
        """Size of the logits, and so of the gradient."""
        return self.elements * dtype_of(self.dtype).itemsize

    @property
    def has_loss(self) -> bool:
        """Whether there is a target, and a loss."""
        return self.operation in ("cross_entropy", "binary")

    @property
    def reads_target(self) -> bool:
        """Whether there is a target of the logits' size."""
        soft = self.operation == "cross_entropy" and self.labels == "soft"
        return soft or self.operation == "binary"

    @property
    def arrays_counted(self) -> int:
        """One read of the logits, of a target of their size one too, and one write."""
        return 3 if self.reads_target else 2

    @property
    def counted_bytes(self) -> int:
        """Bytes that have to be read and written at least."""
        return self.bytes_of_logits * self.arrays_counted

    @property
    def needed_bytes(self) -> int:
        """Memory that all arrays take which exist at once while everybody is measured."""
        arrays_at_once = ARRAYS_AT_ONCE + (SOFT_ARRAYS if self.reads_target else 0)
        return arrays_at_once * self.bytes_of_logits

    def as_dict(self) -> dict[str, Any]:
        """Give the fields, for JSON; those of no interest to most only where they are not usual."""
        unusual = {"operation", "shape", "option"}
        usual = {field.name: field.default for field in fields(self) if field.name in unusual}
        return {k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Workload:
        """Read what `as_dict` gave, JSON's lists included."""
        return cls(**found | {"shape": tuple(found.get("shape", ()))})

    def resized(self, rows: int, classes: int) -> Workload:
        """Give the same workload with another shape."""
        return replace(self, rows=rows, classes=classes)

    def as_rows(self, array: Array) -> Array:
        """Give logits, or what has their shape, as rows of classes."""
        return np.moveaxis(array, self.axis, -1).reshape(self.rows, self.classes)


def class_axis_1(shape: tuple[int, ...], **kind: Any) -> Workload:
    """Give the workload of logits of this shape, whose classes are on axis 1."""
    return Workload(math.prod(shape) // shape[1], shape[1], shape=shape, **kind)


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(name)


def aligned(array: Array) -> Array:
    """Copy an array to where a line of the cache begins, as PyTorch's and JAX's arrays do.

    NumPy's large arrays begin 16 bytes after one, and then every load and store of 64 bytes takes
    two lines: 1024 x 32000 takes 7 % longer, 8192 x 1024 21 %.
    """
    room = np.empty(array.nbytes + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    placed = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


class Arrays(NamedTuple):
    """Logits and target of a workload; whoever runs on them leaves them as they are."""

    logits: Array
    target: Array


def arrays(workload: Workload) -> Arrays:
    """Give the arrays of a workload: the same ones for every peer, and in every run.

    Softmax has those of the loss, and whoever is timed with an option those of the plain call.
    """
    operation = "binary" if workload.operation == "binary" else "cross_entropy"
    return _arrays(replace(workload, threads=1, option="", operation=operation))


@functools.lru_cache(maxsize=2)  # half precision, and float32 beside it
def _arrays(workload: Workload) -> Arrays:
    seed = zlib.crc32(f"{workload.shape_text} {workload.labels}".encode())
    rng = np.random.default_rng(seed)
    shape, dtype = workload.logits_shape, dtype_of(workload.dtype)
    logits: Array = rng.standard_normal(shape, np.float32)
    # Without outliers every probability of a long row is next to nothing, and so is the gradient.
    logits.ravel()[rng.integers(0, logits.size, 1 + logits.size // OUTLIERS)] *= 20
    logits = aligned(logits.astype(dtype, copy=False))
    if workload.operation == "binary":
        return Arrays(logits, aligned(rng.integers(0, 2, shape).astype(dtype)))
    if workload.labels == "hard":
        rows = shape[:1] + shape[2:] if workload.shape else (workload.rows,)
        return Arrays(logits, rng.integers(0, workload.classes, rows))
    wide = np.float64 if dtype == np.float64 else np.float32
    mass: Array = rng.random(shape, np.float32).astype(wide, copy=False)
    mass /= mass.sum(axis=workload.axis, keepdims=True)
    return Arrays(logits, aligned(mass.astype(dtype, copy=False)))


def options_of(workload: Workload) -> dict[str, Any]:
    """Give the arguments of the public functions that a workload's option stands for."""
    name = workload.option
    if name in ("lse", "argmax"):
        return {"aux": (name,)}
    if name == "weight":
        rng = np.random.default_rng(0)
        return {"weight": rng.uniform(0.5, 1.5, workload.classes).astype(np.float32)}
    if name == "ignore_index":  # few rows have it: the others are what is timed
        return {"ignore_index": int(arrays(workload).target[0])}
    values = {"label_smoothing": 0.1, "z_loss": 1e-4, "logit_scale": 0.5, "softcap": 30.0}
    return {name: values[name]} if name else {}
