"""The kernels beside those of rows, run on the simulated GPU against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: it runs the simulated threads")

from fastxent.backends.contract import KINDS, LABEL_CHUNK, BinaryOutputs, HessRule
from fastxent.backends.cuda.specs import (
    ELEMENTS_A_THREAD,
    SCALED_VECTORS_A_THREAD,
    BinaryVariant,
    ClassFactorsVariant,
    JacobianVariant,
    KernelSpec,
    LabelsVariant,
    LoopGeometry,
    RowFactorsVariant,
    ScalingVariant,
    SumsVariant,
)
from fastxent.backends.numpy import BACKEND
from fastxent.binary import BinaryProblem
from fastxent.jacobian import JacobianProblem
from fastxent.mass import mass_of
from fastxent.precision import narrow, precision_of, widen
from gpu.disassembly import disassembled
from gpu.simulation.loading import aligned, run_kernel

FLOATS = KINDS[:4]
INTEGERS = KINDS[4:]
STORED = {"float16": np.uint16, "bfloat16": np.uint16}


def stored(values, kind):
    """Numbers as kernels get them, in memory with nothing behind it."""
    values = np.asarray(values)
    if kind in FLOATS:
        values = narrow(values.astype(compute_of(kind)), kind)
    return aligned(values.astype(STORED.get(kind, kind)))


def compute_of(kind):
    return np.float64 if kind == "float64" else np.float32


def numbers(array, kind):
    return widen(array, kind).astype(np.float64)


def blocks(count, a_block):
    return max(1, -(-count // a_block))


# --- labels ------------------------------------------------------------------------------------


def find(labels, classes, skip=None, class_mass=None, row_mass=None, kinds=("", ""), threads=64):
    """Mass, live rows and first bad row, by the two steps."""
    kind = labels.dtype.name
    rows, partials = len(labels), blocks(len(labels), LABEL_CHUNK)
    found = {
        "mass_partial": np.full(partials, np.nan),
        "live_partial": np.full(partials, -7),
        "bad_partial": np.full(partials, -7),
    }
    integers = {
        **{"labels": aligned(labels), "rows": rows, "classes": classes, "partials": partials},
        **{"skip": skip or 0, "has_skip": skip is not None},
        "class_mass": 0 if class_mass is None else stored(class_mass, kinds[0]),
        "row_mass": 0 if row_mass is None else stored(row_mass, kinds[1]),
    }
    variant = LabelsVariant("chunks", kind, *kinds)
    run_kernel("labels", variant, LoopGeometry(threads), partials, {**integers, **found}, {})
    if partials == 1:
        return tuple(array[0] for array in found.values())
    result = {"mass": np.full(1, np.nan), "live": np.full(1, -7), "bad_row": np.full(1, -7)}
    arguments = {"partials": partials, **found, **result}
    run_kernel("labels", LabelsVariant("finish"), LoopGeometry(32), 1, arguments, {})
    return tuple(array[0] for array in result.values())


@pytest.mark.parametrize("kind", INTEGERS)
def test_labels_of_every_kind(kind):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 300).astype(kind)
    labels[::7] = 99 if kind.startswith("u") else -100
    skip = int(labels[0])
    weight = rng.random(100)
    expected = BACKEND.check_labels(labels, 100, skip, weight, None, 1)
    mass, live, bad = find(labels, 100, skip, weight, kinds=("float64", ""))
    assert (live, bad) == (expected.live, -1)
    np.testing.assert_allclose(mass, expected.mass, rtol=1e-14)


@pytest.mark.parametrize(
    ("class_kind", "row_kind"), [("float32", ""), ("", "bfloat16"), ("float16", "int8"), ("", "")]
)
def test_masses_of_classes_and_of_rows(class_kind, row_kind):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 100)
    labels[3] = 2
    weight, factor = rng.random(5), rng.integers(0, 4, 100)
    known_weight = numbers(stored(weight, class_kind), class_kind) if class_kind else None
    known_factor = factor.astype(float) if row_kind else None
    mass, live, bad = find(
        labels,
        5,
        2,
        weight if class_kind else None,
        factor if row_kind else None,
        (class_kind, row_kind),
    )
    expected = BACKEND.check_labels(labels, 5, 2, known_weight, known_factor, 1)
    assert (live, bad) == (expected.live, -1)
    np.testing.assert_allclose(mass, expected.mass, rtol=1e-14)


def test_labels_of_several_chunks():
    """The rows that count on both sides of a chunk's end, and the first of three bad labels."""
    labels = np.zeros(2 * LABEL_CHUNK + 3, np.int8)
    labels[LABEL_CHUNK - 1 : LABEL_CHUNK + 1] = 1
    mass, live, bad = find(labels, 2, skip=1)
    assert (mass, live, bad) == (len(labels) - 2, len(labels) - 2, -1)
    labels[[LABEL_CHUNK + 5, LABEL_CHUNK + 4, -1]] = (2, -1, 9)
    mass, live, bad = find(labels, 2, class_mass=[0.5, 2.0], kinds=("float32", ""))
    assert (mass, live, bad) == ((len(labels) - 5) * 0.5 + 4, len(labels) - 3, LABEL_CHUNK + 4)


