"""How numbers of each kind lie in memory: one at a time, and as the words of a 16-byte vector.

A thread keeps the words as it loaded them, in registers; a number is made of them where it is
needed. Half precision so takes half the registers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.contract import KINDS
from fastxent.backends.cuda import machine

__all__ = ["SIZES", "VECTOR", "Storage", "integer_at", "storage_of"]

VECTOR = 16  # bytes
SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1}

float32: Any = np.float32
float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32

_UINT8, _INT8, _UINT16, _INT16, _UINT32, _INT32, _UINT64, _INT64 = range(4, len(KINDS))


class Storage(NamedTuple):
    """The functions of one kind; words are uint32, addresses int64.

    Attributes
    ----------
    size : int
        Bytes of a number.
    lanes : int
        Numbers of a vector.
    number : type
        What its numbers are computed in.
    load : function of (address)
        One number.
    store : function of (address, number)
        One number, rounded to nearest; not of uint8.
    number_at : function of (words, index)
        That number of an array of words.
    largest_of : function of (words, count)
        Largest number in so many words, a multiple of 4; a NaN counts for nothing.
    words_of : function of (numbers)
        Four words of an array of `lanes` numbers, rounded to nearest.
    load_masked : function of (address, inside)
        Four words at a multiple of 16; outside nothing is read, and every number is -inf.
    load_words : function of (address, inside, whole)
        Four words, read as a vector where `whole`, else in pieces of a number or four bytes,
        whichever is less. Outside nothing is read, and every number is 0.
    store_words : function of (address, a, b, c, d, inside, whole)
        The converse.
    """

    size: int
    lanes: int
    number: Any
    load: Any
    store: Any
    number_at: Any
    largest_of: Any
    words_of: Any
    load_masked: Any
    load_words: Any
    store_words: Any


def storage_of(kind: str) -> Storage:
    """Make the functions of a kind; uint8 has `load` alone."""
    return _MAKERS[kind]()


def _float32() -> Storage:
    @register_jitable
    def load(address: Any) -> Any:
        return machine.load_f32(address)

    @register_jitable
    def store(address: Any, number: Any) -> None:
        machine.store_f32(address, number)

    @register_jitable
    def number_at(words: Any, index: Any) -> Any:
        return machine.float_of_bits(words[index])

    @register_jitable
    def largest_of(words: Any, count: Any) -> Any:
        largest = float32(-math.inf)
        for index in range(count):
            largest = machine.max_f32(largest, machine.float_of_bits(words[index]))
        return largest

    @register_jitable
    def words_of(numbers: Any) -> Any:
        a, b = machine.bits_of_float(numbers[0]), machine.bits_of_float(numbers[1])
        c, d = machine.bits_of_float(numbers[2]), machine.bits_of_float(numbers[3])
        return a, b, c, d

    @register_jitable
    def load_masked(address: Any, inside: Any) -> Any:
        return machine.load_vector(address, inside, uint32(0xFF800000))

    vectors = (number_at, largest_of, words_of, load_masked, _load_words, _store_words)
    return Storage(4, 4, float32, load, store, *vectors)


def _float64() -> Storage:
    @register_jitable
    def load(address: Any) -> Any:
        return machine.load_f64(address)

    @register_jitable
    def store(address: Any, number: Any) -> None:
        machine.store_f64(address, number)

    @register_jitable
    def number_at(words: Any, index: Any) -> Any:
        return machine.double_of_words(words[2 * index], words[2 * index + 1])

    @register_jitable
    def largest_of(words: Any, count: Any) -> Any:
        largest = float64(-math.inf)
        for index in range(count >> 1):
            largest = machine.max_f64(largest, number_at(words, index))
        return largest

    @register_jitable
    def words_of(numbers: Any) -> Any:
        a, b = machine.words_of_double(numbers[0])
        c, d = machine.words_of_double(numbers[1])
        return a, b, c, d

    @register_jitable
    def load_masked(address: Any, inside: Any) -> Any:
        a, b, c, d = machine.load_vector(address, inside, uint32(0))
        high = uint32(0) if inside else uint32(0xFFF00000)  # the half of -inf that is not 0
        return a, uint32(b | high), c, uint32(d | high)

    vectors = (number_at, largest_of, words_of, load_masked, _load_words, _store_words)
    return Storage(8, 2, float64, load, store, *vectors)


def _float16() -> Storage:
    @register_jitable
    def load(address: Any) -> Any:
        return machine.float_of_half(machine.load_u16(address))

    @register_jitable
    def store(address: Any, number: Any) -> None:
        machine.store_u16(address, machine.half_of_float(number))

    @register_jitable
    def number_at(words: Any, index: Any) -> Any:
        # without a branch: `index` is a constant once its loop is unrolled
        return machine.float_of_half(uint32(words[index >> 1] >> uint32((index & 1) << 4)))

    @register_jitable
    def largest_of(words: Any, count: Any) -> Any:
        pair = uint32(0xFC00FC00)
        for index in range(count):
            pair = machine.max_half_pair(pair, words[index])
        low = machine.float_of_half(pair)
        return machine.max_f32(low, machine.float_of_half(uint32(pair >> uint32(16))))

    @register_jitable
    def words_of(numbers: Any) -> Any:
        a, b = machine.pack_half(numbers[0], numbers[1]), machine.pack_half(numbers[2], numbers[3])
        c, d = machine.pack_half(numbers[4], numbers[5]), machine.pack_half(numbers[6], numbers[7])
        return a, b, c, d

    @register_jitable
    def load_masked(address: Any, inside: Any) -> Any:
        return machine.load_vector(address, inside, uint32(0xFC00FC00))

    vectors = (number_at, largest_of, words_of, load_masked, _load_halves, _store_halves)
    return Storage(2, 8, float32, load, store, *vectors)


def _bfloat16() -> Storage:
    @register_jitable
    def load(address: Any) -> Any:
        return machine.float_of_bits(uint32(machine.load_u16(address) << uint32(16)))

    @register_jitable
    def store(address: Any, number: Any) -> None:
        machine.store_u16(address, machine.pack_bfloat(number, float32(0)))

    @register_jitable
    def number_at(words: Any, index: Any) -> Any:
        low_gone = uint32(words[index >> 1] >> uint32((index & 1) << 4))
        return machine.float_of_bits(uint32(low_gone << uint32(16)))

    @register_jitable
    def largest_of(words: Any, count: Any) -> Any:
        pair = uint32(0xFF80FF80)
        for index in range(count):
            pair = machine.max_bfloat_pair(pair, words[index])
        low = machine.float_of_bits(uint32(pair << uint32(16)))
        return machine.max_f32(low, machine.float_of_bits(uint32(pair & uint32(0xFFFF0000))))

    @register_jitable
    def words_of(numbers: Any) -> Any:
        a = machine.pack_bfloat(numbers[0], numbers[1])
        b = machine.pack_bfloat(numbers[2], numbers[3])
        c = machine.pack_bfloat(numbers[4], numbers[5])
        d = machine.pack_bfloat(numbers[6], numbers[7])
        return a, b, c, d

    @register_jitable
    def load_masked(address: Any, inside: Any) -> Any:
        return machine.load_vector(address, inside, uint32(0xFF80FF80))

    vectors = (number_at, largest_of, words_of, load_masked, _load_halves, _store_halves)
    return Storage(2, 8, float32, load, store, *vectors)


def _uint8() -> Storage:
    @register_jitable
    def load(address: Any) -> Any:
        return float32(machine.load_u8(address))

    return Storage(1, 16, float32, load, *(None,) * 7)


_MAKERS = {
    "float32": _float32,
    "float64": _float64,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "uint8": _uint8,
}


@register_jitable
def _load_words(address: Any, inside: Any, whole: Any) -> Any:
    a = uint32(0)
    b = uint32(0)
    c = uint32(0)
    d = uint32(0)
    if whole:
        a, b, c, d = machine.load_vector(address, inside, uint32(0))
    elif inside:
        a, b = machine.load_u32(address), machine.load_u32(address + 4)
        c, d = machine.load_u32(address + 8), machine.load_u32(address + 12)
    return a, b, c, d


@register_jitable
def _store_words(address: Any, a: Any, b: Any, c: Any, d: Any, inside: Any, whole: Any) -> None:
    if whole:
        machine.store_vector(address, a, b, c, d, inside)
    elif inside:
        machine.store_u32(address, a)
        machine.store_u32(address + 4, b)
        machine.store_u32(address + 8, c)
        machine.store_u32(address + 12, d)


@register_jitable
def _load_pair(address: Any) -> Any:
    low, high = machine.load_u16(address), machine.load_u16(address + 2)
    return uint32(low | uint32(high << uint32(16)))


@register_jitable
def _load_halves(address: Any, inside: Any, whole: Any) -> Any:
    a = uint32(0)
    b = uint32(0)
    c = uint32(0)
    d = uint32(0)
    if whole:
        a, b, c, d = machine.load_vector(address, inside, uint32(0))
    elif inside:
        a, b = _load_pair(address), _load_pair(address + 4)
        c, d = _load_pair(address + 8), _load_pair(address + 12)
    return a, b, c, d


@register_jitable
def _store_pair(address: Any, word: Any) -> None:
    machine.store_u16(address, word)
    machine.store_u16(address + 2, uint32(word >> uint32(16)))


@register_jitable
def _store_halves(address: Any, a: Any, b: Any, c: Any, d: Any, inside: Any, whole: Any) -> None:
    if whole:
        machine.store_vector(address, a, b, c, d, inside)
    elif inside:
        _store_pair(address, a)
        _store_pair(address + 4, b)
        _store_pair(address + 8, c)
        _store_pair(address + 12, d)


@register_jitable
def integer_at(array: Any, index: Any, kind: Any) -> Any:
    """Integer of an array of this kind, a place in KINDS known at run time, as int64.

    Those of uint64 from 2**63 on come out negative.
    """
    if kind == _INT64:
        return int64(machine.load_i64(array + index * 8))
    if kind == _INT32:
        return int64(machine.load_i32(array + index * 4))
    if kind == _UINT8:
        return int64(machine.load_u8(array + index))
    if kind == _INT8:
        return int64(machine.load_i8(array + index))
    if kind == _INT16:
        return int64(machine.load_i16(array + index * 2))
    if kind == _UINT16:
        return int64(machine.load_u16(array + index * 2))
    if kind == _UINT32:
        return int64(machine.load_u32(array + index * 4))
    return int64(machine.load_i64(array + index * 8))
