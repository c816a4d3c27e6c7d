"""The kernels with several threads a row, run on the simulated GPU against the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: it runs the simulated threads")

from fastxent.backends.contract import KINDS
from fastxent.backends.cuda.specs import LoopGeometry, RowGeometry, Variant
from gpu.row_cases import (
    FLOATS,
    case_of,
    check,
    integers_of,
    numbers,
    outputs_of,
    stored,
    written_of,
)
from gpu.simulation.loading import aligned, run_kernel

LANES = {"float32": 4, "float64": 2, "float16": 8, "bfloat16": 8}
SIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1}


def laid_out(matrix, offset, gap):
    """A copy whose rows begin `offset` bytes after a multiple of 16, then `gap` elements apart."""
    rows, classes = matrix.shape
    wide = np.zeros((rows, classes + gap), matrix.dtype)
    wide[:, :classes] = matrix
    # the memory ends with the last row
    flat = aligned(wide.reshape(-1)[: wide.size - gap], offset)
    return flat, np.lib.stride_tricks.as_strided(
        flat, matrix.shape, (wide.strides[0], flat.itemsize)
    )


def run_rows(
    geometry, case, *, offset=0, gap=0, others=None, in_place=False, seed=None, given=None
):
    """Outputs by name.

    Rows of the logits begin `offset` bytes after a multiple of 16, `gap` elements are between them;
    `others` is the offset of the other arrays, if that is another one.
    """
    (rows, classes), variant = case.shape, case.variant
    outputs, shapes = outputs_of(case)
    kinds = written_of(variant)
    others = offset if others is None else others
    integers = integers_of(case)
    memory, view = laid_out(case.logits, offset, gap)
    integers |= {"logits": memory, "logits_pitch": classes + gap}
    matrices = {}
    for name, shape in shapes.items():
        if in_place and name in ("grad", "proba") and name not in matrices:
            integers[name], matrices[name] = memory, view
        else:
            matrix = np.full(shape, 77, stored(0, kinds[name]).dtype)
            integers[name], matrices[name] = laid_out(matrix, others, gap)
        integers[f"{name}_pitch"] = classes + gap
    if case.soft is not None:
        integers["soft"], _ = laid_out(
            case.soft, others % 16 // 8 * 8 if others % 8 else others, gap
        )
        integers["soft_pitch"] = classes + gap
    if given is not None:
        outputs = dict(given)
    integers |= outputs
    module, a_block, cluster = "two_pass", 1, 1
    if isinstance(geometry, RowGeometry):
        module, a_block, cluster = "row", geometry.rows, geometry.cluster
    blocks = -(-rows // a_block)
    partial = np.full(blocks, np.nan)
    if variant.task in ("loss", "grad"):
        integers["partial"] = partial
    run_kernel(module, variant, geometry, blocks * cluster, integers, case.reals, seed)
    return {**outputs, **matrices, "total": partial.sum()}


PART, WARP = RowGeometry(16, 4, 2), RowGeometry(32, 2, 2)
BLOCK, CLUSTER = RowGeometry(64, 1, 2), RowGeometry(32, 1, 1, 2)
LOOP = LoopGeometry(64)
GEOMETRIES = {"part": PART, "warp": WARP, "block": BLOCK, "cluster": CLUSTER, "loop": LOOP}
every = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
# a block, and rows that are walked along
two = pytest.mark.parametrize("geometry", [BLOCK, LOOP], ids=["block", "loop"])


def vectors_of(geometry):
    """Most vectors of a row, or enough of them for two rounds."""
    if isinstance(geometry, RowGeometry):
        return geometry.threads * geometry.vectors * geometry.cluster
    return 4 * geometry.threads + 37


@every
@pytest.mark.parametrize("kind", FLOATS)
def test_labels(geometry, kind):
    case = case_of(Variant(kind), 5, vectors_of(geometry) * LANES[kind], skip=-100)
    check(case, run_rows(geometry, case))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("geometry", [PART, BLOCK, LOOP], ids=["part", "block", "loop"])
def test_rows_that_begin_anywhere(geometry, kind):
    """Each offset in 16 bytes, and lengths about the number of vectors that the threads hold."""
    geometry, lanes = geometry._replace(aligned=False), LANES[kind]
    few = vectors_of(geometry) if isinstance(geometry, RowGeometry) else geometry.threads + 9
    for number, offset in enumerate(range(lanes)):
        head = -offset % lanes
        most = head + few * lanes + lanes - 1
        classes = [
            most,
            most - lanes + 1,
            most - lanes,
            lanes + 1,
            lanes - 1,
            2 * lanes,
            1,
            most - 1,
        ]
        # a long row has as many vectors as there can be at this offset: the others begin there too
        is_long = classes[number] > 2 * lanes
        gap = -classes[number] % lanes if is_long else number % 3
        case = case_of(Variant(kind), 3, classes[number], seed=number)
        check(case, run_rows(geometry, case, offset=offset * SIZE[kind], gap=gap))


@pytest.mark.parametrize(
    "geometry", [RowGeometry(96, 1, 2), RowGeometry(160, 1, 1, 2, aligned=False)], ids=str
)
def test_threads_that_are_no_power_of_two(geometry):
    """Fewer warps publish their sums than there are lanes to read them."""
    variant = Variant("float32", "float32", sides=True)
    case = case_of(variant, 2, vectors_of(geometry) * 4 - (0 if geometry.aligned else 3))
    check(case, run_rows(geometry, case, seed=4))


@two
@pytest.mark.parametrize("others", [0, 8])
def test_arrays_at_other_offsets(geometry, others):
    geometry = geometry._replace(aligned=False)
    for kind, target in (("float32", "float32"), ("bfloat16", "float16"), ("float64", "float32")):
        variant = Variant(kind, target, target_grad=True, curvature="product")
        case = case_of(variant, 3, 11 * LANES[kind] + 1)
        check(case, run_rows(geometry, case, offset=SIZE[kind], others=others, gap=3))


@two
@pytest.mark.parametrize("kind", FLOATS)
def test_where_a_gradient_is_written_changes_no_bit(geometry, kind):
    case = case_of(Variant(kind, kind), 3, 64 * LANES[kind])
    together = run_rows(geometry, case)
    apart = run_rows(geometry._replace(alike=False), case, others=8)
    for name in ("loss", "row_sum", "grad"):
        np.testing.assert_array_equal(apart[name], together[name])


@two
@pytest.mark.parametrize("target", KINDS[:5])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
def test_probabilities(geometry, target, kind):
    variant = Variant(kind, target, sides=True, target_grad=True)
    case = case_of(variant, 3, 70 * LANES[kind])
    check(case, run_rows(geometry, case))


@two
@pytest.mark.parametrize("transform", ["plain", "scaled", "capped"])
@pytest.mark.parametrize("mass", ["uniform", "classes"])
@pytest.mark.parametrize("target", ["label", "float32"])
def test_options(geometry, transform, mass, target):
    options = ("z_loss", "row_scale", "row_weight", "denominator")
    variant = Variant("float32", target, mass, transform, sides=True)
    skip = -1 if target == "label" else None
    case = case_of(variant, 3, 301, skip=skip, options=options)
    check(case, run_rows(geometry._replace(aligned=False), case))


@every
@pytest.mark.parametrize("target", ["label", "bfloat16"])
def test_side_outputs(geometry, target):
    """Ties: the first of the largest; it lies in any part of the row."""
    classes = vectors_of(geometry) * 8
    case = case_of(Variant("bfloat16", target, "uniform", sides=True), 6, classes)
    peaks = np.linspace(1, classes - 9, 6).astype(int)
    for row, peak in enumerate(peaks):
        case.logits[row, peak : peak + 9 : 4] = stored(30.0, "bfloat16")
        if case.soft is not None:
            case.soft[row, peak : peak + 9 : 4] = stored(2.0, "bfloat16")
    found = run_rows(geometry, case)
    check(case, found)
    np.testing.assert_array_equal(found["argmax"], peaks)


@two
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("curvature", ["proba", "product", "distance"])
def test_curvature(geometry, kind, curvature):
    case = case_of(Variant(kind, curvature=curvature), 3, 66 * LANES[kind], skip=3)
    check(case, run_rows(geometry, case))


@two
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("task", ["softmax", "log_softmax"])
def test_softmax(geometry, kind, task):
    case = case_of(Variant(kind, "none", task=task), 3, 65 * LANES[kind])
    check(case, run_rows(geometry, case))


PLAIN, SOFT = Variant("bfloat16"), Variant("float32", "float32")
OTHERS = [
    Variant("float32", "label", "classes", "capped"),
    Variant("float16", "uint8", "uniform", "scaled"),
    Variant("float64", "label", "uniform"),
]


@pytest.mark.parametrize(
    ("geometry", "variant"),
    [
        *((geometry, one) for geometry in GEOMETRIES.values() for one in (PLAIN, SOFT)),
        *((geometry, one) for geometry in (BLOCK, LOOP) for one in OTHERS),
    ],
)
def test_backward_has_the_bits_of_forward(geometry, variant):
    """And they do not depend on who comes first."""
    case = case_of(
        variant, 3, (vectors_of(geometry) - 1) * LANES[variant.kind], options=("z_loss",)
    )
    forward = run_rows(geometry, case, seed=1)
    statistics = {name: forward[name] for name in ("row_max", "row_sum")}
    later = case._replace(variant=variant._replace(task="backward"))
    backward = run_rows(geometry, later, given=statistics, seed=2)
    np.testing.assert_array_equal(backward["grad"], forward["grad"])
    loss_only = run_rows(geometry, case._replace(variant=variant._replace(task="loss")), seed=3)
    for name in ("loss", "row_max", "row_sum"):
        np.testing.assert_array_equal(loss_only[name], forward[name])


@every
@pytest.mark.parametrize(("task", "aligned"), [("grad", False), ("backward", True)])
def test_the_gradient_may_go_over_the_logits(geometry, aligned, task):
    classes = (vectors_of(geometry) - 1) * 8 - (0 if aligned else 3)
    case = case_of(Variant("float16", task=task), 5, classes, skip=2)
    geometry, given = geometry._replace(aligned=aligned), None
    if task == "backward":
        apart = run_rows(geometry, case._replace(variant=Variant("float16")))
        given = {name: apart[name] for name in ("row_max", "row_sum")}
    else:
        apart = run_rows(geometry, case)
    over = run_rows(geometry, case, in_place=True, seed=1, given=given)
    np.testing.assert_array_equal(over["grad"], apart["grad"])


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [
        *((geometry, "float32") for geometry in GEOMETRIES.values()),
        *((geometry, kind) for geometry in (PART, LOOP) for kind in ("bfloat16", "float64")),
    ],
    ids=str,
)
def test_rows_without_a_softmax_lose_nobody_else(geometry, kind):
    case = case_of(
        Variant(kind, sides=True), 8, vectors_of(geometry) * LANES[kind], label_kind="i4"
    )
    good = run_rows(geometry, case)
    classes = case.shape[1]
    nothing, wrong, endless = stored([-np.inf, np.nan, np.inf], kind)
    case.logits[1], case.logits[2, classes // 2], case.logits[4, -1] = nothing, wrong, endless
    case.labels[[5, 6]] = (classes, -1)
    found = run_rows(geometry, case)
    check(case, found)
    broken = np.isin(np.arange(8), (1, 2, 4, 5, 6))
    assert np.isnan(found["loss"][broken]).all()
    assert np.isneginf(found["lse"][1])
    assert np.isnan(numbers(found["grad"][[1, 2, 4]], kind)).all()
    assert not numbers(found["grad"][[5, 6]], kind).any()
    for name in ("loss", "grad", "entropy"):
        np.testing.assert_array_equal(found[name][~broken], good[name][~broken])


@every
@pytest.mark.parametrize("kind", FLOATS)
def test_very_negative_rows_with_masked_warps(geometry, kind):
    """A warp of nothing but -inf must not make 0 the maximum of a row at -1e4 or -1e30."""
    lanes, vectors = LANES[kind], vectors_of(geometry)
    case = case_of(Variant(kind), 4, vectors * lanes)
    numbers_ = np.full(case.shape, -np.inf)
    live = slice(0, 3 * lanes), slice(-3 * lanes, None), slice(5, 6), slice(0, None)
    for row, part in enumerate(live):
        offset = -1e4 if kind == "float16" or row % 2 else -1e30
        spread = 100 * 2.0**-7 * offset * np.random.default_rng(row).random(case.shape[1])
        numbers_[row, part] = (offset + spread * (row > 0))[part]
        case.labels[row] = np.arange(case.shape[1])[part][-1]
    case.logits[...] = stored(numbers_, kind)
    check(case, run_rows(geometry, case))


@two
@pytest.mark.parametrize("kind", KINDS[4:])
def test_labels_of_every_kind(geometry, kind):
    case = case_of(Variant("float32"), 6, 120, skip=5, label_kind=kind)
    check(case, run_rows(geometry, case))


@two
def test_nothing_is_left_of_a_gradient_without_a_denominator(geometry):
    variant = Variant("float32", "float32", target_grad=True, curvature="product")
    case = case_of(variant, 3, 264)
    case.arrays["denominator"] = np.zeros(1)
    found = run_rows(geometry, case)
    for name in ("grad", "target_grad", "hess"):
        assert not found[name].any()
    case.arrays["denominator"] = np.ones(1)
    np.testing.assert_array_equal(found["proba"], run_rows(geometry, case)["proba"])
