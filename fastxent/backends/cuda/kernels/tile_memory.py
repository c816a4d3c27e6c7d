"""Whole rows of few classes, moved between global and shared memory as one piece.

The piece lies in shared memory as in global memory, from the multiple of 16 bytes before it on, so
that vectors stay vectors. Threads that each walk along a row of their own then meet in the same
bank where the bytes of a row are an even number of words; such a piece gets a word more after every
128 bytes, and goes there word by word.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.storage import SIZES, VECTOR, storage_of

__all__ = ["TileMemory", "tile_memory_of"]

cuda = machine.cuda
float32, float64, int32, int64, uint32 = np.float32, np.float64, np.int32, np.int64, np.uint32

# What a block has without asking for more, less what it needs besides for its sums.
_SHARED_BYTES = (48 << 10) - 1024
_BANKS_BYTES = 128


class TileMemory(NamedTuple):
    """The functions of a kind; `tile` is the shared memory, `place` where the piece begins.

    Attributes
    ----------
    room : int
        Bytes of shared memory; 0 where the kind is read and written directly.
    fetch : function of (tile, place, count, thread, values)
        Fill `values` with the numbers of the thread's row, if it has one: `count` numbers make the
        whole piece. All threads have to call it; the tile is free again afterwards.
    put : function of (tile, place, index, number)
        Leave number `index` of the piece.
    flush : function of (tile, place, count, thread)
        Write the piece that all threads have left; they all have to call it. The tile is free
        again afterwards.
    """

    room: int
    fetch: Any
    put: Any
    flush: Any


def tile_memory_of(kind: str, classes: int, rows: int, aligned: bool, number: Any) -> TileMemory:
    """Make the functions for as many threads as rows.

    Numbers that have no shared memory of 16 bytes at a time are those of uint8, and pieces too
    large for it: probabilities may be four times as large as the logits that `rows` was made for.
    """
    size = SIZES[kind]
    room = _padded(rows * classes * size + VECTOR, size, classes)
    if kind == "uint8" or room > _SHARED_BYTES:
        return _direct(kind, classes, number)
    return TileMemory(room, *_shared(kind, classes, rows, aligned, number))


def _is_padded(size: int, classes: int) -> bool:
    return classes * size % (2 * max(size, 4)) == 0


def _padded(nbytes: int, size: int, classes: int) -> int:
    if _is_padded(size, classes):
        nbytes += -(-nbytes // _BANKS_BYTES) * max(size, 4)
    return -(-nbytes // VECTOR) * VECTOR


def _direct(kind: str, classes: int, number: Any) -> TileMemory:
    CLASSES, SIZE = classes, SIZES[kind]
    load, store = storage_of(kind).load, storage_of(kind).store

    @register_jitable
    def fetch(tile: Any, place: Any, count: Any, thread: Any, values: Any) -> None:
        first = thread * CLASSES
        if first < count:
            for k in range(CLASSES):
                values[k] = number(load(place + (first + k) * SIZE))

    @register_jitable
    def put(tile: Any, place: Any, index: Any, value: Any) -> None:
        store(place + index * SIZE, value)

    @register_jitable
    def flush(tile: Any, place: Any, count: Any, thread: Any) -> None:
        pass

    return TileMemory(0, fetch, put, flush)


def _one(kind: str, number: Any) -> Any:
    """Make functions for one number: load and store in shared memory, and copies either way."""
    HALF = kind == "float16"

    if SIZES[kind] == 2:

        @register_jitable
        def load(at: Any) -> Any:
            bits = machine.load_shared_u16(at)
            if HALF:
                return number(machine.float_of_half(bits))
            return number(machine.float_of_bits(uint32(bits << uint32(16))))

        @register_jitable
        def store(at: Any, value: Any) -> None:
            if HALF:
                machine.store_shared_u16(at, machine.half_of_float(value))
            else:
                machine.store_shared_u16(at, machine.pack_bfloat(value, float32(0)))

        @register_jitable
        def bring(at: Any, address: Any) -> None:
            machine.store_shared_u16(at, machine.load_u16(address))

        @register_jitable
        def take(at: Any, address: Any) -> None:
            machine.store_u16(address, machine.load_shared_u16(at))

    elif SIZES[kind] == 4:

        @register_jitable
        def load(at: Any) -> Any:
            return number(machine.load_shared_f32(at))

        @register_jitable
        def store(at: Any, value: Any) -> None:
            machine.store_shared_f32(at, float32(value))

        @register_jitable
        def bring(at: Any, address: Any) -> None:
            machine.store_shared_u32(at, machine.load_u32(address))

        @register_jitable
        def take(at: Any, address: Any) -> None:
            machine.store_u32(address, machine.load_shared_u32(at))

    else:

        @register_jitable
        def load(at: Any) -> Any:
            return number(machine.load_shared_f64(at))

        @register_jitable
        def store(at: Any, value: Any) -> None:
            machine.store_shared_f64(at, float64(value))

        @register_jitable
        def bring(at: Any, address: Any) -> None:
            machine.store_shared_f64(at, machine.load_f64(address))

        @register_jitable
        def take(at: Any, address: Any) -> None:
            machine.store_f64(address, machine.load_shared_f64(at))

    return load, store, bring, take


def _shared(kind: str, classes: int, rows: int, aligned: bool, number: Any) -> Any:
    CLASSES, THREADS, ALIGNED, SIZE = classes, rows, aligned, SIZES[kind]
    PADDED, PAD = _is_padded(SIZE, classes), max(SIZE, 4)
    LANES = VECTOR // SIZE
    window = rows * classes * SIZE + (0 if aligned else VECTOR - SIZE)
    TURNS = -(-window // (VECTOR * THREADS))
    WORDS = 4 * TURNS
    load, store, bring, take = _one(kind, number)

    @register_jitable
    def spot(tile: Any, byte: Any) -> Any:
        """Shared address of a byte of the window."""
        byte = int32(byte)
        return int32(tile + byte + (byte >> 7) * PAD) if PADDED else int32(tile + byte)

    @register_jitable
    def phase_of(place: Any) -> Any:
        """Bytes from a multiple of 16 to where the piece begins."""
        return int64(0) if ALIGNED else place & 15

    @register_jitable
    def is_whole(begin: Any, count: Any) -> Any:
        """Whether the vector that begins so many bytes into the piece lies within it."""
        return begin >= 0 and begin + VECTOR <= count * SIZE

    @register_jitable
    def fetch(tile: Any, place: Any, count: Any, thread: Any, values: Any) -> None:
        phase = phase_of(place)
        words = cuda.local.array(WORDS, uint32)
        for turn in range(TURNS):
            begin = VECTOR * (turn * THREADS + thread) - phase
            a, b, c, d = machine.load_vector(place + begin, is_whole(begin, count), uint32(0))
            words[4 * turn], words[4 * turn + 1] = a, b
            words[4 * turn + 2], words[4 * turn + 3] = c, d
        for turn in range(TURNS):
            begin = VECTOR * (turn * THREADS + thread) - phase
            if is_whole(begin, count):
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
            elif begin < count * SIZE:
                for lane in range(LANES):
                    byte = begin + lane * SIZE
                    if byte >= 0 and byte < count * SIZE:
                        bring(spot(tile, byte + phase), place + byte)
        machine.barrier()
        first = thread * CLASSES
        if first < count:
            for k in range(CLASSES):
                values[k] = load(spot(tile, (first + k) * SIZE + phase))
        machine.barrier()

    @register_jitable
    def put(tile: Any, place: Any, index: Any, value: Any) -> None:
        store(spot(tile, index * SIZE + phase_of(place)), value)

    @register_jitable
    def flush(tile: Any, place: Any, count: Any, thread: Any) -> None:
        machine.barrier()
        phase = phase_of(place)
        for turn in range(TURNS):
            begin = VECTOR * (turn * THREADS + thread) - phase
            if is_whole(begin, count):
                at = spot(tile, begin + phase)
                if PADDED:
                    a, b = machine.load_shared_u32(at), machine.load_shared_u32(int32(at + 4))
                    c = machine.load_shared_u32(int32(at + 8))
                    d = machine.load_shared_u32(int32(at + 12))
                else:
                    a, b, c, d = machine.load_shared_vector(at)
                machine.store_vector(place + begin, a, b, c, d, True)
            elif begin < count * SIZE:
                for lane in range(LANES):
                    byte = begin + lane * SIZE
                    if byte >= 0 and byte < count * SIZE:
                        take(spot(tile, byte + phase), place + byte)
        machine.barrier()

    return fetch, put, flush
