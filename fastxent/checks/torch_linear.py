"""What the loss behind a linear layer refuses of PyTorch's arguments."""

from __future__ import annotations

from typing import Any

from fastxent.checks.reading import shown
from fastxent.errors import DTypeError, OptionError, ShapeError

__all__ = [
    "check_accumulation",
    "check_chunk_rows",
    "check_linear_floats",
    "check_linear_options",
    "check_linear_shapes",
    "check_no_ignored_probabilities",
    "check_one_chunk_size",
]


def check_linear_floats(is_floating: bool, dtype: str, name: str) -> None:
    """Numbers that a matrix product takes."""
    if not is_floating:
        raise DTypeError(
            f"{name} has dtype {dtype}, which has no matrix product here: pass float16, bfloat16, "
            "float32 or float64"
        )


def check_linear_shapes(
    hidden: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    """Rows of features, a matrix with as many columns, and an entry of the bias for each row."""
    if len(hidden) not in (1, 2):
        raise ShapeError(
            f"input needs shape (D,) or (N, D), got {shown(hidden)}: pass input.flatten(0, -2), "
            "and the target flattened likewise"
        )
    if len(weight) < 2:
        raise ShapeError(
            f"linear_weight needs shape (C, D) or (C, d1, ..., D), got {shown(weight)}"
        )
    if hidden[-1] != weight[-1]:
        message = (
            f"input of {shown(hidden)} has {hidden[-1]} features and linear_weight of "
            f"{shown(weight)} has {weight[-1]}"
        )
        if len(weight) == 2 and weight[0] == hidden[-1]:
            message += ": if its columns are the classes, pass linear_weight.T"
        raise ShapeError(message)
    if 0 in weight[:-1]:
        raise ShapeError(f"linear_weight of {shown(weight)} has no class")
    if len(weight) > 2 and len(hidden) == 1:
        raise ShapeError(
            f"linear_weight of {shown(weight)} gives each row more than one loss and needs input "
            f"of shape (N, {hidden[-1]}), got {shown(hidden)}: pass input.unsqueeze(0)"
        )
    if bias is not None and bias != weight[:-1]:
        raise ShapeError(
            f"linear_bias needs shape {shown(weight[:-1])}, one number for each row of "
            f"linear_weight; it has {shown(bias)}"
        )


def check_no_ignored_probabilities(ignore_index: Any) -> None:
    """No label to leave out where there are no labels; a number that is left out by default."""
    if ignore_index is not None:
        raise OptionError(
            f"ignore_index = {ignore_index!r} was given with probability targets, which have no "
            "labels to compare it with: leave it out"
        )


def check_linear_options(is_known: bool, value: Any) -> None:
    """PyTorch's own object, or None."""
    if not is_known:
        raise DTypeError(
            "options must be a torch.nn.LinearCrossEntropyOptions or None, got "
            f"{type(value).__name__}"
        )


def check_accumulation(is_ours: bool, asked: str, computed: str) -> None:
    """The dtype of sums is not a choice."""
    if not is_ours:
        raise OptionError(
            f"options.acc_dtype = {asked} cannot be had: these tensors are computed with and "
            f"summed in {computed}; leave acc_dtype out, or pass {computed}"
        )


def check_one_chunk_size(given: int, method: str, chosen: int) -> None:
    """The number of rows that was given, and the one that a method gives."""
    if given != chosen:
        raise OptionError(
            f"options.batch_chunk_size = {given} and options.chunking_method = {method!r}, which "
            f"gives {chosen} rows here: pass one of them"
        )


def check_chunk_rows(rows: int, needed: int, budget: Any) -> None:
    """Rows that were asked for, within the memory that was asked for."""
    if budget is not None and needed > budget:
        raise OptionError(
            f"options ask for chunks of {rows} rows, which need {needed} bytes, and memory_budget "
            f"allows {budget!r}: leave one of them out"
        )
