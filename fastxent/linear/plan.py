"""How many rows of logits are computed at a time: arithmetic on sizes only, shared by adapters.

A call holds, beside its inputs and gradients,

    fixed + rows * (classes * itemsize + per_row) + block * (per_class + rows * per_pair)

bytes for `rows` rows of logits and temporaries of `block` classes. The plan takes the most rows
that the budget holds, up to where more of them make the products no faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastxent import checks

__all__ = [
    "DEFAULT_BUDGET",
    "ChunkPlan",
    "ChunkSizes",
    "least_bytes",
    "least_of_blocks",
    "plan_blocks",
    "plan_chunks",
]

# Bytes of temporaries where the caller names no number: 480 rows of 32,000 float32 logits, whose
# products take 1.04 to 1.09 times as long as the whole ones.
DEFAULT_BUDGET = 64_000_000

# Logits of a chunk up to where it stays near the cache, if it has rows enough for the products.
# BLAS packs the weights anew for every chunk: beside the whole products, calls of 4096 x 512 x
# 32000 took 1.16 times as long with chunks of 464 rows, 1.12 with 832, 1.09 with 1,376, 1.08 with
# 2,048.
_CACHE_BYTES = 16_000_000
_ENOUGH_ROWS = 2048

# Classes of a block: the weight product takes the same time with 1,024 to 4,096 of them. They get
# at most this part of the budget.
_MOST_BLOCK = 2048
_BLOCK_SHARE = 8

# Rows of a chunk of the pass that takes blocks of classes first: more make nothing faster.
_MOST_ROWS = 4096

# Chunks are multiples of this many rows where they can be: what BLAS kernels compute together.
_ROW_STEP = 16


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """What one call holds, in bytes, apart from the logits themselves.

    Attributes
    ----------
    fixed : int
        Whatever the chunk.
    per_row : int
        For each row of a chunk, beside its logits.
    per_class : int
        For each class of a block.
    per_pair : int
        For each row of a chunk and class of a block.
    """

    fixed: int = 0
    per_row: int = 0
    per_class: int = 0
    per_pair: int = 0


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How a call goes through its rows.

    Attributes
    ----------
    rows : int
        Rows of logits at a time, at least 1; the last chunk may have fewer.
    count : int
        Number of chunks.
    block : int
        Classes of a temporary block, at least 1.
    size : int
        Bytes that this takes; at most the budget.
    budget : int
        Bytes that there are.
    """

    rows: int
    count: int
    block: int
    size: int
    budget: int


def plan_chunks(
    rows: int,
    features: int,
    classes: int,
    itemsize: int,
    memory_budget: object = None,
    sizes: ChunkSizes | None = None,
    reserve: int = 0,
    least: int = 0,
) -> ChunkPlan:
    """Plan a call of so many rows, features and classes, whose logits have `itemsize` bytes each.

    Parameters
    ----------
    rows, features, classes, itemsize : int
    memory_budget : number or None
        As the caller gave it; `DEFAULT_BUDGET` for None, or what a single row takes where that is
        more.
    sizes : ChunkSizes, optional
        What the call holds beside the logits; by default one chunk of hidden vectors.
    reserve : int, default 0
        Bytes that are of more use elsewhere than for more rows, where they can be had.
    least : int, default 0
        What other passes of the call take at least.

    Raises
    ------
    OptionError
        The budget is not a positive number, or holds no row of logits.

    Examples
    --------
    >>> plan_chunks(4096, 512, 32000, 4).rows
    464
    >>> plan_chunks(4096, 512, 32000, 4, memory_budget=10_000_000)
    ChunkPlan(rows=76, count=54, block=2048, size=9883648, budget=10000000)
    """
    held = ChunkSizes(per_row=features * itemsize) if sizes is None else sizes
    per_row = classes * itemsize + held.per_row
    floor = _least_block(per_row, held, classes)
    least = max(least, least_bytes(classes, itemsize, held))
    if memory_budget is None:
        budget = max(DEFAULT_BUDGET, least)
    else:
        budget = checks.check_memory_budget(memory_budget, least)
    spent = max(least, budget - reserve)
    block = _block(spent - held.fixed - per_row, held, classes, floor)
    most = (spent - held.fixed - block * held.per_class) // (per_row + block * held.per_pair)
    enough = max(_ENOUGH_ROWS, _CACHE_BYTES // max(1, classes * itemsize))
    chunk = _balanced(rows, max(1, min(most, enough)))
    size = held.fixed + chunk * per_row + block * (held.per_class + chunk * held.per_pair)
    return ChunkPlan(chunk, -(-rows // chunk), block, size, budget)


def least_bytes(classes: int, itemsize: int, sizes: ChunkSizes) -> int:
    """What a call takes at least: a row of logits, and a block of classes."""
    per_row = classes * itemsize + sizes.per_row
    block = _least_block(per_row, sizes, classes)
    return sizes.fixed + per_row + block * (sizes.per_class + sizes.per_pair)


def _least_block(per_row: int, sizes: ChunkSizes, classes: int) -> int:
    """Classes that take as much as a row of logits: with one, there would be a product a class."""
    return max(1, min(_MOST_BLOCK, classes, per_row // max(1, sizes.per_class + sizes.per_pair)))


def plan_blocks(rows: int, classes: int, memory_budget: object, sizes: ChunkSizes) -> ChunkPlan:
    """Plan a pass that takes blocks of classes first, and chunks of rows for each of them.

    Without memory for logits of all classes: those of a block are in `per_pair`. The plan has the
    fewest products, as each of them adds to sums and reads rows anew.
    """
    budget = checks.check_memory_budget(memory_budget, least_of_blocks(sizes))
    plans = []
    chunk = max(1, min(rows, _MOST_ROWS))
    while True:
        left = budget - sizes.fixed - chunk * sizes.per_row
        most = min(classes, _MOST_BLOCK, left // (sizes.per_class + chunk * sizes.per_pair))
        if most >= 1:
            blocks = -(-classes // most)
            plans.append((blocks * -(-rows // chunk), chunk, -(-classes // blocks)))
        if chunk == 1:
            break
        chunk = -(-chunk // 2)
    _, chunk, block = min(plans)
    size = sizes.fixed + chunk * sizes.per_row + block * (sizes.per_class + chunk * sizes.per_pair)
    return ChunkPlan(chunk, -(-rows // chunk), block, size, budget)


def least_of_blocks(sizes: ChunkSizes) -> int:
    """What a pass takes at least that takes blocks of classes first."""
    return sizes.fixed + sizes.per_row + sizes.per_class + sizes.per_pair


def _block(left: int, held: ChunkSizes, classes: int, floor: int) -> int:
    """Classes of a block, at least `floor`, out of what a row of logits leaves."""
    per_class = held.per_class + held.per_pair
    most = min(_MOST_BLOCK, classes)
    return most if per_class == 0 else max(floor, min(most, left // _BLOCK_SHARE // per_class))


def _balanced(rows: int, most: int) -> int:
    """Rows of each of the fewest chunks, nearly equal ones."""
    if rows <= most:
        return max(1, rows)
    count = -(-rows // most)
    even = -(-rows // count)
    stepped = -(-even // _ROW_STEP) * _ROW_STEP
    return stepped if stepped <= most else even
