"""What the kernels with several threads a row are compiled to: all of it is in registers."""

import pytest

from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, RowGeometry, Variant
from gpu.disassembly import disassembled

REGISTERS = 1 << 16  # of a multiprocessor
HOPPER, AMPERE = (9, 0), (8, 0)

# Rows of up to 64 KB, 512 KB and 1 MB; of a warp; such that begin anywhere; probabilities as well.
ROWS = [
    (Variant("bfloat16"), RowGeometry(512, 1, 8, min_blocks=2), AMPERE),
    (Variant("float16"), RowGeometry(512, 1, 8, 8, min_blocks=2), HOPPER),
    (Variant("float32"), RowGeometry(1024, 1, 8, 8), HOPPER),
    (Variant("float64"), RowGeometry(512, 1, 8, min_blocks=1), HOPPER),
    (Variant("bfloat16"), RowGeometry(32, 4, 4, min_blocks=8), HOPPER),
    (Variant("bfloat16"), RowGeometry(512, 1, 5, 1, aligned=False, min_blocks=2), HOPPER),
    (Variant("bfloat16", task="backward"), RowGeometry(512, 1, 8, 4, min_blocks=2), HOPPER),
    (Variant("bfloat16", "bfloat16"), RowGeometry(512, 1, 8, 4, min_blocks=1), HOPPER),
]
LOOPS = [
    (Variant("bfloat16"), LoopGeometry(512), AMPERE),
    (Variant("float32"), LoopGeometry(512, aligned=False), HOPPER),
]


def named(value):
    if isinstance(value, Variant):
        return "-".join(part for part in value if isinstance(part, str) and part)
    return "x".join(map(str, value))


@pytest.mark.parametrize(("variant", "geometry", "capability"), ROWS, ids=named)
def test_a_row_is_read_and_written_once(variant, geometry, capability):
    spec = KernelSpec("row", variant, geometry)
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
