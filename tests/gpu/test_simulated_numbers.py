"""Numbers on the simulated GPU: casts, local arrays, conversions, the fast power of two."""

import itertools

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU needs greenlet")

from gpu.simulation import machine
from gpu.simulation.scalars import CASTS, cuda, math

int32, uint32 = CASTS[np.int32], CASTS[np.uint32]


def test_casts_wrap_around():
    assert uint32(-1) == 0xFFFFFFFF
    assert int32(0x80000000) == -(2**31)
    assert CASTS[np.uint64](-1) == 2**64 - 1
    assert CASTS[np.int8](200) == -56
    assert int32(np.float32(-2.7)) == -2


def test_casts_to_floats_are_those_of_numpy():
    rng = np.random.default_rng(0)
    numbers = [*(rng.standard_normal(50) * 10.0 ** rng.integers(-50, 50, 50)), 0.0, -0.0, np.inf]
    numbers += [1, -3, 2**24 + 1, True, np.float32(0.1), 1e-320, -1e-46]
    with np.errstate(all="ignore"):
        for number, kind in itertools.product(numbers, (np.float32, np.float64)):
            got, want = CASTS[kind](number), kind(number)
            assert type(got) is kind
            assert got.tobytes() == want.tobytes()
            if type(number) is np.float64:
                assert CASTS[kind](float(number)).tobytes() == want.tobytes()


def test_local_arrays():
    words = cuda.local.array(4, uint32)
    words[1] = -1
    assert words[1] == 0xFFFFFFFF
    with pytest.raises(TypeError):
        words[0] + 1  # nothing was stored there
    with pytest.raises(IndexError):
        words[4] = 1
    numbers = cuda.local.array(2, np.float32)
    assert np.isnan(numbers[0])
    assert numbers[0].dtype == np.float32


def test_exp2_errs_as_much_as_it_may():
    numbers = np.linspace(-125.5, 127.5, 1001).astype(np.float32)
    got = np.array([float(machine.exp2(number)) for number in numbers])
    error = got / np.exp2(numbers.astype(np.float64)) - 1
    assert 2**-22.1 < error.max() < 2**-21.6
    assert -(2**-21.6) < error.min() < -(2**-22.1)
    special = [machine.exp2(np.float32(x)) for x in (0, -0.0, -np.inf, np.inf, -126.5, 1e-40)]
    assert special == [1, 1, 0, np.inf, 0, 1]
    assert np.isnan(machine.exp2(np.float32(np.nan)))


def test_conversions():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    numbers = (rng.standard_normal(300) * 10.0 ** rng.integers(-9, 9, 300)).astype(np.float32)
    numbers[:4] = [np.inf, -np.inf, 0, -0.0]
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16).view(np.uint16)
        bfloats = numbers.astype(ml_dtypes.bfloat16).view(np.uint16)
        for number, bits, bfloat in zip(numbers, halves, bfloats, strict=True):
            half = int(bits)
            assert machine.half_of_float(number) == half
            assert machine.pack_half(number, np.float32(1)) == half | 0x3C00 << 16
            assert machine.pack_bfloat(np.float32(1), number) == 0x3F80 | int(bfloat) << 16
            assert machine.float_of_half(half | 0xAB0000) == bits.view(np.float16)
            assert machine.float_of_bits(machine.bits_of_float(number)) == number
            low, high = machine.words_of_double(np.float64(number) / 3)
            assert machine.double_of_words(low, high) == np.float64(number) / 3
    assert machine.pack_bfloat(np.float32(np.nan), np.float32(0)) == 0x7FFF
    assert np.isnan(machine.float_of_half(machine.half_of_float(np.float32(np.nan))))


def test_maxima_prefer_numbers():
    for maximum in (machine.max_f32, machine.max_f64):
        assert maximum(np.float32(np.nan), np.float32(-np.inf)) == -np.inf
        assert maximum(np.float32(2), np.float32(np.nan)) == 2
        assert maximum(np.float32(2), np.float32(3)) == 3


def test_mathematics_keeps_the_kind():
    with np.errstate(all="ignore"):
        assert math.log(np.float64(0)) == -np.inf
        assert math.exp(np.float64(1000)) == np.inf
    assert math.tanh(np.float32(0.5)).dtype == np.float32
    assert math.exp(np.float64(0.5)).dtype == np.float64
