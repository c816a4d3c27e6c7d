"""Which kernel serves which rows: every length exactly one, with room for all of it."""

import numpy as np
import pytest

from fastxent.backends.cuda.layouts import Layout
from fastxent.backends.cuda.plan import SIZES, plan_of, spec_of
from fastxent.backends.cuda.specs import Variant
from fastxent.device_array import DeviceArray, Place

TURING, HOPPER = (7, 5), (9, 0)
PLACE = Place(0, 0)
KINDS = ("float32", "float64", "float16", "bfloat16")

# Lengths around everything that could be a bound, and those of vocabularies.
LENGTHS = sorted(
    {1, 2, 3, 5, 7, 10, 50257, 100277, 128256, 151936, 256000, 262144, 262145, 1_000_003}
    | {n + d for n in (2**k for k in range(4, 21)) for d in (-1, 0, 1)}
    | {5 * 2**k + d for k in range(2, 18) for d in (-1, 0, 1)}
    | set(range(28, 40))
)
REGISTERS = 1 << 16
MOST_SHARED = 48 << 10


def capacity(spec, size):
    """Classes that a kernel has registers for: of unaligned rows, beside those at the ends."""
    geometry = spec.geometry
    return geometry.threads * geometry.vectors * geometry.cluster * 16 // size


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("target", ["label", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_length_has_a_kernel_with_room_for_it(kind, target, aligned):
    size = SIZES[kind]
    for classes in LENGTHS:
        if aligned and classes > 32 and classes * size % 16:
            continue  # such rows cannot all be aligned
        for dense in (True, False):
            spec = spec_of(Variant(kind=kind, target=target), classes, aligned, dense, HOPPER)
            if spec.module == "tile":
                assert dense
                assert classes <= 32
                assert spec.geometry.classes == classes
                assert spec.geometry.rows * classes * size % 16 == 0, "a tile begins as the first"
                assert spec.geometry.rows * classes * size <= MOST_SHARED
            elif spec.module == "row":
                assert capacity(spec, size) >= classes // (16 // size) * (16 // size)
                assert aligned or spec.geometry.threads >= 2 * (16 // size), "for the ends of rows"
                assert spec.geometry.vectors <= 8
                assert capacity(spec, size) < 4 * classes or spec.geometry.threads <= 16
            else:
                assert spec.module == "two_pass"
                most = 1 << 20 if kind != "float64" else 1 << 19
                if target != "label":  # which take more registers where they have another size
                    most = 1 << 19 if kind == "float32" and aligned else 1 << 18
                assert classes * size > most
            assert spec.geometry.aligned == aligned


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_can_be_launched(kind):
    for target in ("label", "none", "float32", "bfloat16"):
        for classes in LENGTHS:
            spec = spec_of(Variant(kind=kind, target=target), classes, False, False, HOPPER)
            assert spec.threads % 32 == 0
            assert spec.threads <= 1024
            assert spec.cluster in (1, 2, 4, 8)
            registers = REGISTERS // (spec.threads * spec.min_blocks)
            assert registers >= 64, "fewer spill"
            if spec.module == "row":
                geometry = spec.geometry
                assert geometry.rows == 1 or geometry.threads <= 32
                assert geometry.cluster == 1 or geometry.rows == 1
                assert geometry.threads in (8, 16, 32) or geometry.threads % 32 == 0


def test_rows_are_split_alike_whatever_is_computed():
    """Or the loss would not have the same bits with the gradient and without."""
    for classes in LENGTHS:
        for aligned in (True, False):
            variants = [
                Variant(task=task, sides=sides, curvature=curvature)
                for task in ("loss", "grad", "backward")
                for sides in (False, True)
                for curvature in ("", "proba", "product")
            ]
            specs = [spec_of(variant, classes, aligned, False, HOPPER) for variant in variants]
            shapes = {
                spec.geometry._replace(min_blocks=1) if spec.module == "row" else spec.geometry
                for spec in specs
            }
            assert len(shapes) == 1


def test_what_takes_registers_is_decided_by_the_formula():
    """Side outputs and the Hessian must not split rows in another way."""
    soft = Variant("bfloat16", "float32", "classes", "capped")
    assert spec_of(Variant(), 262144, True, False, HOPPER).threads == 1024
    for variant, aligned, vectors in (
        (Variant("float64", "float64"), True, 8),
        (Variant("float32", "float32"), True, 8),
        (Variant("float32", "float32"), False, 5),
        (Variant("bfloat16", "bfloat16"), True, 5),
        (Variant("bfloat16", "label", "classes", "capped"), True, 5),
        (soft, True, 3),
        (soft, False, 3),
    ):
        room = 16 * 512 * 8 * vectors // SIZES[variant.kind]
        kinds = (variant, variant._replace(sides=True, curvature="product"))
        for one in kinds:
            spec = spec_of(one, room, aligned, False, HOPPER)
            assert spec.geometry[:4] == (512, 1, vectors, 8)
            assert spec_of(one, room + 8, aligned, False, HOPPER).module == "two_pass"


def test_before_clusters_long_rows_are_read_twice():
    for kind in KINDS:
        for classes in LENGTHS:
            size = classes * SIZES[kind]
            for aligned in (True, False):
                spec = spec_of(Variant(kind=kind), classes, aligned, False, TURING)
                assert spec.cluster == 1
                assert (spec.module == "two_pass") == (size // 16 * 16 > 1 << 16)


def test_the_lengths_of_the_design():
    def chosen(kind, classes, aligned=True):
        spec = spec_of(Variant(kind=kind), classes, aligned, True, HOPPER)
        return spec.module, *spec.geometry[:4]

    assert chosen("float32", 10)[:3] == ("tile", 10, 256)
    assert chosen("float32", 1000) == ("row", 32, 4, 8, 1)
    assert chosen("bfloat16", 1000) == ("row", 32, 4, 4, 1)
    assert chosen("bfloat16", 32000) == ("row", 512, 1, 8, 1)
    assert chosen("float32", 32000) == ("row", 512, 1, 8, 2)
    assert chosen("bfloat16", 128256) == ("row", 512, 1, 8, 4)
    assert chosen("float32", 128256) == ("row", 512, 1, 8, 8)
    assert chosen("bfloat16", 262144) == ("row", 512, 1, 8, 8)
    assert chosen("float32", 262144) == ("row", 1024, 1, 8, 8)
    assert chosen("bfloat16", 50257, aligned=False) == ("row", 416, 1, 8, 2)
    assert chosen("float32", 50257, aligned=False) == ("row", 416, 1, 8, 4)


def array(shape, strides=None, address=1 << 20, dtype=np.float32):
    return DeviceArray(address, shape, np.dtype(dtype), PLACE, None, strides)


def module(rows, classes, *arrays, kind="float32"):
    plan = planned(Variant(kind=kind), rows, classes, *arrays)
    assert len(plan.pieces) == 0
    return plan.spec.module, plan.spec.geometry.aligned


def planned(variant, rows, classes, *arrays):
    return plan_of(variant, rows, classes, tuple(map(Layout.of, arrays)), HOPPER)


def test_layouts():
    dense = array((8, 1000))
    assert module(8, 1000, dense, dense) == ("row", True)
    assert module(8, 1000, dense, array((8, 1000), (8000, 4))) == ("row", True)
    assert module(8, 1001, array((8, 1001))) == ("row", False)
    assert module(1, 1000, array((1, 1000), (5, 4))) == ("row", True)
    # vectors are those of the logits, and the result is written by them if it has them too
    elsewhere = planned(Variant(), 8, 1000, dense, array((8, 1000), address=4)).spec
    alike = planned(Variant(), 8, 1000, dense, dense).spec
    assert elsewhere == alike._replace(geometry=alike.geometry._replace(alike=False))
    assert module(8, 1000, *[array((8, 1000), address=4)] * 2) == ("row", False)
    assert module(8, 1000, dense, dense, array((8, 1000), address=4)) == ("row", True)
    # classes apart, or rows that do not merge
    assert module(8, 1000, array((8, 1000), (4, 32)))[0] == "strided"
    assert module(8, 1000, array((2, 4, 1000)), dense) == ("row", True)
    # few classes: a tile if there are no gaps, else a row each
    assert module(8, 10, array((8, 10))) == ("tile", True)
    assert module(8, 10, array((8, 10), address=4)) == ("tile", False)
    assert module(8, 10, array((8, 10), (48, 4))) == ("row", False)
    few, odd = array((8, 10)), array((8, 10), address=12)
    assert module(8, 10, few, few, few) == ("tile", True)
    assert module(8, 10, few, few, odd) == ("tile", False)
    assert module(8, 10, few, few, array((8, 10), address=3, dtype=np.uint8)) == ("tile", True)
    # one class, or one row: strides that say nothing
    assert module(8, 1, array((8, 1), (4, 99))) == ("tile", True)
    assert module(1, 64, array((1, 64), (12, 4))) == ("row", True)


@pytest.mark.parametrize("classes", [1000, 50_000, 600_000])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_split_alike_wherever_the_gradient_and_the_probabilities_are(kind, classes):
    """Or the loss alone would not have the bits of the loss with the gradient."""
    size = np.dtype(kind.replace("bfloat16", "float16"))
    here, there = (array((2, classes), address=at, dtype=size) for at in (0, 8))
    variant = Variant(kind=kind, target=kind)
    alone = planned(variant._replace(task="loss"), 2, classes, here, there).spec
    assert alone.geometry.aligned
    for grad in (here, there):
        both = planned(variant, 2, classes, here, grad, there).spec
        assert both.geometry._replace(alike=True) == alone.geometry
        assert both.geometry.alike == (grad is here)


@pytest.mark.parametrize("classes", [10, 50, 1000, 5000, 60000, 600_000])
def test_grid_and_partial_sums(classes):
    rows = 1000
    plan = planned(Variant(), rows, classes, array((rows, classes)))
    geometry = plan.spec.geometry
    rows_a_block = getattr(geometry, "rows", 1)
    assert plan.grid == plan.partials * plan.spec.cluster
    assert plan.partials * rows_a_block >= rows > (plan.partials - 1) * rows_a_block


def test_rows_in_several_places_get_a_launch_for_each():
    shifted = array((3, 2, 4, 1000), (160000, 40000, 4000, 4))
    dense = array((24, 1000))
    plan = planned(Variant(), 24, 1000, shifted, dense)
    assert plan.spec.module == "row"
    assert plan.spec.geometry.aligned
    assert plan.rows == 4
    assert plan.pitches == (1000, 1000)
    assert plan.pieces == tuple(
        (i * 160000 + j * 40000, (2 * i + j) * 16000) for i in range(3) for j in range(2)
    )
    assert plan.partials == 6 * plan.grid
    # one of the pieces begins between multiples of 16 bytes
    odd = array((2, 4, 1000), (40004, 4000, 4))
    assert not planned(Variant(), 8, 1000, odd).spec.geometry.aligned
    # too many, too short, classes apart
    for rows, classes, strides in (
        (65, 1000, (8000, 4000, 4)),
        (65, 1000, (16000, 4000, 4)),
        (4, 60, (4000, 240, 4)),
        (4, 1000, (16000, 4000, 8)),
    ):
        plan = planned(Variant(), 2 * rows, classes, array((rows, 2, classes), strides))
        assert not plan.pieces
        merged = strides[0] == 2 * strides[1]
        assert plan.spec.module == ("row" if merged else "strided")
