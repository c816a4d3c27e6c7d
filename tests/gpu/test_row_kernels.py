"""The kernels with several threads a row, run on the simulated GPU against the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: it runs the simulated threads")

from fastxent.backends.contract import KINDS
from fastxent.backends.cuda.specs import LoopGeometry, RowGeometry, Variant
from gpu.row_cases import FLOATS, case_of, check, integers_of, outputs_of, stored, written_of
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


LOOP = LoopGeometry(64)
WARP, PART = RowGeometry(32, 2, 2), RowGeometry(8, 4, 2)
BLOCK, CLUSTER = RowGeometry(64, 1, 2), RowGeometry(32, 1, 1, 2)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("geometry", [PART, WARP, BLOCK, CLUSTER], ids=str)
def test_labels(geometry, kind):
    classes = (geometry.threads * geometry.vectors * geometry.cluster - 3) * LANES[kind]
    case = case_of(Variant(kind), 5, classes, skip=-100)
    check(case, run_rows(geometry, case))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("vectors", [3, 64, 250, 700])
def test_labels_two_pass(vectors, kind):
    case = case_of(Variant(kind), 5, vectors * LANES[kind], skip=-100)
    check(case, run_rows(LOOP, case))
