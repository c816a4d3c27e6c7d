"""The cases: every option alone and in pairs, awkward shapes, and what others have got wrong."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastxent.cases.layouts import LAYOUTS
from fastxent.cases.recipe import AUX, BLOCK, HESS_RULES, READ_ONLY, Case, dtype_of

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
    {"z_loss": 1e-3},
    {"softcap": 5.0},
    {"logit_scale": 0.7},
    {"aux": AUX},
    {"layout": "stepped"},
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
    shapes += [(33, 10), (7, 1001), (3, BLOCK), (3, BLOCK + 1), (2, 2 * BLOCK + 1), (9, 32003)]
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


def _transform_cases() -> list[Case]:
    """Scale, soft cap and z-loss where they are hard, and what is asked for beside the loss."""
    transforms: list[dict[str, Any]] = [
        {"softcap": 5.0},
        {"softcap": 30.0, "logit_scale": 1.3},
        {"logit_scale": 0.7},
        {"z_loss": 1e-3},
    ]
    cases = []
    for options, labels in itertools.product(transforms, ("hard", "soft")):
        for shape, logits in (
            ((7, 3), "minus-inf"),
            ((9, 17), "special-rows"),
            ((5, BLOCK + 1), "masked-block"),
            ((6, 70), "far-below-zero"),
            ((9, BLOCK + 300), "peaked"),
        ):
            reduction = "mean" if logits == "far-below-zero" else "none"
            cases.append(Case(*shape, labels, logits=logits, reduction=reduction, **options))
    for labels, logits in itertools.product(
        ("hard", "ignored", "unnormalised"),
        ("peaked", "flat", "huge-offset", "far-below-zero", "minus-inf", "special-rows"),
    ):
        shape = (9, 10) if logits in ("minus-inf", "special-rows") else (5, BLOCK + 300)
        cases.append(Case(*shape, labels, logits=logits, aux=AUX, z_loss=1e-3))
    for name, classes in itertools.product(AUX, (10, 130)):
        labels = "soft" if name == "target_grad" else "ignored"
        cases.append(Case(7, classes, labels, aux=(name,)))
    many: dict[str, Any] = {"weight": "some-zero", "label_smoothing": 0.1, "sample_weight": True}
    many |= {"aux": AUX, "softcap": 20.0, "logit_scale": 0.7, "z_loss": 1e-3, "grad_output": "rows"}
    for labels, classes in itertools.product(("ignored", "unnormalised"), (10, 130, BLOCK + 6)):
        cases.append(Case(7, classes, labels, reduction="none", **many))
        cases.append(Case((2, 37), classes, labels, axis=1, out="in-place", **many))
    cases.append(Case(7, 10, "all-ignored", aux=AUX, z_loss=1e-3))
    cases.append(Case(7, 10, "soft", normalizer=0.0, aux=AUX, z_loss=1e-3))
    cases.append(Case(7, 10, "ignored", normalizer=0.0, aux=AUX, all_ignored="zero"))
    for labels in ("ignored", "soft"):  # the logits tell NaN and +inf apart, until written over
        cases.append(Case(9, 10, labels, logits="special-rows", aux=AUX, out="in-place"))
    cases.append(Case(7, 10, "soft", weight="all-zero", aux=AUX))
    cases.append(Case(7, 10, "soft", logits="minus-inf", weight="some-zero", aux=AUX))
    cases.append(Case(0, 5, "soft", aux=AUX))
    cases.append(Case((), 5, "soft", aux=AUX))
    return cases


def _layout_cases() -> list[Case]:
    """Class axes other than the last, and arrays that lie in memory in every way."""
    cases = []
    leading: list[tuple[int, ...]] = [(2, 3), (2, 16), (3, 33), (2, 3, 5), (2, 5, 20), (2, 2, 3, 3)]
    for rows, classes in itertools.product(leading, (5, 100, 101)):
        cases.append(Case(rows, classes, "ignored", axis=1, weight="positive"))
        cases.append(Case(rows, classes, "soft", axis=1, logits="minus-inf", reduction="none"))
    cases.append(Case((2, 33), BLOCK + 6, axis=1, out="in-place"))
    cases.append(Case((2, 40), 7, axis=1, logits="special-rows", reduction="none", out="in-place"))
    cases.append(Case((2, 3, 2, 3, 2, 2), 5, "soft", layout="F", axis=3))  # nothing merges
    for layout, labels in itertools.product([*LAYOUTS][1:], ("ignored", "soft")):
        cases.append(Case(21, 10, labels, layout=layout, out="new"))
        out = "none" if layout in READ_ONLY else "in-place"
        cases.append(Case(3, BLOCK + 6, labels, layout=layout, out=out))
        cases.append(Case((2, 19), 21, labels, axis=1, layout=layout, target_layout=layout))
        cases.append(Case((2, 3, 4), 7, labels, axis=1, target_layout=layout, aux=AUX))
    return cases


def _hess_cases() -> list[Case]:
    """The Hessian's diagonal and the probabilities beside the gradient."""
    cases = []
    shapes: list[tuple[int | tuple[int, ...], int]] = [(37, 10), (5, 130), (3, BLOCK + 300), (1, 1)]
    for (rows, classes), hess in itertools.product(shapes, HESS_RULES):
        cases.append(Case(rows, classes, hess=hess, reduction="sum", sample_weight=True))
        cases.append(Case(rows, classes, "ignored", hess=hess, out="in-place"))
    for logits, classes in itertools.product(
        ("flat", "huge-offset", "far-below-zero", "minus-inf", "special-rows"), (10, BLOCK + 300)
    ):
        for hess in ("doubled", "distance"):
            cases.append(Case(9, classes, "ignored", logits=logits, hess=hess, reduction="sum"))
    for layout in [*LAYOUTS][1:]:
        cases.append(Case(37, 10, "ignored", layout=layout, hess="doubled", reduction="sum"))
        cases.append(Case(5, 130, layout=layout, hess="distance", reduction="sum"))
    for hess, classes in itertools.product(("product", "distance"), (10, 130)):
        many: dict[str, Any] = {"weight": "positive", "label_smoothing": 0.1, "logit_scale": 0.7}
        many |= {"softcap": 20.0, "z_loss": 1e-3, "aux": AUX, "grad_output": "scalar"}
        cases.append(Case(7, classes, "ignored", hess=hess, **many))
        cases.append(Case(7, classes, "soft", hess=hess))
        cases.append(Case((2, 37), classes, "ignored", axis=1, hess=hess, num_threads=3))
    cases.append(Case(3, 70_001, "ignored", hess="distance", num_threads=3))
    cases.append(Case(7, 10, "all-ignored", hess="doubled", reduction="sum"))
    return cases