@pytest.mark.parametrize(
    ("labels", "classes", "skip", "bad"),
    [
        ([0, 2, -1], 2, None, 1),
        ([0, 2, -1], 2, 2, 2),
        ([-100, -100], 2, -100, -1),
        ([2**62, -(2**62)], 2**61, None, 0),
        (np.array([2**63, 1], np.uint64), 2, None, 0),
        (np.array([0, 2**64 - 1], np.uint64), 2, None, 1),
    ],
)
def test_bad_labels_are_named_and_not_counted(labels, classes, skip, bad):
    labels = np.asarray(labels)
    _, live, found = find(labels, classes, skip)
    good = sum(0 <= int(label) < classes and label != skip for label in labels)
    assert (found, live) == (bad, good)


def test_the_mass_of_labels_does_not_depend_on_the_order_of_threads():
    rng = np.random.default_rng(2)
    labels, weight = rng.integers(0, 9, 500), stored(rng.random(9), "float32")
    results = set()
    for seed in (1, 2):
        mass = np.empty(1)
        integers = {"labels": aligned(labels), "rows": 500, "classes": 9, "class_mass": weight}
        variant = LabelsVariant("chunks", "int64", "float32")
        integers["mass_partial"] = mass
        run_kernel("labels", variant, LoopGeometry(64), 1, integers, {}, seed)
        results.add(mass[0])
    assert len(results) == 1


# --- sums --------------------------------------------------------------------------------------


def add_up(partial, divisor=1.0, denominator=None, zero_when_empty=False, kind="float64"):
    total = np.full(1, -7, kind)
    integers = {
        **{"partial": aligned(partial), "count": len(partial), "total": total},
        "denominator": 0 if denominator is None else np.array([denominator]),
        "zero_when_empty": zero_when_empty,
    }
    geometry = LoopGeometry(64)
    run_kernel("sums", SumsVariant(kind), geometry, 1, integers, {"divisor": divisor})
    return total[0]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 511, 513, 1500])
def test_sums_of_any_count(count):
    partial = np.random.default_rng(count).normal(size=count)
    np.testing.assert_allclose(add_up(partial), partial.sum(), rtol=1e-13, atol=1e-13)
    assert add_up(partial, kind="float32") == np.float32(add_up(partial))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_sums_are_divided(kind):
    assert add_up(np.full(9, 2.0), 4.0, 3.0, kind=kind) == 1.5
    assert np.isnan(add_up(np.ones(9), 4.0, 0.0, kind=kind))
    assert add_up(np.ones(9), 4.0, 0.0, True, kind) == 0
    assert np.isnan(add_up(np.array([]), 0.0, kind=kind))
    assert add_up(np.array([]), 0.0, None, True, kind) == 0
    assert np.isnan(add_up(np.array([1.0, np.nan]), 4.0, 3.0, True, kind))


# --- factors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16", "uint8", "int64"])
def test_factors_of_classes_have_the_bits_of_the_host(kind, compute):
    classes, smoothing = 70, 0.1
    weight = stored(np.random.default_rng(3).random(classes) * 4, kind)
    known, dtype = numbers(weight, kind), np.dtype(compute)
    found = {
        **{"spike_of": np.empty(classes), "background_total": np.empty(1)},
        **{"background_of": np.empty(classes, dtype), "gain_of": np.empty(classes, dtype)},
    }
    reals = {"on_label": 1.0 - smoothing, "share": smoothing / classes}
    integers = {"weight": weight, "classes": classes, **found}
    variant = ClassFactorsVariant(kind, compute)
    run_kernel("class_factors", variant, LoopGeometry(32), 1, integers, reals)
    hard = mass_of(known, smoothing, classes, True, dtype)
    soft = mass_of(known, smoothing, classes, False, dtype)
    np.testing.assert_array_equal(found["spike_of"], hard["spike"])
    np.testing.assert_array_equal(found["background_of"], hard["background"])
    np.testing.assert_array_equal(found["gain_of"], soft["gain"])
    total = found["background_total"][0]
    np.testing.assert_allclose(total, hard["background_total"], rtol=1e-14)


