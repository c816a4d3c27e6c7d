"""What only callers with chunked arrays can get wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from fastxent.checks.reading import shown
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError
from fastxent.precision import Array

__all__ = [
    "check_aux_of_split",
    "check_chunks_are_known",
    "check_shape_of_rows",
    "labels_counted_from",
    "raise_lazy",
    "raise_not_chunked",
    "raise_split_classes",
]


def raise_not_chunked(value: Any, name: str, in_memory: str) -> NoReturn:
    """Report an array in memory where blocks are expected."""
    raise DTypeError(
        f"{name} must be a dask array, got {type(value).__name__}: call {in_memory} for an array "
        "in memory, or dask.array.from_array makes blocks of one"
    )


def check_chunks_are_known(array: Any, name: str) -> None:
    """Every block has a size, so that rows can be counted."""
    if any(math.isnan(size) for size in array.shape):
        raise ShapeError(
            f"{name} of shape {array.shape} has blocks of unknown size, and its rows cannot be "
            f"counted: call {name}.compute_chunk_sizes() first"
        )


def raise_split_classes(axis: int, blocks: int, name: str) -> NoReturn:
    """Report classes in several blocks where a row has to be whole."""
    raise ShapeError(
        f"the classes of {name}, axis {axis}, are split into {blocks} blocks, and this needs whole "
        f"rows: {name}.rechunk({{{axis}: -1}})"
    )


def raise_lazy(name: str) -> NoReturn:
    """Report an option that is looked at before anything is computed."""
    raise DTypeError(
        f"{name} is a dask array and its numbers are needed before anything is computed: pass "
        f"{name}.compute()"
    )


def check_shape_of_rows(value: Any, name: str, rows_shape: tuple[int, ...]) -> None:
    """One value a row, in an array whose values are looked at when they are computed."""
    if value.shape != rows_shape:
        raise ShapeError(
            f"{name} needs {shown(rows_shape)}, one value a row; it has {shown(value.shape)}"
        )


def check_aux_of_split(asked: tuple[str, ...], hard: bool, axis: int) -> None:
    """Side outputs that statistics of blocks of classes do not lead to."""
    for name in asked:
        if name == "target_grad" or (name == "correct" and not hard):
            raise OptionError(
                f"aux names {name!r}, which needs whole rows of probabilities, and their classes "
                f"are split into blocks: logits.rechunk({{{axis}: -1}})"
            )


@contextmanager
def labels_counted_from(
    target: Array, place: tuple[slice, ...], num_classes: int, skip: int | None
) -> Iterator[None]:
    """Name a bad label of a block by its place in the whole array."""
    try:
        yield
    except LabelError as error:
        bad = (target < 0) | (target >= num_classes)
        if skip is not None:
            bad &= target != skip
        found = np.unravel_index(int(bad.argmax()), target.shape)
        whole = [str(int(at) + along.start) for at, along in zip(found, place, strict=True)]
        named = f"target[{', '.join(whole)}]" if whole else "target"
        _, _, what = str(error).partition(" is ")
        raise LabelError(f"{named} is {what}") from None
