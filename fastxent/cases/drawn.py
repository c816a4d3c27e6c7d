"""Random cases: any combination of options, dtypes, layouts and values that is legal."""

from dataclasses import replace
from typing import Any

import numpy as np

from fastxent.cases.layouts import LAYOUTS
from fastxent.cases.recipe import AUX, BLOCK, HESS_RULES, Case

__all__ = ["LOGITS", "drawn"]

# Most elements of the logits: what takes a call some hundred microseconds.
ELEMENTS = 12_000
# Where lanes, tiles and blocks end.
EDGES: tuple[int, ...] = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 99, 100, 101, 128, 511)
EDGES += (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK + 28)
# More elements than one thread takes at a time, so that several have something to do; a row that
# several share; a dimension behind the classes.
SHARED_AMONG_THREADS: tuple[tuple[int | tuple[int, ...], int, int], ...] = (
    *((300, 257, -1), (40, 2003, -1), (2, 40_001, -1), (70, BLOCK + 6, -1)),
    *((4_000, 10, -1), ((3, 700), 21, 1), ((2, 300), 130, 1)),
)

LOGITS = (
    *("peaked", "flat", "ties", "subnormal", "huge-offset", "far-below-zero", "far-above-zero"),
    *("minus-inf", "special-rows", "nan-payloads", "masked-block"),
)
FAR_OFF = ("huge-offset", "far-below-zero")
LABELS = ("hard", "ignored", "all-ignored", "one-hot", "soft", "unnormalised")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def drawn(rng: np.random.Generator) -> Case:
    """Draw a case; the same generator in the same state gives the same case.

    Each option is left at its default more often than not, so that the pairs and triples of
    options, in which errors hide, come up beside calls with nearly all of them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.cases.drawn import drawn
    >>> drawn(np.random.default_rng(7)) == drawn(np.random.default_rng(7))
    True
    """
    while True:
        case = _any_case(_Choice(rng))
        # Where 1e4 or 1e6 is scaled, float32 leaves little of differences: the product is rounded.
        if case.legal and (case.logits not in FAR_OFF or case.logit_scale == 1):
            return case


class _Choice:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def of(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def often(self, share: float, value: Any, *others: Any) -> Any:
        """`value` in this share of the cases, one of the others in the rest."""
        return value if self.rng.random() < share else self.of(*others)

    def between(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))


def _any_case(choice: _Choice) -> Case:
    rows, classes, axis = _shape(choice)
    labels = choice.often(0.4, "hard", *LABELS)
    case = Case(
        rows,
        classes,
        labels=labels,
        logits=choice.often(0.35, "peaked", *LOGITS),
        weight=choice.often(0.6, "none", "positive", "some-zero", "all-zero"),
        label_smoothing=choice.often(0.6, 0.0, 0.1, 1.0, round(choice.rng.random(), 3)),
        reduction=choice.often(0.4, "mean", "sum", "none"),
        normalizer=choice.often(0.85, None, 3.5, 1000.0, 0.0),
        sample_weight=choice.often(0.7, False, True),
        grad_output=choice.often(0.6, "none", "scalar", "rows"),
        all_ignored=choice.often(0.7, "nan", "zero"),
        axis=axis,
        out=choice.often(0.5, "none", "new", "in-place"),
        num_threads=choice.often(0.5, None, 1, 2, 3, 5),
        z_loss=choice.often(0.75, 0.0, 1e-4, 1e-3, 0.05),
        softcap=choice.often(0.75, None, 1.0, 5.0, 30.0),
        logit_scale=choice.often(0.75, 1.0, 0.05, 0.7, 1.3),
        aux=choice.often(0.6, (), AUX, _some(choice, AUX)),
        hess=choice.often(0.9, "none", *HESS_RULES),
        layout=choice.often(0.5, "C", *LAYOUTS),
        target_layout=choice.often(0.6, "C", *LAYOUTS),
        seed=choice.between(1, 1 << 30),
    )
    if case.hess != "none":  # as boosting asks for it: a mean over nothing has no Hessian
        case = replace(case, reduction="sum", normalizer=None)
    return _with_labels(case, choice)


def _some(choice: _Choice, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if choice.rng.random() < 0.3)


def _shape(choice: _Choice) -> tuple[int | tuple[int, ...], int, int]:
    if choice.rng.random() < 0.02:
        shape: tuple[int | tuple[int, ...], int, int] = choice.of(*SHARED_AMONG_THREADS)
        return shape
    classes = choice.often(0.4, choice.between(1, 20), choice.between(21, 200), choice.of(*EDGES))
    most = max(1, ELEMENTS // classes)
    rows: int | tuple[int, ...] = choice.between(1, min(40, most))
    kind = choice.rng.random()
    if kind < 0.04:
        rows = 0
    elif kind < 0.08:
        rows = ()
    elif kind < 0.4:
        first = choice.between(1, min(4, most))
        rows = (first, choice.between(1, max(1, min(40, most // first))))
        if kind < 0.2:
            rows = (*rows, choice.between(1, max(1, min(7, most // (rows[0] * rows[1])))))
    dimensions = 2 if isinstance(rows, int) else len(rows) + 1
    axis = choice.often(0.5, -1, choice.between(-dimensions, dimensions - 1))
    return rows, classes, axis


def _with_labels(case: Case, choice: _Choice) -> Case:
    """Add the dtype of the labels and the label to ignore, which have to fit each other."""
    if case.soft:
        floats = FLOATS if case.labels != "one-hot" else ("bool", *FLOATS)
        rule = "product" if case.hess == "distance" else case.hess  # that of a label
        return replace(
            case,
            label_dtype=choice.often(0.5, "", *floats),
            ignore_index=choice.often(0.7, -100, None, -1),
            hess=rule,
        )
    few = case.logits == "masked-block"  # whose labels are in any block
    dtype = choice.often(0.5, "int64", *(INTEGERS if not few else INTEGERS[1:4]))
    known = min(case.classes, int(np.iinfo(dtype).max) + 1)
    ignored = [choice.between(0, known - 1), int(np.iinfo(dtype).max)]
    if dtype.startswith("i"):
        ignored += [-1, -100]
    index = choice.of(*ignored)
    if case.labels == "hard":
        index = choice.often(0.6, -100, None, index)
    return replace(case, label_dtype=dtype, ignore_index=index)