def test_factors_of_classes_are_written_where_asked():
    weight, spike = np.array([1.0, 2.0]), np.empty(2)
    integers = {"weight": weight, "classes": 2, "spike_of": spike}
    variant = ClassFactorsVariant("float64", "float32")
    reals = {"on_label": 1.0, "share": 0.0}
    run_kernel("class_factors", variant, LoopGeometry(32), 1, integers, reals)
    np.testing.assert_array_equal(spike, weight)


def test_factors_of_rows():
    rng = np.random.default_rng(4)
    rows = 2 * 32 * ELEMENTS_A_THREAD - 5
    first, second = stored(rng.random(rows), "bfloat16"), stored(rng.random(2 * rows), "float32")
    result = aligned(np.full(rows, np.nan))
    integers = {
        **{"first": first, "first_stride": 1, "second": second, "second_stride": 2},
        **{"row_scale": result, "rows": rows},
    }
    reals = {"first_number": 9.0, "second_number": 9.0, "third_number": 0.3}
    variant = RowFactorsVariant("bfloat16", "float32")
    run_kernel("row_factors", variant, LoopGeometry(32), 2, integers, reals)
    expected = numbers(first, "bfloat16") * numbers(second[::2], "float32") * 0.3
    np.testing.assert_array_equal(result, expected)


# --- scaling -----------------------------------------------------------------------------------


def scale(variant, geometry, source, out, upstream, **integers):
    a_thread = ELEMENTS_A_THREAD
    if variant.form == "number":
        a_thread = SCALED_VECTORS_A_THREAD * 16 // source.itemsize
    elements = integers["elements"]
    grid = blocks(elements, geometry.threads * a_thread)
    integers |= {"source": source, "out": out, "upstream": upstream}
    run_kernel("scaling", variant, geometry, grid, integers, {})


def scaled(values, kind, factor):
    """What the kernel has to write: one product in what computes, rounded once."""
    compute = compute_of(kind)
    return narrow((widen(values, kind) * np.asarray(factor, compute)).astype(compute), kind)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("offset", [0, 8])
@pytest.mark.parametrize("elements", [1, 64, 1003])
def test_scaling_by_one_number(kind, offset, elements):
    values = stored(np.random.default_rng(5).normal(size=elements), kind)
    source, out = aligned(values, offset), aligned(np.zeros_like(values), offset)
    upstream = stored([0.3], "float16")
    variant = ScalingVariant(kind, "float16")
    geometry = LoopGeometry(32, aligned=offset == 0)
    expected = scaled(values, kind, widen(upstream, "float16"))
    scale(variant, geometry, source, out, upstream, elements=elements)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(source, values)
    scale(variant, geometry, source, source, upstream, elements=elements)
    np.testing.assert_array_equal(source, expected)


def test_scaling_by_one_touches_nothing():
    """Only the number is there: every other access would be out of bounds."""
    one = stored([1], "float32")
    absent = {"source": 16, "out": 16, "upstream": one, "elements": 999}
    run_kernel("scaling", ScalingVariant(), LoopGeometry(32), 4, absent, {})
    source, out = aligned(np.arange(9, dtype=np.float32)), aligned(np.zeros(9, np.float32))
    scale(ScalingVariant(), LoopGeometry(32), source, out, one, elements=9)
    np.testing.assert_array_equal(out, source)


@pytest.mark.parametrize("kind", FLOATS)
def test_scaling_by_one_number_a_row(kind):
    rows, classes = 45, 7
    values = stored(np.random.default_rng(6).normal(size=(rows, classes)), kind)
    upstream = stored(np.arange(2 * rows), "int16")
    out = aligned(values)
    integers = {"elements": rows * classes, "classes": classes, "upstream_stride": 2}
    variant = ScalingVariant(kind, "int16", "rows")
    scale(variant, LoopGeometry(32), out, out, upstream, **integers)
    expected = scaled(values, kind, upstream[::2, None])
    np.testing.assert_array_equal(out, expected)


