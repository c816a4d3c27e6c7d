"""What only callers with chunked arrays can get wrong."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from fastxent.checks.reading import shown
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError
from fastxent.precision import Array

__all__ = [
    "check_chunks_are_known",
    "check_no_target_grad",
    "check_shape_of_rows",
    "raise_bad_label_of_block",
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


def check_no_target_grad(asked: tuple[str, ...], split: bool) -> None:
    """Side outputs that need a whole row of probabilities beside the gradient."""
    needed = {"target_grad", "correct"} if split else set()
    for name in asked:
        if name in needed:
            raise OptionError(f"aux names {name!r}, which needs whole rows: rechunk the classes")


def raise_bad_label_of_block(
    target: Array,
    place: tuple[int, ...],
    start: tuple[int, ...],
    num_classes: int,
    skip: int | None,
) -> NoReturn:
    """Name the first bad label of a block by its place in the whole array."""
    whole = ", ".join(str(at + first) for at, first in zip(place, start, strict=True))
    ignored = "" if skip is None else f" and is not ignore_index = {skip}"
    raise LabelError(
        f"target[{whole}] is {target[place]}: it lies outside [0, {num_classes}) for C = "
        f"{num_classes} classes{ignored}"
    )
