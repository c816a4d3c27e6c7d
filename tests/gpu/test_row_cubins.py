"""What the kernels with several threads a row are compiled to: all of it is in registers."""

import pytest

from fastxent.backends.cuda.plan import spec_of
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, RowGeometry, Variant
from gpu.disassembly import disassembled

REGISTERS = 1 << 16  # of a multiprocessor
HOPPER, AMPERE, TURING = (9, 0), (8, 0), (7, 5)

# Rows of up to 64 KB, 512 KB and 1 MB; of a warp; such that begin anywhere; probabilities as well.
# Classes, and whether rows begin at multiples of 16 bytes.
ROWS = [
    (Variant("bfloat16"), 32000, True, AMPERE),
    (Variant("float32"), 262144, True, HOPPER),
    (Variant("float64"), 8192, True, HOPPER),
    (Variant("bfloat16"), 1000, True, HOPPER),
    (Variant("bfloat16"), 50257, False, HOPPER),
    (Variant("bfloat16"), 20000, True, TURING),
    (Variant("bfloat16", task="backward"), 128256, True, HOPPER),
    (Variant("bfloat16", "bfloat16"), 128256, True, HOPPER),
]
# What takes the most registers beside that, at the longest rows that are held in them.
RICH = [
    (Variant("float32", "float32"), 131072, True, HOPPER),
    (Variant("bfloat16", "label", "classes", "capped", sides=True), 50257, False, HOPPER),
    (Variant("bfloat16", "bfloat16", curvature="product"), 20000, True, TURING),
]
LOOPS = [
    (Variant("bfloat16"), LoopGeometry(512), AMPERE),
    (Variant("float32"), LoopGeometry(512, aligned=False), HOPPER),
]


def named(value):
    if isinstance(value, Variant):
        return "-".join(part for part in value if isinstance(part, str) and part)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("variant", "classes", "aligned", "capability"), RICH, ids=named)
def test_the_richest_rows_stay_in_registers(variant, classes, aligned, capability):
    spec = spec_of(variant, classes, aligned, False, capability)
    assert spec.module == "row"
    assert disassembled(spec, capability).spills == 0


@pytest.mark.parametrize(("variant", "classes", "aligned", "capability"), ROWS, ids=named)
def test_a_row_is_read_and_written_once(variant, classes, aligned, capability):
    spec = spec_of(variant, classes, aligned, False, capability)
    geometry = spec.geometry
    assert isinstance(geometry, RowGeometry)
    found, vectors = disassembled(spec, capability), geometry.vectors
    assert found.spills == 0
    assert found.registers <= REGISTERS // (spec.threads * spec.min_blocks)
    reads = vectors if variant.target == "label" else 2 * vectors
    assert found.count("LDG", "128") == reads
    assert found.count("STG", "128") == vectors
    # all of it is under way before the threads first exchange something, or write
    assert found.before("SHFL").before("STG", "128").count("LDG", "128") == reads
    exchanges = geometry.threads > 32 and variant.task != "backward"
    # with several rows a block there is one more, behind the row, for the sum of their losses
    assert found.count("BAR") == exchanges + (geometry.rows > 1)
    assert found.before("STG", "128").count("BAR") == exchanges
    if variant.target == "label":
        # largest and sum among the lanes, then both among warps and blocks, the sum in two words;
        # as often as the source says, or threads have parted that are to meet
        lanes, warps, blocks = (
            (parts - 1).bit_length()
            for parts in (min(geometry.threads, 32), -(-geometry.threads // 32), geometry.cluster)
        )
        words = 2 if variant.kind == "float64" else 1
        shuffles = 2 * words * lanes + (words + 2) * (warps + blocks)
        assert found.count("SHFL") == (0 if variant.task == "backward" else shuffles)
    in_cluster = 2 if geometry.cluster > 1 and variant.task != "backward" else 0
    assert found.count("UCGABAR_ARV") == found.count("UCGABAR_WAIT") == in_cluster


@pytest.mark.parametrize(("variant", "geometry", "capability"), LOOPS, ids=named)
def test_a_long_row_is_read_twice(variant, geometry, capability):
    found = disassembled(KernelSpec("two_pass", variant, geometry), capability)
    assert found.spills == 0
    assert found.registers <= REGISTERS // (geometry.threads * 2)
    assert found.count("LDG", "128") == 2 * found.count("STG", "128") == 8
    assert found.before("BAR").count("LDG", "128") == 4
    assert found.count("BAR") == 1
