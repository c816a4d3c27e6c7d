"""Calls of the public functions that bytes describe: arrays and options of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.cases.layouts import LAYOUTS
from fastxent.cases.recipe import AUX, dtype_of, has_bfloat16

__all__ = [
    "JUNK",
    "Source",
    "class_place",
    "classes_of",
    "draw_array",
    "draw_logits",
    "draw_options",
    "draw_out",
    "draw_target",
    "pick_layout",
]

Array = NDArray[Any]

FLOATS = ("float32", "float64", "float16", ">f4", ">f8")
FOREIGN = ("int64", "uint8", "bool", "complex64", "longdouble", "object", "S3", "U2", "M8[s]")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", ">i4", ">i8")
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, -(2**70), 0.5, -0.5, 1.5, float("nan"), float("inf")),
    *(
        "mean",
        "",
        "none",
        (),
        (1,),
        [0.5, 2.0],
        b"x",
        object(),
        {},
        1j,
        np.float32(0.3),
        np.zeros(0),
    ),
)


class Source:
    """Choices from bytes; when they are used up, those of a generator that they seed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        seed = np.frombuffer(data[:64].ljust(4, b"\0"), np.uint8)
        self.numbers = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed.tolist())))

    def byte(self) -> int:
        """Give the next byte."""
        if self._at < len(self._data):
            self._at += 1
            return self._data[self._at - 1]
        return int(self.numbers.integers(256))

    def below(self, most: int) -> int:
        """Give a number below `most`, which is at most 256."""
        return self.byte() % most

    def chance(self, of: int) -> bool:
        """Say yes once in so many times."""
        return self.byte() % of == 0

    def one_of(self, choices: Sequence[Any]) -> Any:
        """Give one of some things."""
        return choices[self.byte() % len(choices)]


def class_place(shape: tuple[int, ...], axis: Any) -> int:
    """Where the classes are; along the last axis where `axis` is none of these."""
    return axis if isinstance(axis, int) and -len(shape) <= axis < len(shape) else -1


def classes_of(logits: Any, axis: Any) -> int:
    """How many classes logits have; numbers without dimensions have one."""
    shape = np.shape(logits)
    return shape[class_place(shape, axis)] if shape else 1


def draw_shape(source: Source) -> tuple[int, ...]:
    """One to four dimensions, few or no elements in each; now and then more than a block."""
    if source.chance(24):
        return (source.below(3), source.one_of((99, 100, 101, 1023, 1024, 1025, 2049)))
    dims = source.one_of((2, 2, 2, 1, 3, 4, 0))
    return tuple(0 if source.chance(24) else 1 + source.below(9) for _ in range(dims))


def _filled(source: Source, shape: tuple[int, ...], dtype: np.dtype[Any], wild: bool) -> Array:
    count = int(np.prod(shape))
    if wild and dtype.kind in "fV":  # any bits: NaN payloads, subnormals, the largest numbers
        bits = source.numbers.bytes(count * dtype.itemsize)
        return np.frombuffer(bits, dtype).reshape(shape).copy()
    numbers = np.asarray(source.numbers.standard_normal(shape) * source.one_of((0.01, 1.0, 6.0)))
    if source.chance(4):
        numbers[source.numbers.random(shape) < 0.1] = source.one_of((-np.inf, np.inf, np.nan))
    with np.errstate(all="ignore"):
        return np.asarray(numbers.astype(dtype))


def pick_layout(source: Source, array: Array, class_axis: int | None) -> Array:
    """The numbers of an array in another place: any layout, strides of no whole element too."""
    if array.ndim == 0 or not source.chance(2):
        return array
    if array.dtype.kind in "fiu" and source.chance(6):  # between other fields
        pair = np.zeros(array.shape, [("odd", "u1"), ("number", array.dtype), ("more", "u1", 2)])
        pair["number"] = array
        return pair["number"]
    name = source.one_of(tuple(LAYOUTS))
    if array.dtype.kind not in "fiu" and name in ("stepped", "padded", "unaligned"):
        return array
    has_classes = class_axis is not None and class_axis < array.ndim
    return LAYOUTS[name](array, class_axis if has_classes else None)


def draw_array(source: Source, shape: tuple[int, ...], kinds: Sequence[str], wild: bool) -> Any:
    """An array of one of some dtypes; now and then a list, or no array at all."""
    name = source.one_of(kinds)
    if source.chance(60):
        return source.one_of(JUNK)
    if source.chance(40):
        name = source.one_of(FOREIGN)
    dtype = np.dtype(name) if name != "bfloat16" else dtype_of(name)
    try:
        array = _filled(source, shape, dtype, wild)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(shape, dtype)
    return array.tolist() if source.chance(30) else array


