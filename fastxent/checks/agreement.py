"""What the ranks of a group must agree on before they exchange numbers.

Every rank sees the same descriptors and so raises, or every rank goes on: none is left waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from fastxent import errors
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError

__all__ = [
    "check_some_classes",
    "check_the_same",
    "raise_bad_labels_elsewhere",
    "raise_refused_elsewhere",
]

# Ranks that a message names one by one.
_NAMED = 4


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) <= _NAMED:
        *first, last = map(str, ranks)
        return f"ranks {', '.join(first)} and {last}"
    first = [str(rank) for rank in ranks[:_NAMED]]
    return f"ranks {', '.join(first)} and {len(ranks) - _NAMED} more"


def check_the_same(name: str, values: Sequence[str]) -> None:
    """One value of an argument on all ranks; `values` has what each rank was given, as text."""
    counts = Counter(values)
    if len(counts) == 1:
        return
    # of equally many the value of the first rank is what the others differ from
    usual = max(counts, key=lambda value: (counts[value], -values.index(value)))
    told = []
    for value in dict.fromkeys(values):
        if value != usual:
            who = [rank for rank, given in enumerate(values) if given == value]
            told.append(f"{value} on {_ranks(who)}")
    usually = [rank for rank, given in enumerate(values) if given == usual]
    message = (
        f"{name} is {', '.join(told)}, and {usual} on {_ranks(usually)}: every rank of the group "
        "must give the same, and logits of the same rows"
    )
    kinds = {"the shape of the rows": ShapeError, "the dtype of the logits": DTypeError}
    raise kinds.get(name, OptionError)(message)


def check_some_classes(num_classes: int, ranks: int) -> None:
    """At least one class on all ranks together."""
    if num_classes == 0:
        raise ShapeError(
            f"the logits have no classes on any of the {ranks} ranks: expected shards of at least "
            "one class together"
        )


def raise_refused_elsewhere(rank: int, kind: str, message: str) -> NoReturn:
    """Stop because another rank has refused its arguments; with an error of the same class."""
    error = getattr(errors, kind, None) if kind in errors.__all__ else None
    raise (error or OptionError)(
        f"rank {rank} of the group stopped before the first exchange, so this rank stops too: "
        f"{kind}: {message}"
    )


def raise_bad_labels_elsewhere(rank: int, label: int, num_classes: int) -> NoReturn:
    """Stop because another rank has a label outside of all classes."""
    raise LabelError(
        f"rank {rank} of the group was given the label {label}, outside [0, {num_classes}) for "
        f"C = {num_classes} classes on all ranks, so this rank stops too: labels count the "
        "classes of all ranks, from the first class of rank 0"
    )
