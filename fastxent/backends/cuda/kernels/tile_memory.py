"""Whole rows of few classes, moved between global and shared memory as one piece.

The piece lies in shared memory as in global memory, from the multiple of 16 bytes before it on, so
that vectors stay vectors. Threads that each walk along a row of their own then meet in the same
bank, at most two of them, but more where a row is a multiple of four words (of four numbers, if
they are of 64 bits). Such a piece gets a word (a number) more after every 128 bytes, and goes there
word by word.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.storage import SIZES, VECTOR, storage_of
from fastxent.backends.cuda.kernels.tile_numbers import numbers_of

__all__ = ["TileMemory", "spots_of", "tile_memory_of"]

cuda = machine.cuda
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32

# What a block has without asking for more, less what it needs besides for its sums.
_SHARED_BYTES = (48 << 10) - 1024
_BANKS_BYTES = 128


class TileMemory(NamedTuple):
    """The functions of a kind; `tile` is the shared memory, `place` where the piece begins.

    The two that move have to be called by all threads; `count` numbers make the whole piece.

    Attributes
    ----------
    room : int
        Bytes of shared memory; 0 where the kind is read and written directly.
    fetch : function of (tile, place, count, thread)
        Move the piece into the tile and wait for it.
    read : function of (tile, place, thread, values)
        The numbers of the thread's row.
    read_one : function of (tile, place, index)
        Number `index` of the piece.
    write : function of (tile, place, thread, values)
        Leave the numbers of the thread's row in the tile.
    write_one : function of (tile, place, index, number)
        Leave number `index` of the piece there.
    flush : function of (tile, place, count, thread)
        Wait for what all threads have left, and move it out of the tile.
    """

    room: int
    fetch: Any
    read: Any
    read_one: Any
    write: Any
    write_one: Any
    flush: Any


def tile_memory_of(kind: str, classes: int, rows: int, aligned: bool, number: Any) -> TileMemory:
    """Make the functions for as many threads as rows.

    Without shared memory go numbers of uint8, and pieces too large for it: probabilities may take
    four times the bytes of the logits that `rows` was made for.
    """
    size = SIZES[kind]
    room = _room(rows * classes * size, size, classes)
    if kind == "uint8" or room > _SHARED_BYTES:
        return _direct(kind, classes, number)
    fetch, flush = _moves(kind, classes, rows, aligned)
    read, read_one, write, write_one = _accesses(kind, classes, aligned, number)
    return TileMemory(room, fetch, read, read_one, write, write_one, flush)


def _is_padded(size: int, classes: int) -> bool:
    return classes * size % (4 * max(size, 4)) == 0


def _room(nbytes: int, size: int, classes: int) -> int:
    nbytes += VECTOR
    if _is_padded(size, classes):
        nbytes += -(-nbytes // _BANKS_BYTES) * max(size, 4)
    return -(-nbytes // VECTOR) * VECTOR


def _direct(kind: str, classes: int, number: Any) -> TileMemory:
    CLASSES, SIZE = classes, SIZES[kind]
    load, store = storage_of(kind).load, storage_of(kind).store

    @register_jitable
    def move(tile: Any, place: Any, count: Any, thread: Any) -> None:
        pass

    @register_jitable
    def read_one(tile: Any, place: Any, index: Any) -> Any:
        return number(load(place + int64(index) * SIZE))

    @register_jitable
    def write_one(tile: Any, place: Any, index: Any, value: Any) -> None:
        store(place + int64(index) * SIZE, value)

    @register_jitable
    def read(tile: Any, place: Any, thread: Any, values: Any) -> None:
        for k in range(CLASSES):
            values[k] = read_one(tile, place, thread * CLASSES + k)

    @register_jitable
    def write(tile: Any, place: Any, thread: Any, values: Any) -> None:
        for k in range(CLASSES):
            write_one(tile, place, thread * CLASSES + k, values[k])

    return TileMemory(0, move, read, read_one, write, write_one, move)


def spots_of(kind: str, classes: int, aligned: bool) -> Any:
    """Make the functions for the shared address of a byte, and for where the piece begins.

    The third result is whether the piece is spread.
    """
    ALIGNED, SIZE = aligned, SIZES[kind]
    PADDED, PAD = _is_padded(SIZE, classes), max(SIZE, 4)

    @register_jitable
    def spot(tile: Any, byte: Any) -> Any:
        """Shared address of a byte, counted from the multiple of 16 before the piece."""
        byte = int32(byte)
        if PADDED:
            return int32(tile + byte + int32(int32(byte >> 7) * PAD))
        return int32(tile + byte)

    @register_jitable
    def phase_of(place: Any) -> Any:
        """Bytes from a multiple of 16 to where the piece begins."""
        return int32(0) if ALIGNED else int32(place & 15)

    return spot, phase_of, PADDED


def _moves(kind: str, classes: int, rows: int, aligned: bool) -> tuple[Any, Any]:
    THREADS, ALIGNED, SIZE = rows, aligned, SIZES[kind]
    LANES = VECTOR // SIZE
    window = rows * classes * SIZE + (0 if aligned else VECTOR - SIZE)
    TURNS = -(-window // (VECTOR * THREADS))
    WORDS = 4 * TURNS
    spot, phase_of, PADDED = spots_of(kind, classes, aligned)
    numbers = numbers_of(kind)
    bring, take = numbers.bring, numbers.take

    @register_jitable
    def is_whole(begin: Any, bytes: Any) -> Any:
        """Whether the vector that begins so many bytes into the piece lies within it."""
        return (ALIGNED or begin >= 0) and int32(begin + VECTOR) <= bytes

    @register_jitable
    def fetch(tile: Any, place: Any, count: Any, thread: Any) -> None:
        phase, bytes = phase_of(place), int32(count * SIZE)
        words = cuda.local.array(WORDS, uint32)
        for turn in range(TURNS):
            begin = int32(int32(VECTOR * int32(turn * THREADS + thread)) - phase)
            inside = is_whole(begin, bytes)
            a, b, c, d = machine.load_vector(place + begin, inside, uint32(0))
            words[4 * turn], words[4 * turn + 1] = a, b
            words[4 * turn + 2], words[4 * turn + 3] = c, d
        for turn in range(TURNS):
            begin = int32(int32(VECTOR * int32(turn * THREADS + thread)) - phase)
            if is_whole(begin, bytes):
                at = spot(tile, begin + phase)
                a, b = words[4 * turn], words[4 * turn + 1]
                c, d = words[4 * turn + 2], words[4 * turn + 3]
                if PADDED:
                    machine.store_shared_u32(at, a)
                    machine.store_shared_u32(int32(at + 4), b)
                    machine.store_shared_u32(int32(at + 8), c)
                    machine.store_shared_u32(int32(at + 12), d)
                else:
                    machine.store_shared_vector(at, a, b, c, d)
            elif begin < bytes:
                for lane in range(LANES):
                    byte = int32(begin + lane * SIZE)
                    if (ALIGNED or byte >= 0) and byte < bytes:
                        bring(spot(tile, byte + phase), place + byte)
        machine.barrier()

    @register_jitable
    def flush(tile: Any, place: Any, count: Any, thread: Any) -> None:
        machine.barrier()
        phase, bytes = phase_of(place), int32(count * SIZE)
        for turn in range(TURNS):
            begin = int32(int32(VECTOR * int32(turn * THREADS + thread)) - phase)
            if is_whole(begin, bytes):
                at = spot(tile, begin + phase)
                if PADDED:
                    a, b = machine.load_shared_u32(at), machine.load_shared_u32(int32(at + 4))
                    c = machine.load_shared_u32(int32(at + 8))
                    d = machine.load_shared_u32(int32(at + 12))
                else:
                    a, b, c, d = machine.load_shared_vector(at)
                machine.store_vector(place + begin, a, b, c, d, True)
            elif begin < bytes:
                for lane in range(LANES):
                    byte = int32(begin + lane * SIZE)
                    if (ALIGNED or byte >= 0) and byte < bytes:
                        take(spot(tile, byte + phase), place + byte)

    return fetch, flush


def _accesses(kind: str, classes: int, aligned: bool, number: Any) -> tuple[Any, ...]:
    CLASSES, SIZE = classes, SIZES[kind]
    # two numbers at a time where each row begins at a word
    PAIRED, PAIRS = aligned and SIZE == 2 and classes % 2 == 0, classes // 2
    spot, phase_of, _ = spots_of(kind, classes, aligned)
    numbers = numbers_of(kind)
    load, store = numbers.load, numbers.store
    load_pair, store_pair = numbers.load_pair, numbers.store_pair

    @register_jitable
    def read_one(tile: Any, place: Any, index: Any) -> Any:
        return number(load(spot(tile, index * SIZE + phase_of(place))))

    @register_jitable
    def write_one(tile: Any, place: Any, index: Any, value: Any) -> None:
        store(spot(tile, index * SIZE + phase_of(place)), value)

    @register_jitable
    def read(tile: Any, place: Any, thread: Any, values: Any) -> None:
        first = int32(thread * CLASSES)
        if PAIRED:
            for k in range(PAIRS):
                low, high = load_pair(spot(tile, int32(first + 2 * k) * SIZE))
                values[2 * k], values[2 * k + 1] = number(low), number(high)
        else:
            for k in range(CLASSES):
                values[k] = read_one(tile, place, int32(first + k))

    @register_jitable
    def write(tile: Any, place: Any, thread: Any, values: Any) -> None:
        first = int32(thread * CLASSES)
        if PAIRED:
            for k in range(PAIRS):
                at = spot(tile, int32(first + 2 * k) * SIZE)
                store_pair(at, values[2 * k], values[2 * k + 1])
        else:
            for k in range(CLASSES):
                write_one(tile, place, int32(first + k), values[k])

    return read, read_one, write, write_one
