"""How a pass is cut up, and what of it is computed where it lies.

It depends on shapes, strides and what is asked for, but for `pieces` and `workers`, which change no
bit of the result. The C++ twin is src_cython/levels.cpp.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from fastxent.backends.contract import BLOCK, CHUNK_ELEMENTS, TILE_CLASSES

__all__ = [
    "BLOCK_SUMS",
    "LEAST_RUN",
    "MOST_COLUMN_CLASSES",
    "Schedule",
    "chunk_rows_of",
    "group_rows_of",
    "over",
    "pieces_of",
    "rows_of_chunk",
    "schedule_of",
]

# Fewer rows side by side than this would leave lanes empty; a tile of more classes would leave the
# caches. Their numbers are exact in float32.
LEAST_RUN = 16
MOST_COLUMN_CLASSES = 1 << 20

# Rows of a chunk of tiles are whole tiles of 16 rows.
_TILE_ROWS = 16

# Until rows are closed their exponentials are to stay in L1: so many classes at a time. 1,024 took
# 130 ns a row of 300 classes and 375 of 1,000, where 4,096 take 121 and 338.
_GROUP_CLASSES = 4096

# Numbers that a block of a row hands up; see row.py.
BLOCK_SUMS = 7

# Buffers of a tile: z, exponentials, masses, rows one after the other, and what is written.
TILE_BUFFERS = 5


class Schedule(NamedTuple):
    """How a pass is cut up; every field is one of the kernels' too."""

    run: int  # consecutive rows that lie side by side in memory, class by class; or all rows
    chunk_rows: int  # rows that a worker takes at a time; one total each
    chunks: int
    chunk_tiles: int
    tiles_of_run: int
    blocks: int  # of a row
    group_rows: int  # rows that a worker finishes together
    pieces: int  # of a row: more than one where workers share it
    workers: int
    block_bytes: int  # of a worker's buffer for one block, of which it has two
    buffer_bytes: int  # of a buffer for all rows of a group, or for a tile
    scratch_bytes: int  # of each worker
    shared_bytes: int  # of what lies in one place for all workers: a row that they share


def over(number: int, by: int) -> int:
    """Quotient, rounded up."""
    return (number + by - 1) // by


def rows_of_chunk(classes: int) -> int:
    """Rows of a chunk, as far as they are whole."""
    return max(1, CHUNK_ELEMENTS // classes)


def pieces_of(classes: int, chunks: int, workers: int) -> int:
    """Pieces into which rows are cut: more than one where workers would have nothing to do."""
    if workers == 1 or chunks >= 2 * workers:
        return 1
    return min(over(classes, CHUNK_ELEMENTS), 8 * workers)


def chunk_rows_of(classes: int) -> int:
    """Rows of a chunk, where they do not lie in columns."""
    rows = max(1, CHUNK_ELEMENTS // classes)
    return -(-rows // _TILE_ROWS) * _TILE_ROWS if classes <= TILE_CLASSES else rows


def group_rows_of(classes: int) -> int:
    """Rows that are finished together, at most as many as there are lanes of doubles."""
    return min(max(1, _GROUP_CLASSES // classes), 8)


@functools.lru_cache(256)  # 1 us; a program calls with the same few shapes
def schedule_of(
    rows: int, classes: int, size: int, column_run: int, buffered: bool, most_workers: int
) -> Schedule:
    """Cut up a pass: into chunks of rows, or rows into pieces where there are too few chunks.

    `size` is the bytes of a number of the compute dtype, `column_run` how many rows lie side by
    side or 0, `buffered` whether rows of many classes need memory of their own.
    """
    lanes = 64 // size
    if column_run or classes <= TILE_CLASSES:
        run = column_run or max(1, rows)
        chunk_rows = over(rows_of_chunk(classes), _TILE_ROWS) * _TILE_ROWS
        tiles_of_run, chunk_tiles = over(run, lanes), chunk_rows // lanes
        chunks = over(rows // run * tiles_of_run, chunk_tiles)
        return Schedule(
            run=run,
            chunk_rows=chunk_rows,
            chunks=chunks,
            chunk_tiles=chunk_tiles,
            tiles_of_run=tiles_of_run,
            blocks=0,
            group_rows=0,
            pieces=1,
            workers=max(1, min(most_workers, chunks)),
            block_bytes=0,
            buffer_bytes=classes * 64,
            scratch_bytes=TILE_BUFFERS * classes * 64,
            shared_bytes=0,
        )
    chunk_rows = chunk_rows_of(classes)
    chunks = over(rows, chunk_rows)
    pieces = pieces_of(classes, chunks, most_workers)
    blocks, group_rows = over(classes, BLOCK), group_rows_of(classes)
    block_bytes = BLOCK * size if buffered else 0
    buffer_bytes = over(group_rows * classes * size, 64) * 64 if buffered else 0
    of_rows = over(8 * BLOCK_SUMS * blocks * group_rows, 64) * 64 + 2 * buffer_bytes
    shared = pieces > 1
    return Schedule(
        run=0,
        chunk_rows=chunk_rows,
        chunks=chunks,
        chunk_tiles=0,
        tiles_of_run=0,
        blocks=blocks,
        group_rows=group_rows,
        pieces=pieces,
        workers=max(1, min(most_workers, pieces if shared else chunks)),
        block_bytes=block_bytes,
        buffer_bytes=buffer_bytes,
        scratch_bytes=2 * block_bytes + (0 if shared else of_rows),
        shared_bytes=of_rows if shared else 0,
    )
