"""Numbers of each kind in shared memory, and copies of them from and to global memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine

__all__ = ["Numbers", "numbers_of"]

float32: Any = np.float32
float64: Any = np.float64
uint32: Any = np.uint32


class Numbers(NamedTuple):
    """The functions of a kind; `at` is a shared address.

    Attributes
    ----------
    load : function of (at)
    store : function of (at, number)
        Rounded to nearest.
    load_pair, store_pair : function of (at), of (at, low, high)
        Two of 16 bits at a multiple of 4; None for the others.
    bring, take : function of (at, address)
        Copy a number's bits from global memory, or there.
    """

    load: Any
    store: Any
    load_pair: Any
    store_pair: Any
    bring: Any
    take: Any


def numbers_of(kind: str) -> Numbers:
    """Make the functions of a kind."""
    return {"float32": _float32, "float64": _float64}.get(kind, lambda: _half(kind))()


def _float32() -> Numbers:
    @register_jitable
    def store(at: Any, number: Any) -> None:
        machine.store_shared_f32(at, float32(number))

    @register_jitable
    def bring(at: Any, address: Any) -> None:
        machine.store_shared_u32(at, machine.load_u32(address))

    @register_jitable
    def take(at: Any, address: Any) -> None:
        machine.store_u32(address, machine.load_shared_u32(at))

    return Numbers(machine.load_shared_f32, store, None, None, bring, take)


def _float64() -> Numbers:
    @register_jitable
    def store(at: Any, number: Any) -> None:
        machine.store_shared_f64(at, float64(number))

    @register_jitable
    def bring(at: Any, address: Any) -> None:
        machine.store_shared_f64(at, machine.load_f64(address))

    @register_jitable
    def take(at: Any, address: Any) -> None:
        machine.store_f64(address, machine.load_shared_f64(at))

    return Numbers(machine.load_shared_f64, store, None, None, bring, take)


def _half(kind: str) -> Numbers:
    HALF = kind == "float16"
    pack = machine.pack_half if HALF else machine.pack_bfloat

    @register_jitable
    def load(at: Any) -> Any:
        bits = machine.load_shared_u16(at)
        if HALF:
            return machine.float_of_half(bits)
        return machine.float_of_bits(uint32(bits << uint32(16)))

    @register_jitable
    def store(at: Any, number: Any) -> None:
        machine.store_shared_u16(at, pack(float32(number), float32(0)))

    @register_jitable
    def load_pair(at: Any) -> Any:
        word = machine.load_shared_u32(at)
        if HALF:
            high = machine.float_of_half(uint32(word >> uint32(16)))
            return machine.float_of_half(word), high
        low = machine.float_of_bits(uint32(word << uint32(16)))
        return low, machine.float_of_bits(uint32(word & uint32(0xFFFF0000)))

    @register_jitable
    def store_pair(at: Any, low: Any, high: Any) -> None:
        machine.store_shared_u32(at, pack(float32(low), float32(high)))

    @register_jitable
    def bring(at: Any, address: Any) -> None:
        machine.store_shared_u16(at, machine.load_u16(address))

    @register_jitable
    def take(at: Any, address: Any) -> None:
        machine.store_u16(address, machine.load_shared_u16(at))

    return Numbers(load, store, load_pair, store_pair, bring, take)
