"""What only callers with arrays in files can get wrong."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from fastxent.checks.reading import integer, shown
from fastxent.errors import DTypeError, OptionError, OutputError, ShapeError

__all__ = [
    "check_file_is_whole",
    "check_is_no_folder",
    "check_is_no_input",
    "check_no_whole_rows_asked",
    "check_progress",
    "check_result_dtype",
    "check_result_place",
    "raise_no_bar",
    "raise_not_npy",
    "raise_not_readable",
]

_PLACES = "the path of a .npy file, a numpy.memmap, or an array with shape, dtype and slices"


def raise_not_npy(path: str, reason: object) -> NoReturn:
    """Report a file that is no array."""
    raise DTypeError(
        f"{path} cannot be read as a .npy file of numbers ({reason}): numpy.save makes one"
    )


def raise_not_readable(value: Any, name: str) -> NoReturn:
    """Report what is neither a file nor an array."""
    raise DTypeError(f"{name} must be {_PLACES}; got {type(value).__name__}")


def check_file_is_whole(path: str, size: int, needed: int, shape: tuple[int, ...]) -> None:
    """A file holds as many bytes as its header promises."""
    if size < needed:
        raise ShapeError(
            f"{path} has {size:,} bytes, and its header promises {needed:,} for {shown(shape)}: "
            "it is cut off, perhaps not written to the end"
        )


def check_progress(value: Any) -> bool | None:
    """True, False, or None for a bar where it helps."""
    if value is None:
        return None
    if integer(value, "progress") not in (0, 1):
        raise OptionError(f"progress must be True, False or None, got {value!r}")
    return bool(value)


def raise_no_bar(error: ImportError) -> NoReturn:
    """Report that the bar that was asked for cannot be drawn."""
    raise ImportError(
        "progress=True needs rich, which is not installed: pip install rich"
    ) from error


def check_no_whole_rows_asked(asked: tuple[str, ...], hard: bool) -> None:
    """Side outputs that are as large as the logits, or need the targets beside them."""
    for name in asked:
        if name == "target_grad" or (name == "correct" and not hard):
            raise OptionError(
                f"aux names {name!r}, which fastxent.on_disk does not give for probabilities: "
                "leave it out"
            )


def _same_file(first: str | None, second: str | None) -> bool:
    if first is None or second is None:
        return False
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def check_is_no_folder(out: str) -> None:
    """A path that a file can get."""
    if os.path.isdir(out):
        raise OutputError(f"out is the directory {out}: give the path of a file in it")


def check_is_no_input(out: str | None, inputs: dict[str, str | None]) -> None:
    """The file of the gradient is not that of an input under another name."""
    for name, file in inputs.items():
        if _same_file(out, file):
            cure = " pass out=logits to write over them, or" if name == "logits" else ""
            raise OutputError(f"out is the file of {name}:{cure} give another file")


def check_result_place(out: Any, shape: tuple[int, ...], dtype: Any, name: str = "out") -> None:
    """An array that a gradient of this shape and dtype can be written to."""
    if not (hasattr(out, "shape") and hasattr(out, "dtype") and hasattr(out, "__setitem__")):
        raise DTypeError(
            f"{name} must be {_PLACES} that can be written to, got {type(out).__name__}"
        )
    if tuple(out.shape) != shape:
        raise ShapeError(f"{name} needs {shown(shape)}; it has {shown(tuple(out.shape))}")
    check_result_dtype(out.dtype, dtype, name)


def check_result_dtype(given: Any, dtype: Any, name: str = "out") -> None:
    """The dtype that the gradient has."""
    if given != dtype:
        raise DTypeError(f"{name} needs dtype {dtype} in native byte order, not {given}")
