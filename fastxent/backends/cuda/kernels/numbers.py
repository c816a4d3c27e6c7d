"""Numbers of any kind, one at a time, and what the threads of a block have found together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.contract import KINDS
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.machine import (
    barrier,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_shared_f64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    shuffle_xor_f32,
    shuffle_xor_f64,
    store_shared_f64,
)

__all__ = [
    "SIZES",
    "block_leaster",
    "block_summer",
    "integer_loader",
    "loader",
]

float32: Any = np.float32
float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64

FLOATS = KINDS[:4]
# Bytes of a number of each of contract.KINDS.
SIZES = {
    **{"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2},
    **{"uint8": 1, "int8": 1, "uint16": 2, "int16": 2},
    **{"uint32": 4, "int32": 4, "uint64": 8, "int64": 8},
}
_LOADS = {
    **{"uint8": load_u8, "int8": load_i8},
    **{"uint16": load_u16, "int16": load_i16, "uint32": load_u32, "int32": load_i32},
    **{"uint64": load_u64, "int64": load_i64},
}


def loader(kind: str, compute: str) -> Any:
    """Give a function of an address: the number of this kind there, as `compute`."""
    number = float32 if compute == "float32" else float64
    read = storage_of(kind).load if kind in FLOATS else _LOADS[kind]

    @register_jitable
    def load(address: Any) -> Any:
        return number(read(address))

    return load


def integer_loader(kind: str) -> Any:
    """Give a function of an address: the integer there as int64, negative from 2^63 on."""
    read = load_i64 if kind == "uint64" else _LOADS[kind]

    @register_jitable
    def load(address: Any) -> Any:
        return int64(read(address))

    return load


def block_summer(number: Any, warps: int, everyone: bool = False) -> Any:
    """Make the function that adds up a number of each thread of a block, in a fixed order.

    It takes the number, the thread's, and shared memory of 8 bytes a warp that is used for nothing
    else, and gives the sum as float64 to thread 0, or to `everyone`; all threads have to call it.
    Those of a warp are added up in their own dtype.
    """
    DOUBLE, WARPS, EVERYONE = number is float64, warps, everyone

    @register_jitable
    def block_sum(value: Any, thread: Any, memory: Any) -> Any:
        for step in range(5):
            if DOUBLE:
                value += shuffle_xor_f64(value, int32(16 >> step))
            else:
                value += shuffle_xor_f32(value, int32(16 >> step))
        total = float64(value)
        if WARPS > 1:
            if thread & 31 == 0:
                store_shared_f64(int32(memory + 8 * (thread >> 5)), total)
            barrier()
            if EVERYONE or thread == 0:
                total = float64(0)
                for warp in range(WARPS):
                    total += load_shared_f64(int32(memory + 8 * warp))
        return total

    return block_sum


def block_leaster(warps: int) -> Any:
    """Make the function that finds the least float64 of a block's threads, none of which is NaN.

    Called like that of `block_summer`, it gives it to thread 0.
    """
    WARPS = warps

    @register_jitable
    def block_least(value: Any, thread: Any, memory: Any) -> Any:
        for step in range(5):
            value = min(value, shuffle_xor_f64(value, int32(16 >> step)))
        if WARPS > 1:
            if thread & 31 == 0:
                store_shared_f64(int32(memory + 8 * (thread >> 5)), value)
            barrier()
            if thread == 0:
                for warp in range(1, WARPS):
                    value = min(value, load_shared_f64(int32(memory + 8 * warp)))
        return value

    return block_least
