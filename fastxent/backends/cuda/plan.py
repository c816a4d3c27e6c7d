"""Which kernel serves which rows: by their length, their place in memory, and the device.

A row stays in registers between its one reading and its one writing as long as it fits: into those
of a part of a warp, a warp, a block, or a cluster of blocks. Few classes go through shared memory,
a thread a row; longer rows are read twice; rows whose classes are not side by side get a thread
each, which walks along its own.

How a row is split decides the order of its sums, so it must not depend on what is computed from
them: the loss has the same bits with the gradient and without, with side outputs and without.
Only `min_blocks`, the registers a thread may have, does.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import NamedTuple

from fastxent.backends.cuda.layouts import Layout, pieces_of
from fastxent.backends.cuda.specs import (
    KernelSpec,
    LoopGeometry,
    RowGeometry,
    TileGeometry,
    Variant,
)
from fastxent.device_array import DeviceArray

__all__ = ["CLUSTERS_FROM", "Plan", "Rows", "plan_of", "spec_of"]

# Bytes of a number of each kind, and of what a thread moves at once.
SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1}
_VECTOR = 16

# Least capability with clusters of blocks.
CLUSTERS_FROM = (9, 0)
# Least capability with instructions for both kinds of half precision.
_HALVES_FROM = (8, 0)
# Blocks a cluster that every such device can run; 16 needs a permission and a free GPC.
_CLUSTERS = (2, 4, 8)

# Most classes in a tile, and the shared memory of its logits: 48 KB is what needs no permission.
_TILE_CLASSES = 32
_TILE_ROWS = (256, 128, 64)
_TILE_BYTES = 1 << 15

# Threads of a block that serves rows of part of a warp or a warp, and vectors a thread up to which
# fewer lanes are taken: 8 lanes read a line of 128 bytes at a time, and meet in three exchanges.
_WARP_BLOCK = 128
_FEW_VECTORS = 4

# Threads of a block that has one row: two blocks of 512 fill the registers at 64 a thread, and so
# does one of 1024, where nothing less is enough.
_LEAST_THREADS, _MOST_THREADS, _ALL_THREADS = 128, 512, 1024
_WARP = 32

# 16-byte vectors a thread, by what it holds or computes besides; see `_burdens`. Compiled with
# `min_blocks` as below, the richest that calls ask for do not spill; with 8 for all, up to 370
# words do. Blocks of 1,024 threads, which have 64 registers each, are for rows without any such
# burden, and spill two dozen words beside a Hessian or side outputs.
_VECTORS = {0: 8, 1: 8, 2: 5, 3: 5, 4: 3, 5: 3}

# Registers of a multiprocessor, and those that a thread may have.
_REGISTERS = 1 << 16
_LEAN, _RICH = 64, 128

_LOOP_THREADS, _STRIDED_THREADS = 512, 128

# Rows of logits[:, :-1] are in as many places as there are sequences. Each gets a launch of its
# own, if those are few and rows so long that a thread would walk along its own for longer.
_MOST_PIECES, _WORTH_A_LAUNCH = 64, 512


class Rows(NamedTuple):
    """How the rows of one array lie in memory.

    Attributes
    ----------
    address : int
    size : int
        Bytes of an element.
    pitch : int or None
        Bytes from row to row; None where several leading dimensions do not merge into one.
    contiguous : bool
        Whether the classes of a row are side by side.
    """

    address: int
    size: int
    pitch: int | None
    contiguous: bool

    @classmethod
    def of(cls, array: Layout | DeviceArray) -> Rows:
        """The rows of a (rows.., C) array."""
        *leading, classes = array.shape
        *steps, step = array.strides
        long = [at for at, size in enumerate(leading) if size != 1]
        pitch = classes * array.itemsize if not long else steps[long[-1]]
        outer: int | None = pitch
        for before, after in pairwise(long):
            if steps[before] != steps[after] * leading[after]:
                outer = None
        return cls(array.address, array.itemsize, outer, classes == 1 or step == array.itemsize)


class Plan(NamedTuple):
    """How the rows of some arrays are served.

    Attributes
    ----------
    spec : KernelSpec
    grid : int
        Blocks of each launch.
    partials : int
        Partial sums of losses that all launches write together.
    pitches : tuple of int
        Elements from row to row of each array; none where a layout table has them.
    rows : int
        Of each launch.
    pieces : tuple
        Where several leading dimensions do not merge: for each launch, how many bytes further each
        array begins. Empty for one launch over all rows.
    """

    spec: KernelSpec
    grid: int
    partials: int
    pitches: tuple[int, ...]
    rows: int
    pieces: tuple[tuple[int, ...], ...] = ()


def _ceil(number: int, of: int) -> int:
    return -(-number // of)


def _vectors_of(classes: int, size: int) -> int:
    """Most whole vectors in a row, wherever between multiples of 16 bytes it begins."""
    return max(1, classes * size // _VECTOR)


def _burdens(variant: Variant) -> int:
    """What the formula of a row takes registers for, whatever is computed by it."""
    burdens = (variant.mass == "classes") + (variant.transform == "capped")
    if variant.target not in ("none", "label"):
        # a vector of logits has 8 probabilities, or as many as are not in one vector
        size = SIZES[variant.kind]
        burdens += 2 if size == 2 or SIZES[variant.target] != size else 1
    return burdens


@functools.lru_cache(maxsize=1024)
def _row_geometry(
    vectors: int, most: int, size: int, aligned: bool, clusters: bool, threads: int
) -> RowGeometry | None:
    """How a row of so many vectors is split; None where it is too long to be held in registers.

    A block that has one row has up to so many `threads`.
    """
    # before and behind the whole vectors of an unaligned row there is a number for each lane
    least = 0 if aligned else 2 * _VECTOR // size
    for lanes in (8, 16, _WARP):
        if lanes >= least and vectors <= lanes * (most if lanes == _WARP else _FEW_VECTORS):
            return RowGeometry(lanes, _WARP_BLOCK // lanes, _ceil(vectors, lanes), aligned=aligned)
    ways = [(1, _MOST_THREADS)]
    if clusters:
        ways += [(cluster, _MOST_THREADS) for cluster in _CLUSTERS]
        ways += [(_CLUSTERS[-1], threads)]
    for cluster, limit in ways:
        needed = _ceil(_ceil(vectors, cluster * most), _WARP) * _WARP
        if needed <= limit:
            threads = max(needed, _LEAST_THREADS)
            return RowGeometry(threads, 1, _ceil(vectors, cluster * threads), cluster, aligned)
    return None


def _most_in_tile(variant: Variant) -> int:
    """Classes whose numbers a thread can hold, those of its probabilities too."""
    wide = variant.kind == "float64" and variant.target not in ("none", "label")
    return _TILE_CLASSES // 2 if wide else _TILE_CLASSES


def _min_blocks(variant: Variant, threads: int, capability: tuple[int, int]) -> int:
    """Blocks that leave each thread the registers that this variant needs."""
    rich = (
        variant.kind == "float64"
        or variant.target not in ("none", "label")
        or variant.mass == "classes"
        or variant.transform == "capped"
        or variant.sides
        or variant.curvature != ""
        # whose conversions take several instructions there
        or (SIZES[variant.kind] == 2 and capability < _HALVES_FROM)
    )
    return max(1, _REGISTERS // ((_RICH if rich else _LEAN) * threads))


def spec_of(
    variant: Variant,
    classes: int,
    aligned: bool,
    dense: bool,
    capability: tuple[int, int],
    alike: bool = True,
) -> KernelSpec:
    """The kernel for rows whose classes are side by side.

    `aligned` says that every row of logits begins and ends at a multiple of 16 bytes, and `alike`
    that those of the result do then; or, where rows are `dense` and few classes make a tile of
    them, `aligned` says that the first row of each array begins there.
    """
    size = SIZES[variant.kind]
    if dense and classes <= _most_in_tile(variant):
        rows = next(rows for rows in _TILE_ROWS if rows * classes * size <= _TILE_BYTES)
        return KernelSpec("tile", variant, TileGeometry(classes, rows, aligned))
    vectors = _vectors_of(classes, size)
    burdens = _burdens(variant)
    most = _VECTORS[burdens + (not aligned)]
    limit = _MOST_THREADS if burdens or variant.kind == "float64" else _ALL_THREADS
    geometry = _row_geometry(vectors, most, size, aligned, capability >= CLUSTERS_FROM, limit)
    if geometry is None:
        return KernelSpec("two_pass", variant, LoopGeometry(_LOOP_THREADS, aligned, alike))
    blocks = _min_blocks(variant, geometry.threads * geometry.rows, capability)
    return KernelSpec("row", variant, geometry._replace(min_blocks=blocks, alike=alike))


def _steps(array: Rows, rows: int) -> int:
    """What divides the addresses of all rows."""
    return array.address | (0 if rows == 1 or array.pitch is None else array.pitch)


def _contiguous_spec(
    variant: Variant, rows: int, classes: int, arrays: list[Rows], capability: tuple[int, int]
) -> KernelSpec | None:
    """The kernel for rows with the classes side by side, None where it needs another layout.

    The vectors are those of the logits alone, or the order of the sums, and so the bits of the
    loss, would depend on where a gradient is written. A result that lies alike is written by them;
    other arrays may begin anywhere. A tile is moved by vectors where all that are stored as the
    logits can be: each of its threads has a whole row, wherever that is.
    """
    if any(array.pitch is None or not array.contiguous for array in arrays):
        return None
    dense = all(rows == 1 or array.pitch == classes * array.size for array in arrays)
    logits, *others = arrays
    if dense and classes <= _most_in_tile(variant):
        places = logits.address
        for array in others:
            places |= array.address if array.size == logits.size else 0
        return spec_of(variant, classes, places % _VECTOR == 0, True, capability)
    aligned = (classes * logits.size | _steps(logits, rows)) % _VECTOR == 0
    results = [] if variant.task == "loss" else others[:1]
    alike = all(_steps(result, rows) % _VECTOR == 0 for result in results)
    return spec_of(variant, classes, aligned, False, capability, alike or not aligned)


def plan_of(
    variant: Variant,
    rows: int,
    classes: int,
    layouts: tuple[Layout, ...],
    capability: tuple[int, int],
) -> Plan:
    """Plan for these arrays: the logits first, then the gradient or the softmax, if any."""
    one = _contiguous_plan(variant, rows, classes, layouts, capability)
    if one is not None:
        return one
    if classes * layouts[0].itemsize >= _WORTH_A_LAUNCH:
        cut = pieces_of(layouts, _MOST_PIECES)
        if cut is not None:
            one = _contiguous_plan(variant, cut.rows, classes, cut.layouts, capability)
        if one is not None and cut is not None:
            return one._replace(partials=one.partials * len(cut.offsets), pieces=cut.offsets)
    return _plan(KernelSpec("strided", variant, LoopGeometry(_STRIDED_THREADS)), rows, ())


def _contiguous_plan(
    variant: Variant,
    rows: int,
    classes: int,
    layouts: tuple[Layout, ...],
    capability: tuple[int, int],
) -> Plan | None:
    arrays = [Rows.of(layout) for layout in layouts]
    spec = _contiguous_spec(variant, rows, classes, arrays, capability)
    if spec is None:
        return None
    return _plan(spec, rows, tuple((array.pitch or 0) // array.size for array in arrays))


def _plan(spec: KernelSpec, rows: int, pitches: tuple[int, ...]) -> Plan:
    if spec.module in ("tile", "row"):
        partials = _ceil(rows, spec.geometry.rows)
        return Plan(spec, partials * spec.cluster, partials, pitches, rows)
    blocks = rows if spec.module == "two_pass" else _ceil(rows, _STRIDED_THREADS)
    return Plan(spec, blocks, blocks, pitches, rows)
