"""What is measured: shapes, labels and dtypes, and the arrays made from them."""

from __future__ import annotations

import functools
import zlib
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastxent.precision import Array

__all__ = ["SHAPES", "SOFT_SHAPES", "Arrays", "Workload", "arrays"]

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

# Of the logits' size: logits, outputs, and what the others copy and leave behind. At 2048 x 32000
# the peak was 8.8 with class indices and 9.8 with probabilities, beyond what the frameworks take.
ARRAYS_AT_ONCE, SOFT_ARRAYS = 9, 1

LINE = 64  # bytes of a line of the cache

OUTLIERS = 100  # one logit in so many is an outlier


@dataclass(frozen=True)
class Workload:
    """One loss with its gradient: the mean over `rows` of `classes` logits.

    Attributes
    ----------
    labels : {"hard", "soft"}
        Class indices (int64), or probabilities in the dtype of the logits.
    dtype : {"float32", "float64"}
    threads : int
        CPUs that everybody may use.
    """

    rows: int
    classes: int
    labels: str = "hard"
    dtype: str = "float32"
    threads: int = 1

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.shape_text} {self.dtype} {self.labels}, {threads}"

    @property
    def shape_text(self) -> str:
        """The shape as a person writes it."""
        return f"{self.rows} x {self.classes}"

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.rows * self.classes

    @property
    def bytes_of_logits(self) -> int:
        """Size of the logits, and so of the gradient."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def counted_bytes(self) -> int:
        """One read of the logits, of soft labels one too, and one write of the gradient."""
        return self.bytes_of_logits * (3 if self.labels == "soft" else 2)

    @property
    def needed_bytes(self) -> int:
        """Memory that all arrays take which exist at once while everybody is measured."""
        arrays_at_once = ARRAYS_AT_ONCE + (SOFT_ARRAYS if self.labels == "soft" else 0)
        return arrays_at_once * self.bytes_of_logits

    def as_dict(self) -> dict[str, Any]:
        """Give the fields, for JSON."""
        return asdict(self)

    def resized(self, rows: int, classes: int) -> Workload:
        """Give the same workload with another shape."""
        return replace(self, rows=rows, classes=classes)


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


@functools.lru_cache(maxsize=1)
def arrays(workload: Workload) -> Arrays:
    """Give the arrays of a workload: the same ones for every peer, and in every run."""
    seed = zlib.crc32(f"{workload.shape_text} {workload.labels}".encode())
    rng = np.random.default_rng(seed)
    shape = (workload.rows, workload.classes)
    logits: Array = rng.standard_normal(shape, np.float32)
    # Without outliers every probability of a long row is next to nothing, and so is the gradient.
    logits.ravel()[rng.integers(0, logits.size, 1 + logits.size // OUTLIERS)] *= 20
    logits = aligned(logits.astype(workload.dtype, copy=False))
    if workload.labels == "hard":
        return Arrays(logits, rng.integers(0, workload.classes, workload.rows))
    mass = rng.random(shape, np.float32).astype(workload.dtype, copy=False)
    mass /= mass.sum(axis=1, keepdims=True)
    return Arrays(logits, aligned(mass))
