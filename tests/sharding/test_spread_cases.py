"""The table of cases, spread over shards, against the truth and against one call."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import CASES, Case, cases_of
from fastxent.cases.recipe import AUX
from fastxent.cases.table import OPTIONS
from sharding.spread import assert_is_truth, assert_within, edges_of, spread

DTYPES = ("float16", "bfloat16", "float32", "float64")
NAMES = tuple(name for name in AUX if name != "target_grad")


def _chosen():
    """Every option alone in every dtype, on 1, 2, 3 and 5 shards; what is odd in two dtypes."""
    shards = itertools.cycle((5, 1, 3, 2))
    alone = [Case(**({"rows": 7, "classes": 130} | options)) for options in OPTIONS]
    alone += [
        Case(3, 2055, "ignored", **options)
        for options in OPTIONS
        if "labels" not in options and not options.keys() & {"rows", "ignore_index"}
    ]
    for dtype, case in itertools.product(DTYPES, alone):
        if case.legal and case.why_not(dtype) is None:
            yield pytest.param(case, dtype, next(shards), id=f"{case}-{dtype}")
    odd = [
        case
        for case in CASES
        if case.logits != "peaked"
        or case.aux
        or case.axis != -1
        or case.weight not in ("none", "positive")
        or len(case.leading) != 1
    ]
    odd = [case for case in odd if case.hess == "none" and case.layout == case.target_layout == "C"]
    for dtype, step in (("float32", 2), ("bfloat16", 5)):
        of_dtype = set(cases_of(dtype))
        for case in odd[::step]:
            if case in of_dtype:
                yield pytest.param(case, dtype, next(shards), id=f"{case}-{dtype}")


@pytest.mark.parametrize(("case", "dtype", "shards"), list(_chosen()))
def test_shards_give_the_truth_and_what_one_call_gives(case, dtype, shards, backend):
    logits, target, options = case.arguments(dtype)
    asked = tuple(name for name in case.asked if name != "target_grad")
    options["backend"] = backend
    if asked:
        options["aux"] = asked
    edges = edges_of(case.classes, shards)
    in_place = case.out == "in-place"
    results = spread(logits, target, options, edges, in_place=in_place)
    del options["backend"]
    assert_is_truth(results, logits, target, options, asked)
    assert results[1].dtype == logits.dtype
    whole = fx.cross_entropy_and_grad(logits, target, **options, backend=backend)
    for found, expected in zip(results, whole, strict=False):
        if found is None:
            continue
        if isinstance(found, fx.Aux):
            for name in asked:
                one, other = getattr(found, name), getattr(expected, name)
                if name in ("argmax", "correct"):
                    assert np.array_equal(one, other), name
                else:
                    assert_within(one, other, 4)
        elif found is not results[1]:
            assert_within(found, expected, 4)