def _mixed_cases() -> list[Case]:
    """Probabilities in a dtype of their own."""
    cases = []
    for label_dtype in ("bool", "float16", "bfloat16", "float32", "float64"):
        labels = "one-hot" if label_dtype == "bool" else "unnormalised"
        cases.append(Case(21, 10, labels, label_dtype, aux=AUX))
        cases.append(Case(3, BLOCK + 300, labels, label_dtype, aux=("target_grad",)))
        cases.append(Case((2, 19), 10, labels, label_dtype, axis=1, aux=AUX, weight="positive"))
        cases.append(Case(7, 130, labels, label_dtype, label_smoothing=0.1, target_layout="F"))
    return cases


OPTION_CASES = tuple(_option_cases())
CASES = tuple(
    dict.fromkeys(
        [
            *OPTION_CASES,
            *_shape_cases(),
            *_trap_cases(),
            *_transform_cases(),
            *_layout_cases(),
            *_mixed_cases(),
            *_hess_cases(),
        ]
    )
)


def cases_of(dtype: DTypeLike) -> tuple[Case, ...]:
    """The cases for logits of a dtype: for half precision one pair of options in four is enough.

    What pairs of options do in float32, where half precision is computed, the others show.
    """
    if (dtype_of(dtype) if isinstance(dtype, str) else np.dtype(dtype)).itemsize >= 4:
        return tuple(case for case in CASES if case.why_not(dtype) is None)
    pairs = OPTION_CASES[len(OPTIONS) + 1 :]
    left_out = {*pairs[::2], *pairs[1::4]}
    return tuple(case for case in CASES if case not in left_out and case.why_not(dtype) is None)
