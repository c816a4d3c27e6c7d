"""A call: what it reads and writes is opened and checked, then its rows go through in windows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import numpy as np

from fastxent import checks
from fastxent.backends import pick
from fastxent.backends.contract import Backend, Outputs
from fastxent.checks.on_disk import (
    check_is_no_folder,
    check_is_no_input,
    check_no_whole_rows_asked,
    check_progress,
    check_result_dtype,
    check_result_place,
)
from fastxent.checks.reading import as_array
from fastxent.layout import stand_in
from fastxent.on_disk.arrays import ArrayWindows, Source, file_of, source_of
from fastxent.on_disk.files import NewFile, NpyFile
from fastxent.on_disk.progress import Bar
from fastxent.on_disk.rows import Gradient, Windows, bytes_of_row
from fastxent.on_disk.windows import Window
from fastxent.options import Options
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.side_outputs import loss_and_aux

__all__ = ["MEMORY_BUDGET", "computed"]

# Bytes of a window, where the caller names none. The loss of a cached file of 256 MB took 60 to
# 65 ms of a CPU with windows of 1 to 64 MB, and 81 with one of 256 MB; disks like large reads.
MEMORY_BUDGET = 64_000_000


class Inputs(NamedTuple):
    """What is read.

    Attributes
    ----------
    logits : Source
    target : array
        Class indices; zeros of their shape, which take no memory, for probabilities.
    soft : Source or None
        The probabilities.
    """

    logits: Source
    target: Array
    soft: Source | None


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_stored(value: Any) -> bool:
    """Whether this is no array in memory: a path, a mapped file, a dataset."""
    if _is_path(value) or isinstance(value, np.memmap):
        return True
    is_sliced = all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))
    shows_memory = hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__")
    return is_sliced and not shows_memory


def _inputs(logits: Any, target: Any, in_place: bool, opened: ExitStack) -> Inputs:
    source = source_of(logits, "logits", may_write=in_place)
    opened.callback(source.close)
    checks.check_logits(stand_in(source))
    if not _is_stored(target):
        given = as_array(target, "target")
        if given.dtype.kind in "iu":
            return Inputs(source, given, None)
        return Inputs(source, stand_in(given), ArrayWindows(given))
    stored = source_of(target, "target")
    opened.callback(stored.close)
    if stored.dtype.kind not in "iu":
        return Inputs(source, stand_in(stored), stored)
    whole = tuple(slice(0, size) for size in stored.shape)
    if isinstance(stored, NpyFile):
        size = math.prod(stored.shape)
        memory = np.empty(size * stored.dtype.itemsize, np.uint8)
        return Inputs(source, stored.read(Window(slice(0, size), whole), memory), None)
    return Inputs(source, np.asarray(target[whole]), None)


def _is_same(out: Any, logits: Any) -> bool:
    """Whether both are the same path, or the same array."""
    if _is_path(out) or _is_path(logits):
        return _is_path(out) and _is_path(logits) and os.fspath(out) == os.fspath(logits)
    if out is logits or isinstance(out, np.ndarray) or type(out) is not type(logits):
        return out is logits
    # h5py makes a new object each time a dataset is looked up, and compares what they stand for
    return (out == logits) is True


def _check_place(out: Any, logits: Any, target: Any, stored: Any, problem: Problem) -> None:
    """All that can be wrong with where the gradient goes; `stored` is the dtype of the logits."""
    shape, dtype = problem.given.shape, problem.precision.storage
    is_same = _is_same(out, logits)
    if is_same:
        check_result_dtype(stored, dtype)
    elif _is_path(out):
        check_is_no_folder(os.fspath(out))
    else:
        check_result_place(out, shape, dtype)
    if isinstance(out, np.ndarray):
        arrays = {"logits": logits, "target": target}
        others: dict[str, Array | None] = {
            name: x for name, x in arrays.items() if isinstance(x, np.ndarray)
        }
        mapped = logits if others.pop("logits", None) is not None else problem.given
        checks.check_out(out, mapped, others, shape, dtype)
    inputs = {"target": file_of(target)}
    if not is_same:
        inputs["logits"] = file_of(logits)
    check_is_no_input(file_of(out), inputs)


@contextmanager
def _place(out: Any, logits: Source, in_place: bool, dtype: np.dtype[Any]) -> Iterator[Any]:
    """Where windows of the gradient are written; a new file stays only if all goes well."""
    if in_place:
        yield logits
    elif not _is_path(out):
        yield ArrayWindows(out)
    else:
        is_fortran = isinstance(logits, NpyFile) and logits.is_fortran
        new = NewFile(os.fspath(out), logits.shape, dtype, is_fortran)
        try:
            yield new
        except BaseException:
            new.abandon()
            raise
        new.complete()


def computed(
    logits: Any,
    target: Any,
    options: Options,
    backend: str | None,
    num_threads: int | None,
    memory_budget: float | None,
    progress: bool | None,
    grad_output: Any = None,
    out: Any = None,
    wants_grad: bool = False,
) -> Any:
    """Loss, and what else was asked for, of rows that are read a window at a time."""
    with ExitStack() as opened:
        in_place = wants_grad and _is_same(out, logits)
        inputs = _inputs(logits, target, in_place, opened)
        shown = stand_in(inputs.logits)
        problem = Problem.of_options(shown, inputs.target, options, num_threads, grad_output)
        check_no_whole_rows_asked(problem.asked, problem.target is not None)
        row = bytes_of_row(inputs.logits, inputs.soft, problem.classes)
        budget = max(MEMORY_BUDGET, row)
        if memory_budget is not None:
            budget = checks.check_memory_budget(memory_budget, row)
        most_rows = budget // row
        wanted = check_progress(progress)
        if wants_grad:
            _check_place(out, logits, target, inputs.logits.dtype, problem)
        chosen = pick(backend, problem)
        problem = problem.with_labels(chosen)

        # the log_prob of probabilities with factors takes a pass of its own
        passes = 2 if "log_prob" in problem.aux and inputs.soft and not problem.is_bare else 1
        into, outputs = None, Outputs()
        if wants_grad:
            into = opened.enter_context(
                _place(out, inputs.logits, in_place, problem.precision.storage)
            )
            place = Gradient(into, shown.shape, problem.axis, most_rows)
            outputs.grad = cast("Array", place)
        bar = opened.enter_context(Bar(passes * shown.nbytes, wanted))
        windows = Windows(chosen, inputs.logits, inputs.soft, into, most_rows, num_threads, bar)
        loss, aux = loss_and_aux(problem, cast("Backend", windows), outputs)
    results = (loss,) if not wants_grad else (loss, out)
    if aux is not None:
        return (*results, aux)
    return results if wants_grad else loss
