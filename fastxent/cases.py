"""The table of cases that the tests, ``fastxent check`` and the benchmarks share.

A `Case` is a recipe in the words of the public arguments; `Case.arguments` bakes it. The same
case always gives the same arrays: its text is its seed.
"""

import itertools
import math
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

BLOCK = 1024  # classes in a block of the kernels: -inf blocks and shapes on both sides of it


@dataclass(frozen=True)
class Case:
    """One call of the loss, described by its public arguments.

    ``rows`` is a number, or the leading dimensions; () stands for 1-D logits and a scalar label.

    - ``labels``: hard | ignored (every third row) | all-ignored | one-hot | soft | unnormalised
    - ``label_dtype``: "" is int64 for class indices, the logits' dtype for probabilities
    - ``logits``: peaked | flat | huge-offset | far-below-zero | minus-inf | special-rows
      | masked-block
    - ``weight``: none | positive | some-zero | all-zero
    - ``grad_output``: none | scalar | rows
    - ``out``: none | new | in-place
    """

    rows: int | tuple[int, ...]
    classes: int
    labels: str = "hard"
    label_dtype: str = ""
    logits: str = "peaked"
    weight: str = "none"
    ignore_index: int | None = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    normalizer: float | None = None
    sample_weight: bool = False
    grad_output: str = "none"
    all_ignored: str = "nan"
    axis: int = -1
    out: str = "none"
    num_threads: int | None = None

    def __str__(self) -> str:
        words = ["x".join(map(str, self.shape))]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"{field.name}={value}")
        return " ".join(words)

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the logits without the class axis."""
        return (self.rows,) if isinstance(self.rows, int) else self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits."""
        at = self.axis % (len(self.leading) + 1)
        return (*self.leading[:at], self.classes, *self.leading[at:])

    @property
    def soft(self) -> bool:
        """Whether the target holds probabilities, and not class indices."""
        return self.labels in ("one-hot", "soft", "unnormalised")

    @property
    def legal(self) -> bool:
        """Whether the public functions accept this combination."""
        if self.normalizer is not None and self.reduction != "mean":
            return False
        if self.soft:
            return self.ignore_index is None or self.ignore_index < 0
        return self.labels == "hard" or self.ignore_index is not None

    def arguments(self, dtype: DTypeLike) -> tuple[Array, Array, dict[str, Any]]:
        """Logits, target and options for `fastxent.cross_entropy_and_grad`.

        Only options that differ from their default are named, so the defaults get tested too.
        ``out`` and ``num_threads`` are left out: they change no number, and the reference does
        not know them.
        """
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        z = self._logits(rng, math.prod(self.leading))
        if self.soft:
            label_dtype = self.label_dtype or (bool if self.labels == "one-hot" else dtype)
            target = self._in_shape(self._probabilities(rng, z).astype(label_dtype))
        else:
            target = self._class_indices(rng, z).reshape(self.leading)
        return self._in_shape(z.astype(dtype)), target, self._options(rng, dtype)

    def _in_shape(self, rows: Array) -> Array:
        """Turn an (N, C) array into a C-contiguous one of the logits' shape."""
        leading_first = rows.reshape(*self.leading, self.classes)
        return np.ascontiguousarray(np.moveaxis(leading_first, -1, self.axis))

    def _logits(self, rng: np.random.Generator, rows: int) -> Array:
        z: Array = rng.standard_normal((rows, self.classes))
        at = np.arange(rows)
        # Without outliers every probability of a long row lies below any absolute tolerance.
        z[rng.random(z.shape) < 0.1] *= 20
        if self.logits == "flat":
            z *= 0.001
        elif self.logits == "huge-offset":
            z += np.where(at % 2, 1e6, -1e6)[:, None]
        elif self.logits == "far-below-zero":
            z -= 1e4
        elif self.logits == "minus-inf":
            z[(rng.random(z.shape) < 0.3) & (np.arange(self.classes) != at[:, None])] = -np.inf
        elif self.logits == "special-rows":  # every fourth row is ordinary
            z[0::4, self.classes // 2] = np.nan
            z[1::4, self.classes // 2] = np.inf
            z[2::4] = -np.inf
        elif self.logits == "masked-block":
            z[0::3, :BLOCK] = -np.inf
            z[1::3, BLOCK : 2 * BLOCK] = -np.inf
            z[2::3, :-1] = -np.inf
        return z

    def _class_indices(self, rng: np.random.Generator, z: Array) -> Array:
        rows, classes = z.shape
        dtype = np.dtype(self.label_dtype or np.int64)
        y: Array = rng.integers(0, min(classes, np.iinfo(dtype).max + 1), rows)
        if self.logits == "masked-block":  # a class that is not masked, for a finite loss
            y = np.where(np.isfinite(z), rng.random(z.shape), -1).argmax(axis=1)
        y = y.astype(dtype)
        if self.labels in ("ignored", "all-ignored"):
            y[:: 3 if self.labels == "ignored" else 1] = self.ignore_index
        return y

    def _probabilities(self, rng: np.random.Generator, z: Array) -> Array:
        rows, classes = z.shape
        if self.labels == "one-hot":
            mass = np.eye(classes)[self._class_indices(rng, z)]
        elif self.labels == "soft":
            mass = rng.dirichlet(np.full(classes, 0.5), rows)
        else:
            mass = rng.uniform(0, 2, z.shape) * (rng.random(z.shape) < 0.8)
        # Masked classes without mass, for a finite loss; with mass in every other row of the
        # minus-inf cases, for an infinite one.
        masked = np.isneginf(z)
        if self.logits == "minus-inf":
            masked[1::2] = False
        elif self.logits == "special-rows":  # among the rows of ordinary logits
            mass[3::8, 0] = np.nan
        return np.where(masked, 0, mass)

    def _options(self, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.weight != "none":
            weight = rng.uniform(0.5, 2, self.classes).astype(dtype)
            if self.weight != "positive":
                weight[:: 1 if self.weight == "all-zero" else 2] = 0
            options["weight"] = weight
        if self.sample_weight:
            sample_weight = rng.uniform(0.5, 2, self.leading)
            options["sample_weight"] = np.asarray(sample_weight, dtype)
        if self.grad_output == "scalar":
            options["grad_output"] = -1.75
        elif self.grad_output == "rows":
            options["grad_output"] = np.asarray(rng.standard_normal(self.leading), dtype)
        as_they_are = ("ignore_index", "label_smoothing", "reduction", "normalizer")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in (*as_they_are, "all_ignored", "axis") and value != field.default:
                options[field.name] = value
        return options


# Every option at one telling value.
OPTIONS: tuple[dict[str, Any], ...] = (
    {"labels": "one-hot"},
    {"labels": "soft"},
    {"labels": "unnormalised"},
    {"labels": "ignored"},
    {"labels": "all-ignored"},
    {"labels": "ignored", "ignore_index": 2},
    {"ignore_index": None},
    {"weight": "positive"},
    {"label_smoothing": 0.1},
    {"reduction": "none"},
    {"reduction": "sum"},
    {"normalizer": 7.5},
    {"sample_weight": True},
    {"grad_output": "scalar"},
    {"grad_output": "rows"},
    {"all_ignored": "zero"},
    {"axis": 0},
    {"out": "new"},
    {"out": "in-place"},
    # more elements than one thread takes at a time, or there would be nothing for the others
    {"num_threads": 3, "rows": 70, "classes": BLOCK + 6},
)


def _option_cases() -> list[Case]:
    """Every option alone and every legal pair, over few, many and more than a block of classes."""
    shapes = itertools.cycle([(19, 10), (5, 130), (3, BLOCK + 6)])
    chosen = [{}, *OPTIONS]
    for one, other in itertools.combinations(OPTIONS, 2):
        if not one.keys() & other.keys():
            chosen.append(one | other)
    cases = (
        Case(**{"rows": rows, "classes": classes} | options)
        for (rows, classes), options in zip(shapes, chosen, strict=False)
    )
    return [case for case in cases if case.legal]


def _shape_cases() -> list[Case]:
    """Awkward numbers of rows and classes, leading dimensions, and one shape of real size."""
    shapes: list[tuple[int | tuple[int, ...], int]] = [(1, 1), (2, 1), (3, 2), (5, 16), (5, 17)]
    shapes += [(33, 10), (7, 1001), (3, BLOCK), (3, BLOCK + 1), (2, 2 * BLOCK + 1), (64, 32003)]
    shapes += [((), 7), ((2, 3), 5)]
    cases = [Case(*shape, labels=labels) for shape in shapes for labels in ("hard", "soft")]
    for labels, axis in itertools.product(("hard", "soft", "ignored"), (0, 1)):
        cases.append(Case((4, 6), 5, labels=labels, axis=axis, weight="positive"))
        cases.append(Case((2, 3, 5), 70, labels=labels, axis=axis, reduction="none"))
    cases.append(Case((), 7, reduction="none", sample_weight=True, grad_output="rows"))
    cases += [Case(0, 5), Case(0, 5, reduction="none"), Case(0, 5, normalizer=7.5)]
    cases += [Case(0, 5, all_ignored="zero"), Case(0, 5, "soft"), Case(0, 5, axis=0)]
    cases += [Case(0, 5, out="new"), Case(0, 5, out="in-place")]
    return cases


def _trap_cases() -> list[Case]:
    """What other implementations of this loss have got wrong."""
    cases = []
    for label_dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        cases.append(Case(7, 300, label_dtype=label_dtype))  # more classes than int8 can name
        if label_dtype.startswith("i"):
            cases.append(Case(7, 5, "ignored", label_dtype))
    for classes in (5, 300):  # beyond the classes, and one of them
        cases.append(Case(7, classes, "ignored", "uint8", ignore_index=255))
    for label_dtype in ("float32", "float64"):
        cases.append(Case(7, 30, "soft", label_dtype))

    kinds = ("flat", "huge-offset", "far-below-zero", "minus-inf", "special-rows")
    for logits, labels in itertools.product(kinds, ("hard", "soft", "ignored")):
        for shape in ((21, 10), (9, BLOCK + 300)):
            cases.append(Case(*shape, labels=labels, logits=logits, reduction="none"))
        cases.append(Case(6, 70, labels=labels, logits=logits))
    for reduction in ("mean", "sum"):
        cases.append(
            Case(8, 10, "all-ignored", logits="special-rows", reduction=reduction, out="in-place")
        )
    for classes, labels in itertools.product((BLOCK + 1, 2 * BLOCK + 1, 3100), ("hard", "soft")):
        cases.append(Case(4, classes, labels=labels, logits="masked-block"))
    cases.append(Case(4, BLOCK + 1, logits="masked-block", label_smoothing=0.1, reduction="none"))

    for weight, labels in itertools.product(("some-zero", "all-zero"), ("hard", "soft")):
        for all_ignored in ("nan", "zero"):
            cases.append(Case(9, 10, labels, weight=weight, all_ignored=all_ignored))
        cases.append(Case(9, 10, labels, weight=weight, logits="minus-inf", reduction="none"))
    cases.append(Case(9, 10, weight="some-zero", label_smoothing=1.0))
    return cases


OPTION_CASES = tuple(_option_cases())
CASES = tuple(dict.fromkeys([*OPTION_CASES, *_shape_cases(), *_trap_cases()]))
