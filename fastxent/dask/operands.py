"""What can be known of a call before anything is computed: shapes, dtypes, options."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from fastxent import checks
from fastxent.backends import pick
from fastxent.checks.dask import (
    check_aux_of_split,
    check_chunks_are_known,
    check_shape_of_rows,
    raise_lazy,
    raise_not_chunked,
)
from fastxent.dask.blocks import Settings
from fastxent.layout import stand_in
from fastxent.options import Options
from fastxent.precision import Precision, precision_of
from fastxent.problem import ASIDES
from fastxent.reduction import REDUCTIONS, WHEN_ALL_IGNORED

__all__ = ["Operands", "backend_of", "chunked_logits", "operands_of", "threads_of_block"]

# What a call may be given as a dask array besides logits and target.
_LAZY = ("sample_weight", "normalizer")


class Operands(NamedTuple):
    """The arrays of a call, in blocks of the same rows, and what is fixed.

    Attributes
    ----------
    logits : dask array
    target : dask array
        Class indices in the rows' blocks, or probabilities in the logits' blocks.
    sample_weight : dask array in the rows' blocks, or None
    grad_output : number, dask array in the rows' blocks, or None
    normalizer : number, dask array without dimensions, or None
    axis : int
    precision : Precision
    hard : bool
    asked : tuple of str
    settings : Settings
    """

    logits: Any
    target: Any
    sample_weight: Any
    grad_output: Any
    normalizer: Any
    axis: int
    precision: Precision
    hard: bool
    asked: tuple[str, ...]
    settings: Settings

    @property
    def row_axes(self) -> tuple[int, ...]:
        """Axes of the logits but for that of the classes: indices, as dask's blockwise has them."""
        return tuple(at for at in range(self.logits.ndim) if at != self.axis)

    @property
    def all_axes(self) -> tuple[int, ...]:
        """Axes of the logits."""
        return tuple(range(self.logits.ndim))

    @property
    def row_chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the blocks of rows."""
        return tuple(self.logits.chunks[at] for at in self.row_axes)


def chunked_logits(value: Any, name: str, axis: Any, in_memory: str) -> tuple[Any, int]:
    """A dask array of a dtype that is computed with, and where its classes are."""
    if not isinstance(value, da.Array):
        raise_not_chunked(value, name, in_memory)
    check_chunks_are_known(value, name)
    shaped = checks.check_logits(stand_in(value), name)
    axis = checks.check_axis(axis, shaped, name)
    return value, axis


def backend_of(name: Any, verb: str | None = None) -> str:
    """Name of the backend of all blocks: of `use_backend` here, not where blocks are computed."""
    return pick(name, verb=verb).name


def threads_of_block(value: Any) -> int | None:
    """Threads of a block; None for as many as a call in memory takes."""
    return None if value is None else checks.check_num_threads(value)


def _in_blocks(value: Any, name: str, chunks: tuple[tuple[int, ...], ...]) -> Any:
    """The same numbers in these blocks; what is in memory is cut, and put into the graph."""
    if isinstance(value, da.Array):
        check_chunks_are_known(value, name)
        return value if value.chunks == chunks else value.rechunk(chunks)
    return da.from_array(value, chunks=chunks)


def operands_of(
    logits: Any,
    target: Any,
    options: Options,
    backend: str | None,
    num_threads: Any,
    grad_output: Any = None,
    wants_grad: bool = False,
) -> Operands:
    """Check what can be checked without computing, and bring all arrays into the same blocks."""
    for name, value in options._asdict().items():
        if isinstance(value, da.Array) and name not in _LAZY:
            raise_lazy(name)
    in_memory = f"fastxent.cross_entropy{'_and_grad' if wants_grad else ''}"
    logits, axis = chunked_logits(logits, "logits", options.axis, in_memory)
    precision = precision_of(logits.dtype)
    assert precision is not None  # check_logits has passed
    shaped, num_classes = stand_in(logits), logits.shape[axis]
    rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    row_chunks = logits.chunks[:axis] + logits.chunks[axis + 1 :]

    if not isinstance(target, da.Array):
        target, hard = checks.check_target(target, shaped, axis)
    else:
        check_chunks_are_known(target, "target")
        _, hard = checks.check_target(stand_in(target), shaped, axis)
    checks.check_ignore_index(options.ignore_index, hard)
    checks.check_weight(options.weight, num_classes, precision.compute)
    checks.check_label_smoothing(options.label_smoothing)
    kind = checks.check_choice(options.reduction, "reduction", REDUCTIONS)
    checks.check_z_loss(options.z_loss)
    scale = checks.check_logit_scale(options.logit_scale, precision.compute)
    checks.check_softcap(options.softcap, scale, precision.compute)
    checks.check_choice(options.all_ignored, "all_ignored", WHEN_ALL_IGNORED)
    asked = checks.check_aux(options.aux, ASIDES, hard)
    if logits.numblocks[axis] > 1:
        check_aux_of_split(asked, hard, axis)
    normalizer = _normalizer(options.normalizer, kind)
    sample_weight = _of_rows(options.sample_weight, "sample_weight", rows_shape, row_chunks)
    plain = options._replace(sample_weight=None, normalizer=None, axis=axis, aux=asked)
    verb = "partial" if logits.numblocks[axis] > 1 else None
    return Operands(
        logits=logits,
        target=_in_blocks(target, "target", row_chunks if hard else logits.chunks),
        sample_weight=sample_weight,
        grad_output=_of_rows(grad_output, "grad_output", rows_shape, row_chunks),
        normalizer=normalizer,
        axis=axis,
        precision=precision,
        hard=hard,
        asked=asked,
        settings=Settings(
            plain, backend_of(backend, verb), threads_of_block(num_threads), wants_grad
        ),
    )


def _normalizer(value: Any, kind: str) -> Any:
    """A number that is checked now, or one that is checked when it is computed."""
    if not isinstance(value, da.Array):
        return checks.check_normalizer(value, kind)
    check_shape_of_rows(value, "normalizer", ())
    checks.check_normalizer(1.0, kind)
    return value


def _of_rows(
    value: Any, name: str, rows_shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...]
) -> Any:
    """One value a row, in blocks; a number as it is."""
    if value is None:
        return None
    if not isinstance(value, da.Array):
        check = checks.check_grad_output if name == "grad_output" else checks.check_sample_weight
        checked = check(value, rows_shape)
        if not isinstance(checked, np.ndarray):
            return checked
        value = checked.reshape(rows_shape)
    elif name == "grad_output" and value.ndim == 0:
        return value
    check_shape_of_rows(value, name, rows_shape)
    return _in_blocks(value, name, chunks)