def test_scaling_of_any_strides():
    rows, classes, height = 3, 5, 7
    whole = stored(np.random.default_rng(7).normal(size=(rows, classes, height)), "float32")
    upstream = stored(np.random.default_rng(8).normal(size=(rows, height)), "float64")
    out = aligned(np.zeros((height, rows, classes), np.float32))
    # sizes in the order of the source's memory, then the strides of the three arrays there
    layout = np.array(
        [
            *(rows, classes, height),
            *(classes * height, height, 1),
            *(classes, 1, rows * classes),
            *(height, 0, 1),
        ]
    )
    integers = {"elements": whole.size, "dims": 3, "layout": layout}
    scale(
        ScalingVariant("float32", "float64", "strided"),
        LoopGeometry(32),
        whole,
        out,
        upstream,
        **integers,
    )
    expected = scaled(whole, "float32", upstream[:, None, :])
    np.testing.assert_array_equal(out.transpose(1, 2, 0), expected)


# --- binary ------------------------------------------------------------------------------------


def binary(problem, *, is_integer, names, hess="", form="dense", strides=None, seed=None):
    """What the kernel computes, in C order: outputs by their names, the sum, the bad targets."""
    compute = problem.compute.name
    count = problem.logits.size
    threads, kind = 32, problem.logits_kind
    grid = blocks(count, threads * ELEMENTS_A_THREAD)
    outputs = {
        name: aligned(
            np.zeros(problem.logits.shape, compute if name == "loss" else problem.logits.dtype)
        )
        for name in names
    }
    rule = problem.hess_rule or HessRule()
    partial, bad = np.full(grid, np.nan), np.full(grid, np.nan)
    integers = {
        **{"logits": aligned(problem.logits), "target": aligned(problem.target)},
        **{"partial": partial, "bad_partial": bad, "elements": count},
        **outputs,
    }
    reals = {
        **{"gain": problem.gain, "background": problem.background},
        **{"hess_factor": rule.factor, "hess_floor": rule.floor},
    }
    for name in ("ones", "factor", "upstream"):
        value = getattr(problem, name)
        is_array = isinstance(value, np.ndarray)
        integers[name] = aligned(value) if is_array else 0
        reals[f"{name}_number"] = np.nan if is_array else value
    if strides is not None:
        integers |= {"layout": strides, "dims": problem.logits.ndim}
    variant = BinaryVariant(kind, problem.target_kind, is_integer, hess, form)
    run_kernel("binary", variant, LoopGeometry(threads), grid, integers, reals, seed)
    return outputs, partial.sum(), bad.sum()


def binary_problem(kind, target_kind, shape, seed=0, **options):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 4, shape)
    y = rng.integers(0, 2, shape) if target_kind in INTEGERS else rng.random(shape)
    x.flat[:4] = (0, 80, -80, -0.0)
    given = {"ones": 1.0, "factor": 1.0, "upstream": 1.0, "gain": 1.0, "background": 0.0}
    return BinaryProblem(
        logits=stored(x, kind),
        logits_kind=kind,
        target=stored(y, target_kind),
        target_kind=target_kind,
        compute=np.dtype(compute_of(kind)),
        num_threads=1,
        **(given | options),
    )


def expected_of(problem, names):
    dtypes = {"loss": problem.compute}
    shape = problem.logits.shape
    outputs = BinaryOutputs(total=np.zeros(1))
    for name in names:
        setattr(outputs, name, np.zeros(shape, dtypes.get(name, problem.logits.dtype)))
    bad = BACKEND.binary(problem, outputs)
    return outputs, bad


def check_binary(problem, is_integer=False, names=("loss", "grad"), **how):
    expected, _ = expected_of(problem, names)
    found, total, bad = binary(problem, is_integer=is_integer, names=names, **how)
    assert bad == 0
    kind = problem.logits_kind
    for name in names:
        stored_as = problem.compute.name if name == "loss" else kind
        # the two sides of a gradient cancel, and those of a distance
        close(found[name], getattr(expected, name), stored_as, 16, scale=name in ("grad", "hess"))
    epsilon = np.finfo(problem.compute).eps
    np.testing.assert_allclose(total, expected.total[0], rtol=16 * epsilon)
    return found, total


EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def close(found, expected, kind, units, scale=0.0):
    """Within some units of what computes, and one of what stores."""
    compute = np.finfo(compute_of(kind)).eps * units
    found, expected = numbers(found, kind), numbers(expected, kind)
    rounding = EPSILON[kind] if kind in STORED else 0.0
    tiny = 2.0**-24 if kind == "float16" else 0.0
    np.testing.assert_allclose(
        found, expected, rtol=compute + rounding, atol=scale * compute + tiny
    )


@pytest.mark.parametrize("kind", FLOATS)
def test_binary_of_every_kind(kind):
    check_binary(binary_problem(kind, kind, 150))


@pytest.mark.parametrize("target_kind", KINDS)
def test_binary_targets_of_every_kind(target_kind):
    is_integer = target_kind in INTEGERS
    check_binary(binary_problem("float32", target_kind, 40), is_integer)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["product", "distance"])
def test_binary_with_every_option(kind, rule):
    rng = np.random.default_rng(9)
    dtype = compute_of(kind)
    problem = binary_problem(
        kind,
        "float32",
        133,
        ones=rng.random(133).astype(dtype),
        factor=rng.random(133).astype(dtype),
        upstream=rng.normal(size=133).astype(dtype),
        gain=0.9,
        background=0.05,
        hess_rule=HessRule(rule, 1.5, 1e-4),
    )
    check_binary(problem, names=("loss", "grad", "proba", "hess"), hess=rule)
    check_binary(problem, names=("hess",), hess=rule)
    check_binary(problem, names=())


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_binary_of_any_strides(kind):
    """Every array with its own strides: factors spread over rows or columns, logits transposed."""
    rng, (rows, columns) = np.random.default_rng(10), (9, 19)
    problem = binary_problem(kind, "uint8", (rows, columns))
    ones, factor = rng.random(columns).astype("f4"), rng.random(rows).astype("f4")
    upstream = rng.random((rows, columns)).astype("f4")
    plain = (columns, 1)
    layout = np.array(
        [(rows, columns), (1, rows), plain, (0, 1), (1, 0), plain, *[plain] * 4], np.int64
    )
    spread = {
        "ones": np.broadcast_to(ones, (rows, columns)),
        "factor": np.broadcast_to(factor[:, None], (rows, columns)),
        "upstream": upstream,
    }
    known = BinaryProblem(**({n: getattr(problem, n) for n in problem.__slots__} | spread))
    expected, _ = expected_of(known, ("loss", "grad"))
    given = {"ones": ones, "factor": factor, "upstream": upstream}
    given["logits"] = np.ascontiguousarray(problem.logits.T)
    turned = BinaryProblem(**({n: getattr(problem, n) for n in problem.__slots__} | given))
    found, total, _ = binary(
        turned, is_integer=True, names=("loss", "grad"), form="strided", strides=layout
    )
    close(found["loss"].reshape(rows, columns), expected.loss, "float32", 16)
    close(found["grad"].reshape(rows, columns), expected.grad, kind, 16)
    np.testing.assert_allclose(total, expected.total[0], rtol=1e-6)


def test_binary_infinities_and_nan():
    problem = binary_problem("float32", "float32", 6)
    problem.logits[:] = (np.inf, -np.inf, np.inf, -np.inf, np.nan, 1e38)
    problem.target[:] = (1, 0, 0, 1, 0.5, 1)
    names = ("loss", "grad", "proba", "hess")
    expected, _ = expected_of(problem, names)
    found, _, _ = binary(problem, is_integer=False, names=names, hess="product")
    for name in names:
        np.testing.assert_array_equal(found[name], getattr(expected, name))


def test_bad_binary_targets_lose_their_rows_only():
    problem = binary_problem("float32", "int32", 300, hess_rule=HessRule("product", 1.0, 0.0))
    good, _ = expected_of(problem, ("loss", "grad", "hess"))
    problem.target[[5, 290]] = (2, -1)
    found, total, bad = binary(
        problem, is_integer=True, names=("loss", "grad", "hess"), hess="product"
    )
    assert bad == 2
    assert np.isnan(total)
    is_bad = np.isin(np.arange(300), (5, 290))
    assert np.isnan(found["loss"][is_bad]).all()
    assert not found["grad"][is_bad].any()
    assert not found["hess"][is_bad].any()
    for name in ("loss", "grad", "hess"):
        close(found[name][~is_bad], getattr(good, name)[~is_bad], "float32", 16)


def test_the_binary_loss_does_not_depend_on_the_order_of_threads():
    problem = binary_problem("float32", "float32", 300)
    totals = {binary(problem, is_integer=False, names=(), seed=seed)[1] for seed in (1, 2)}
    assert len(totals) == 1


