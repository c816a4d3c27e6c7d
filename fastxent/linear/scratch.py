"""What a backend's verbs hold of their own, an upper bound in bytes: for a memory budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["scratch_of_columns", "scratch_of_thread"]

# Compiled backends have up to four rows' copies a thread, of groups of rows that are short; for
# few classes two tiles of 64 bytes a class in as many copies.
_COPIES = 4
_GROUP_CLASSES = 1 << 12
_TILE_BYTES = 1 << 17

# The NumPy backend takes groups of so many elements, or a row, with temporaries of their size.
_NUMPY_GROUP = 1 << 18
_NUMPY_COPIES = 8


def scratch_of_thread(backend_name: str, problem: Problem) -> int:
    """Bytes for each thread, logits lying row by row."""
    item = problem.precision.compute.itemsize
    if backend_name == "numpy":
        group = max(problem.classes, min(_NUMPY_GROUP, problem.rows * problem.classes))
        return _NUMPY_COPIES * group * item
    sums = 1024 + problem.classes // 16
    if not _copies(problem):
        return sums
    return sums + max(_TILE_BYTES, _COPIES * item * max(problem.classes, _GROUP_CLASSES))


def scratch_of_columns(backend_name: str, problem: Problem) -> int:
    """Bytes for each thread, logits lying class by class: a tile of 16 or 8 rows."""
    if backend_name == "numpy":
        return scratch_of_thread(backend_name, problem)
    keeps = {"entropy", "target_grad", "argmax", "correct"}.intersection(problem.asked)
    copies = 2 + bool(keeps or problem.softcap is not None) + (problem.soft is not None)
    return scratch_of_thread(backend_name, problem) + copies * 64 * problem.classes


def _copies(problem: Problem) -> bool:
    """Whether a thread computes in memory of its own, and not where the logits are."""
    return (
        problem.classes <= 128
        or problem.softcap is not None
        or problem.logit_scale != 1.0
        or problem.soft is not None
        or bool({"entropy", "target_grad"}.intersection(problem.asked))
    )