def draw_logits(source: Source) -> tuple[Any, bool]:
    """Logits, and whether their bits are arbitrary."""
    wild = source.chance(4)
    kinds = (*FLOATS, "bfloat16") if has_bfloat16() else FLOATS
    logits = draw_array(source, draw_shape(source), kinds, wild)
    if isinstance(logits, np.ndarray):
        logits = pick_layout(source, logits, logits.ndim - 1)
    return logits, wild


def draw_target(source: Source, logits: Any, axis: Any, wild: bool) -> Any:
    """Class indices or probabilities for logits, mostly of the right shape."""
    shape = np.shape(logits)
    at, classes = class_place(shape, axis), classes_of(logits, axis)
    if source.chance(3):
        kinds = ("float32", "float64", "float16", "bool")
        target = draw_array(source, shape, kinds, wild and source.chance(2))
        if isinstance(target, np.ndarray) and target.dtype.kind == "f" and not source.chance(4):
            target = np.abs(target)
        return (
            pick_layout(source, target, at % len(shape) if shape else None)
            if (isinstance(target, np.ndarray))
            else target
        )
    rows = tuple(np.delete(shape, at)) if shape else ()
    rows = tuple(int(n) for n in rows)
    if source.chance(30):
        rows = (*rows, 1)
    dtype = np.dtype(source.one_of(INTEGERS))
    most = min(max(classes, 1), np.iinfo(dtype).max)
    target = source.numbers.integers(0, most, rows).astype(dtype)
    if target.size and source.chance(4):
        with np.errstate(all="ignore"):
            bad = np.array(source.one_of((-100, -1, classes, 255, 2**63 - 1))).astype(dtype)
        target.reshape(-1)[source.below(min(target.size, 256))] = bad
    if source.chance(30):
        return target.tolist()
    return pick_layout(source, np.asarray(target), None)


def _one_a_row(source: Source, shape: tuple[int, ...], axis: Any) -> Any:
    at = class_place(shape, axis)
    rows = tuple(int(n) for n in np.delete(shape, at)) if shape else ()
    numbers = np.abs(source.numbers.standard_normal(rows))
    return pick_layout(source, np.asarray(numbers, source.one_of(("f4", "f8", ">f8"))), None)


def draw_options(source: Source, logits: Any, axis: Any) -> dict[str, Any]:
    """Options of the loss, each there or not, mostly what they may be."""
    shape, classes = np.shape(logits), classes_of(logits, axis)
    weight = np.abs(source.numbers.standard_normal(classes)).astype(
        source.one_of(("f4", "f8", "f2"))
    )
    drawn: dict[str, Any] = {
        "weight": pick_layout(source, weight, None),
        "ignore_index": source.one_of((-100, None, 0, 255, -1, 2**40)),
        "label_smoothing": source.one_of((0.0, 0.1, 1.0, np.float32(0.25), 1)),
        "reduction": source.one_of(("mean", "sum", "none")),
        "normalizer": source.one_of((None, 7.5, 0.0, 3)),
        "sample_weight": _one_a_row(source, shape, axis),
        "z_loss": source.one_of((0.0, 1e-3, 1)),
        "softcap": source.one_of((None, 5.0, 30)),
        "logit_scale": source.one_of((1.0, 0.7, 3)),
        "all_ignored": source.one_of(("nan", "zero")),
        "aux": source.one_of(((), AUX, AUX[:-1], ("lse",), ["argmax", "correct"])),
        "num_threads": source.one_of((None, 1, 2, 5)),
        "grad_output": source.one_of((None, -1.75, _one_a_row(source, shape, axis))),
    }
    chosen = {name: value for name, value in drawn.items() if source.chance(4)}
    if chosen and source.chance(12):
        chosen[source.one_of(tuple(chosen))] = source.one_of(JUNK)
    return chosen


def draw_out(source: Source, logits: Any) -> Any:
    """No output mostly, else one like the logits, maybe in their place; or one that is wrong."""
    if not isinstance(logits, np.ndarray) or not source.chance(3):
        return None
    way = source.below(6)
    if way == 0:
        return logits
    if way == 1:
        return logits[::-1] if logits.ndim else logits.copy()
    if way == 2 and logits.ndim:
        return logits[..., :-1]
    if way == 3:
        return np.empty(logits.shape, source.one_of(("f4", "f8", "i4")))
    empty = np.empty(logits.shape, logits.dtype)
    return pick_layout(source, empty, logits.ndim - 1 if logits.ndim else None)