# --- Jacobian products -------------------------------------------------------------------------


def jacobian_case(kind, is_log, shape):
    rng = np.random.default_rng(11)
    z = rng.normal(0, 3, shape)
    z[0, 1:2] = -np.inf
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    first = stored(log_p if is_log else np.exp(log_p), kind)
    grad = stored(rng.normal(size=shape), kind)
    precision = precision_of(
        np.dtype(kind) if kind != "bfloat16" else np.dtype("u2"),
        "bfloat16" if kind == "bfloat16" else None,
    )
    names = {"log_proba" if is_log else "proba": first}
    expected = np.zeros_like(first)
    problem = JacobianProblem(grad=grad, precision=precision, num_threads=1, **names)
    BACKEND.softmax_backward(problem, expected)
    return first, grad, expected


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(
    ("kind", "classes"), [*itertools.product(FLOATS, [1, 33]), ("float32", 700)]
)
def test_jacobian_of_rows(kind, is_log, classes):
    rows = 3
    first, grad, expected = jacobian_case(kind, is_log, (rows, classes))
    wide = aligned(np.zeros((rows, classes + 5), grad.dtype))
    wide[:, :classes] = grad
    integers = {
        **{"first": first, "first_pitch": classes, "grad": wide, "grad_pitch": classes + 5},
        **{"out": first, "out_pitch": classes, "rows": rows, "classes": classes},
    }
    run_kernel("jacobian", JacobianVariant(kind, is_log), LoopGeometry(64), rows, integers, {})
    close(first, expected, kind, 8, scale=4)


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("kind", FLOATS)
def test_jacobian_of_any_strides(kind, is_log):
    """Classes on axis 1 of (2, 3, 4, 5, C) memory, each array in another order."""
    shape = (2, 3, 4, 5, 6)
    rows, classes = 2 * 3 * 4 * 5, 6
    first, grad, expected = jacobian_case(kind, is_log, (rows, classes))
    first, grad = first.reshape(shape), grad.reshape(shape)
    turned = aligned(np.moveaxis(first, 4, 1))
    back = aligned(grad[:, :, ::-1])
    out = aligned(np.zeros_like(turned))

    def strides(array):
        return [stride // array.itemsize for stride in array.strides]

    reversed_grad = back[:, :, ::-1]
    layout = np.array(
        [
            *shape[:4],
            *strides(np.moveaxis(turned, 1, 4)),
            *strides(reversed_grad),
            *strides(np.moveaxis(out, 1, 4)),
        ]
    )
    begin = (reversed_grad.ctypes.data - back.ctypes.data) // back.itemsize
    integers = {
        **{"first": turned, "grad": back.reshape(-1)[begin:], "out": out},
        **{"rows": rows, "classes": classes, "layout": layout},
    }
    variant = JacobianVariant(kind, is_log, "strided")
    run_kernel("jacobian", variant, LoopGeometry(32), blocks(rows, 32), integers, {})
    found = np.moveaxis(out, 1, 4).reshape(rows, classes)
    close(found, expected, kind, 8, scale=4)


# --- What is compiled --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        KernelSpec("labels", LabelsVariant(class_mass="float32"), LoopGeometry(1024)),
        KernelSpec("sums", SumsVariant(), LoopGeometry(1024)),
        KernelSpec("binary", BinaryVariant(), LoopGeometry(256)),
        KernelSpec("jacobian", JacobianVariant("bfloat16", form="strided"), LoopGeometry(128)),
    ],
    ids=lambda spec: spec.module,
)
def test_small_kernels_stay_in_registers(spec):
    code = disassembled(spec)
    assert code.spills == 0
    assert code.registers * spec.threads <= 1 << 16


def test_all_labels_of_a_thread_are_under_way_at_once():
    code = disassembled(KernelSpec("labels", LabelsVariant(), LoopGeometry(1024)))
    assert code.before("DADD").count("LDG", "64") == LABEL_CHUNK // 1024


def test_scaling_moves_vectors():
    code = disassembled(KernelSpec("scaling", ScalingVariant("bfloat16"), LoopGeometry(256)))
    assert code.spills == 0
    assert code.count("LDG", "128") == code.count("STG", "128") == SCALED_VECTORS_A_THREAD
    # the number decides before anything else is read
    assert code.before("LDG", "128").count("EXIT") == 1
