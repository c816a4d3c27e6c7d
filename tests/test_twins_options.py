"""The same bits of the two compiled backends for every kind, layout, option and output.

Problems are made by hand: what the door makes of public arguments is tested elsewhere.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load
from fastxent.backends.contract import HessRule, Outputs
from fastxent.precision import HALF_KINDS, precision_of
from fastxent.problem import Problem

TWINS = ("cython", "numba")
REASONS = [f"{name}: {why}" for name, why in fx.backends().items() if why and name in TWINS]
if not REASONS and load("cython").info()["instruction level"] not in ("v3", "v4"):
    REASONS = ["the compiled backend runs without a fused multiply-add"]
pytestmark = pytest.mark.skipif(bool(REASONS), reason="; ".join(REASONS))

FLOATS = ("float32", "float64", "float16", "bfloat16")
STATISTICS = ("loss", "total", "row_max", "row_sum", "log_prob", "argmax", "entropy")
LAYOUTS = ("plain", "unaligned", "padded", "reversed", "upside down", "stepped", "columns")
# rows in the lanes, more classes than a tile has, more than a block, positions in the lanes: with
# odd tails, and with tiles that are not full
SHAPES = [
    *((37, 10), (21, 100), (18, 101), (7, 1027), (6, 5000)),
    *((3, 37, 21), (2, 3, 21, 250), (1, 21)),
]
SEED = 7
HESSIAN = ("grad", "proba", "hess")
PRODUCT, DISTANCE = HessRule("product", 2.0, 1e-3), HessRule("distance", 1.0, 1e-16)


def stored(values, kind):
    """Numbers of a kind, as backends get them: half precision by its bits."""
    if kind == "bfloat16":  # truncated: any bits will do
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    values = values.astype(kind)
    return values.view(np.uint16) if kind == "float16" else values


def numbers(array, kind):
    """What is compared: every number as float64, NaN whatever its bits."""
    if kind == "bfloat16" and array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if kind == "float16" and array.dtype == np.uint16:
        array = np.ascontiguousarray(array).view(np.float16)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def placed(array, layout):
    """The same numbers, lying otherwise."""
    if layout == "unaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        view = memory.view(array.dtype).reshape(array.shape)
    elif layout == "padded":
        view = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)[..., :-3]
    elif layout == "reversed":
        view = np.zeros_like(array, order="C")[..., ::-1]
    elif layout == "upside down":
        view = np.zeros_like(array, order="C")[::-1]
    elif layout == "stepped":
        view = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    elif layout == "columns":
        first, *middle, classes = array.shape
        view = np.moveaxis(np.zeros((first, classes, *middle), array.dtype), 1, -1)
        view = np.zeros(array.shape[::-1], array.dtype).T if array.ndim == 2 else view
    else:
        view = np.zeros_like(array, order="C")
    view[...] = array
    return view


def made(kind, shape, layout, soft_kind=None, threads=1, **factors):
    """A problem with masked classes, dead rows, rows to skip and ties."""
    rng = np.random.default_rng(SEED)
    *rows, classes = shape
    count = int(np.prod(rows))
    x = 4 * rng.normal(size=(count, classes))
    if classes > 1 and count > 5:
        x[0, classes // 2], x[1], x[2, 0], x[3, -1] = -np.inf, -np.inf, np.nan, np.inf
        x[5] = np.round(x[5])
    logits = placed(stored(x.reshape(shape), kind), layout)
    storage = kind if kind in HALF_KINDS else None
    precision = precision_of(logits.dtype, storage)
    target = soft = None
    if soft_kind is None:
        target = rng.integers(0, classes, count)
        target[[4 % count, count - 1]] = -100
    else:
        q = rng.random(shape) * (rng.random(shape) > 0.3)
        q = q > 0.5 if soft_kind == "uint8" else q
        soft = placed(stored(q, soft_kind), "plain" if layout == "plain" else "columns")
    return Problem(
        given=logits, logits=logits, precision=precision, axis=-1, num_threads=threads, rows=count,
        classes=classes, class_offset=0, num_classes=classes, target=target, skip=-100, soft=soft,
        soft_kind=soft_kind, **factors,
    )  # fmt: skip


def run(name, problem, names, out_layout, verb="forward"):
    """Every output by its name."""
    loss, compute = problem.precision.loss, problem.precision.compute
    rows, like = problem.rows, {"row_max": compute, "row_sum": np.float64, "argmax": np.int64}
    found = {}
    for output in names:
        if output in ("grad", "proba", "hess", "log_proba"):
            found[output] = placed(np.ones_like(problem.logits, order="C"), out_layout)
        elif output == "target_grad":
            kind = problem.target_grad_kind
            ones = np.ones(problem.soft.shape, np.uint16 if kind in HALF_KINDS else kind)
            found[output] = placed(ones, out_layout)
        else:
            found[output] = np.ones(1 if output == "total" else rows, like.get(output, loss))
    if "total" in found:
        found["total"] = found["total"].astype(np.float64)
    if out_layout == "in place":
        found["grad"] = problem.logits
    getattr(load(name), verb)(problem, Outputs(**found))
    return found


def compare(kind, shape, layout, names, out_layout, verb="forward", threads=(1,), **options):
    """Cython on one thread, numba on each of these numbers of them."""
    results = []
    for name, workers in [("cython", 1), *(("numba", workers) for workers in threads)]:
        problem = made(kind, shape, layout, threads=workers, **options)
        results.append(run(name, problem, names, out_layout, verb))
    for other in results[1:]:
        for output in names:
            of = problem.target_grad_kind if output == "target_grad" else kind
            first, second = numbers(results[0][output], of), numbers(other[output], of)
            case = (kind, shape, layout, out_layout, output, options)
            assert np.array_equal(first, second, equal_nan=first.dtype.kind == "f"), case
            if first.dtype.kind == "f":
                live = ~np.isnan(first)
                assert np.array_equal(np.signbit(first)[live], np.signbit(second)[live]), case


def check_labels(kind, shape, layout, threads=(1,)):
    rng = np.random.default_rng(SEED)
    rows, classes = int(np.prod(shape[:-1])), shape[-1]
    compute = np.float64 if kind == "float64" else np.float32
    background = rng.random(classes).astype(compute)
    every = (*STATISTICS, "grad")
    total = float(background.sum())
    for options, names, out in (
        ({"spike": 1.0, "row_scale": 0.3}, every, layout),
        ({"spike": 1.0}, ("total", "grad"), "plain"),
        ({"spike": 1.0, "row_scale": 0.3}, ("grad", "loss"), "in place"),
        ({"spike": 1.0, "softcap": 3.0, "logit_scale": 0.7}, every, layout),
        ({"spike": 1.0, "softcap": 3.0}, ("loss", "log_prob"), layout),
        ({"spike": 1.0, "logit_scale": 0.7, "row_scale": 0.3}, every, layout),
        (
            {"spike": rng.random(classes), "row_scale": rng.random(rows), "z_loss": 0.1},
            every,
            "plain",
        ),
        ({"spike": 0.9, "background": background, "background_total": total}, every, layout),
        ({"spike": 0.9, "background": 0.01, "softcap": 9.0}, ("loss", "grad"), layout),
        ({"spike": 1.0, "row_scale": rng.random(rows), "hess_rule": PRODUCT}, HESSIAN, layout),
        ({"spike": 1.0, "row_scale": 0.3, "hess_rule": DISTANCE}, HESSIAN, "in place"),
    ):
        compare(kind, shape, layout, names, out, threads=threads, **options)


def check_probabilities(kind, shape, layout, soft_kind, threads=(1,)):
    rng = np.random.default_rng(SEED)
    rows, classes = int(np.prod(shape[:-1])), shape[-1]
    compute = np.float64 if kind == "float64" else np.float32
    gain = {"gain": rng.random(classes).astype(compute), "background": 0.1}
    every = (*STATISTICS, "grad", "target_grad")
    for options, names in (
        ({"row_scale": rng.random(rows)}, every),
        ({}, ("loss", "grad")),
        ({**gain, "softcap": 5.0}, every),
        ({"row_scale": 0.3, "hess_rule": PRODUCT}, HESSIAN),
        ({**gain, "z_loss": 0.1}, ("total", "grad")),
    ):
        options["soft_kind"] = soft_kind
        compare(kind, shape, layout, names, layout, threads=threads, **options)


def check_softmax(kind, shape, layout):
    for name in ("proba", "log_proba"):
        for out in {"plain", layout}:
            compare(kind, shape, layout, (name, "row_max", "row_sum"), out, "softmax")
            compare(kind, shape, layout, (name,), out, "softmax")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", FLOATS)
def test_labels_and_softmax(kind, shape):
    for layout in LAYOUTS:
        check_labels(kind, shape, layout)
        check_softmax(kind, shape, layout)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", FLOATS)
def test_probabilities(kind, shape):
    for soft_kind in ("uint8", *FLOATS):
        for layout in ("plain", "unaligned", "columns"):
            check_probabilities(kind, shape, layout, soft_kind)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_any_number_of_threads(kind):
    for shape in ((4, 40_001), (300, 150), (3000, 10), (5, 700, 21)):
        for layout in ("plain", "reversed", "columns"):
            check_labels(kind, shape, layout, threads=(1, 2, 5))
        check_probabilities(kind, shape, "plain", "float16", threads=(2, 5))


@pytest.mark.slow  # it compiles every kernel for another CPU
def test_avx2_alone_gives_the_same_bits():
    # without its features by name LLVM is not known to convert float16: integers do
    code = """
        import test_twins_options as twins
        for kind, shape in (("float32", (7, 1027)), ("bfloat16", (37, 10)), ("float16", (7, 1027))):
            twins.check_labels(kind, shape, "plain")
            twins.check_labels(kind, shape, "columns")
        twins.check_probabilities("float64", (6, 300), "plain", "float16")
    """
    settings = {"FASTXENT_ISA": "v3", "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    here = Path(__file__).parent
    paths = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | settings | paths,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
