"""Each intrinsic becomes the instruction that it is named for. What runs them is not needed."""

import functools
import math
import re

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from fastxent.backends.cuda import cubins, machine
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry
from gpu.disassembly import disassemble
from gpu.own_kernels import compiled_as

float32, int32, uint32 = np.float32, np.int32, np.uint32
BYTES = 64
SPEC = KernelSpec("own", None, LoopGeometry(64))


def everywhere(a, x):
    """All that capability 7.5 has, each at addresses and with constants of its own."""
    t = machine.thread()
    w0, w1, w2, w3 = machine.load_vector(a + 16 * t, t < 7, uint32(5))
    machine.store_vector(a + 16 * t, w3, w2, w1, w0, x > 0)
    machine.store_u8(a, machine.load_u8(a + 1))
    machine.store_u16(a, machine.load_u16(a + 2))
    machine.store_u32(a, machine.load_u32(a + 4))
    machine.store_i64(a, machine.load_i8(a + 1) + machine.load_i16(a + 2) + machine.load_i32(a + 4))
    machine.store_i64(a, machine.load_i64(a + 8) + machine.block())
    machine.store_i64(a, machine.load_u64(a + 8) >> np.uint64(1))
    machine.store_f32(a, machine.load_f32(a + 4))
    machine.store_f64(a, machine.load_f64(a + 8))
    first = machine.shared_memory(BYTES)
    second = machine.shared_memory(BYTES)
    machine.store_shared_u16(first + 2 * t, w0)
    machine.store_shared_u32(first + 4 * t, w1)
    machine.store_shared_f32(first + 4 * t, float32(t))
    machine.store_shared_f64(second + 8 * t, x)
    machine.store_shared_vector(second, w0, w1, w2, w3)
    machine.barrier()
    machine.warp_barrier()
    v0, v1, v2, v3 = machine.load_shared_vector(first)
    machine.store_u32(a, v0 + v1 + v2 + v3)
    machine.store_u32(a, machine.load_shared_u16(first) + machine.load_shared_u32(first + 4))
    machine.store_f32(a, machine.load_shared_f32(first))
    machine.store_f64(a, machine.load_shared_f64(second))
    machine.store_i64(a, machine.shuffle_xor_i64(machine.load_i64(a + 8 * t), int32(2)))
    machine.store_f32(a, machine.shuffle_xor_f32(machine.load_f32(a + 4 * t), int32(4)))
    machine.store_f64(a, machine.shuffle_xor_f64(machine.load_f64(a + 8 * t), int32(8)))
    half = machine.float_of_half(machine.load_u16(a))
    machine.store_u32(a, machine.half_of_float(half))
    machine.store_u32(a, machine.pack_half(float32(1), float32(2)))
    machine.store_f64(a, machine.double_of_words(uint32(3), uint32(4)))
    low, high = machine.words_of_double(machine.load_f64(a))
    machine.store_u32(a + 4, low)
    machine.store_u32(a + 12, high)
    machine.store_f32(a, machine.float_of_bits(w0))
    machine.store_u32(a, machine.bits_of_float(half))
    machine.store_f32(a + 20, machine.exp2(half))
    machine.store_f32(a, machine.max_f32(half, float32(x)))
    machine.store_f64(a, machine.max_f64(machine.load_f64(a), x))
    machine.store_f64(a, machine.reciprocal(x))
    machine.store_u32(a, machine.renewed(w0))
    machine.store_u32(a, machine.pack_bfloat(half, float32(2)))
    machine.store_u32(a, machine.max_half_pair(w0, w1))
    machine.store_u32(a, machine.max_bfloat_pair(w0, w1))


def since_ampere(a, x):
    w0 = machine.load_u32(a)
    machine.store_u32(a, machine.pack_bfloat(float32(1), float32(2)))
    machine.store_u32(a + 4, machine.max_half_pair(w0, w0))
    machine.store_u32(a + 8, machine.max_bfloat_pair(w0, w0))


def since_hopper(a, x):
    here = machine.shared_memory(BYTES)
    machine.cluster_arrive()
    machine.cluster_wait()
    there = machine.remote_shared(here, machine.cluster_rank() ^ 1)
    machine.store_f64(a, machine.load_remote_f64(there))


SOURCES = {(7, 5): everywhere, (8, 0): since_ampere, (9, 0): since_hopper}
R = r"%\w+"  # a register
FOUR = rf"\{{{R}, {R}, {R}, {R}\}}"
WARP = "31, 0xffffffff;"
EXPECTED = {
    "thread": r"%tid\.x",
    "block": r"%ctaid\.x",
    "cluster_rank": r"%cluster_ctarank",
    "barrier": r"bar\.sync 0;",
    "warp_barrier": r"bar\.warp\.sync 0xffffffff;",
    "cluster_arrive": r"barrier\.cluster\.arrive\.release\.aligned;",
    "cluster_wait": r"barrier\.cluster\.wait\.acquire\.aligned;",
    "load_vector": rf"@p ld\.global\.L1::no_allocate\.v4\.b32 {FOUR}, \[{R}\];",
    "store_vector": rf"@p st\.global\.v4\.b32 \[{R}\], {FOUR};",
    "load_u8": r"ld\.global\.u8",
    "load_i8": r"ld\.global\.s8",
    "load_u16": r"ld\.global\.u16",
    "load_i16": r"ld\.global\.s16",
    "load_u32": r"ld\.global\.u32",
    "load_i32": r"ld\.global\.s32",
    "load_u64": r"ld\.global\.u64",
    "load_i64": r"ld\.global\.s64",
    "load_f32": r"ld\.global\.f32",
    "load_f64": r"ld\.global\.f64",
    "store_u8": r"st\.global\.u8",
    "store_u16": r"st\.global\.u16",
    "store_u32": r"st\.global\.u32",
    "store_i64": r"st\.global\.s64",
    "store_f32": r"st\.global\.f32",
    "store_f64": r"st\.global\.f64",
    "shared_memory": rf"\.shared \.align 16 \.b8 [\w.$]+\[{BYTES}\]",
    "load_shared_vector": rf"ld\.shared\.v4\.b32 {FOUR}, \[{R}\];",
    "store_shared_vector": rf"st\.shared\.v4\.b32 \[{R}\], {FOUR};",
    "load_shared_u16": r"ld\.shared\.u16",
    "load_shared_u32": r"ld\.shared\.u32",
    "load_shared_f32": r"ld\.shared\.f32",
    "load_shared_f64": r"ld\.shared\.f64",
    "store_shared_u16": r"st\.shared\.u16",
    "store_shared_u32": r"st\.shared\.u32",
    "store_shared_f32": r"st\.shared\.f32",
    "store_shared_f64": r"st\.shared\.f64",
    "remote_shared": rf"mapa\.shared::cluster\.u32 {R}, {R}, {R};",
    "load_remote_f64": r"ld\.shared::cluster\.f64",
    "shuffle_xor_f32": rf"shfl\.sync\.bfly\.b32 %f\d+, %f\d+, {R}, {WARP}",
    "shuffle_xor_i64": rf"mov\.b64 \{{low, high\}}, %rd\d+; shfl.* {WARP} shfl.* {WARP} mov",
    "shuffle_xor_f64": rf"mov\.b64 \{{low, high\}}, %fd\d+; shfl.* {WARP} shfl.* {WARP} mov",
    "float_of_bits": r"mov\.b32 %f\d+, %r\d+;",
    "bits_of_float": r"mov\.b32 %r\d+, %f\d+;",
    "double_of_words": rf"mov\.b64 %fd\d+, \{{{R}, {R}\}};",
    "words_of_double": rf"mov\.b64 \{{{R}, {R}\}}, %fd\d+;",
    "float_of_half": rf"mov\.b32 \{{low, high\}}, {R}; cvt\.f32\.f16 {R}, low;",
    "half_of_float": rf"cvt\.rn\.f16\.f32 low, {R}; cvt\.u32\.u16 {R}, low;",
    "pack_half": rf"cvt\.rn\.f16\.f32 high, {R}; mov\.b32 {R}, \{{low, high\}};",
    "pack_bfloat": rf"cvt\.rn\.bf16x2\.f32 {R}, {R}, {R};",
    "max_half_pair": rf"max\.f16x2 {R}, {R}, {R};",
    "max_bfloat_pair": rf"max\.bf16x2 {R}, {R}, {R};",
    "renewed": rf"mov\.u32 z, %ctaid\.z; xor\.b32 {R}, {R}, z;",
    "reciprocal": rf"rcp\.approx\.ftz\.f64 {R}, {R};",
    "exp2": rf"ex2\.approx\.ftz\.f32 {R}, {R};",
    "max_f32": rf"max\.f32 {R}, {R}, {R};",
    "max_f64": rf"max\.f64 {R}, {R}, {R};",
}
# Before capability 8.0.
HIGH_HALVES = rf"prmt\.b32 {R}, \w+, \w+, 0x7632;"
EARLIER = {
    "pack_bfloat": rf"selp\.b32 high, 0x7fff0000, high, p; {HIGH_HALVES}",
    "max_half_pair": rf"max\.f32 x, x, y; cvt\.rn\.f16\.f32 b, x; mov\.b32 {R}, \{{a, b\}};",
    "max_bfloat_pair": rf"max\.f32 b, b, c; {HIGH_HALVES}",
}


@functools.cache
def ptx(kernel, capability):
    with compiled_as(SPEC.module, kernel):
        return cubins.ptx(SPEC, capability)


@functools.cache
def code(capability):
    return disassemble(cubins.link(ptx(SOURCES[capability], capability), capability))


def value_of(text, register):
    """The constant that a register was given."""
    (found,) = re.findall(rf"mov\.\w+\s+{re.escape(register)}, (\w+);", text)
    return found


def test_every_intrinsic_is_expected():
    assert {*EXPECTED, "cuda"} == set(machine.__all__)


@pytest.mark.parametrize("name", EXPECTED)
def test_instruction_of(name):
    *_, last = (one for one, kernel in SOURCES.items() if name in kernel.__code__.co_names)
    assert re.search(EXPECTED[name], ptx(SOURCES[last], last))


@pytest.mark.parametrize("name", EARLIER)
def test_instructions_in_its_place_on_turing(name):
    least, kernel = next(iter(SOURCES.items()))
    assert re.search(EARLIER[name], ptx(kernel, least))
    assert not re.search(EXPECTED[name], ptx(kernel, least))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (12, 0)])
def test_newer_gpus_have_what_older_ones_had(capability):
    for least, kernel in SOURCES.items():
        if least <= capability:
            assert cubins.link(ptx(kernel, capability), capability)


def test_machine_code_of_all_capabilities():
    oldest, ampere, hopper = (code(capability) for capability in SOURCES)
    assert oldest.count("LDG", "128", "NA") == oldest.count("STG", "128") == 1
    assert oldest.count("LDS", "128") == oldest.count("STS", "128") == 1
    assert oldest.count("MUFU", "EX2") == 1
    assert oldest.count("SHFL", "BFLY") == 5
    assert oldest.count("BAR") == 1
    assert oldest.spills == 0
    assert oldest.shared == 2 * BYTES
    assert ampere.count("F2FP", "BF16", "PACK_AB") == 1
    assert (hopper.count("UCGABAR_ARV"), hopper.count("UCGABAR_WAIT")) == (1, 1)


def test_nothing_goes_through_the_read_only_path():
    for capability, kernel in SOURCES.items():
        assert ".nc." not in ptx(kernel, capability)


def test_the_first_value_of_a_pair_is_the_low_one():
    text = ptx(since_ampere, (8, 0))
    ((high, low),) = re.findall(rf"cvt\.rn\.bf16x2\.f32 {R}, ({R}), ({R});", text)
    assert (value_of(text, low), value_of(text, high)) == ("0f3F800000", "0f40000000")
    text = ptx(everywhere, (7, 5))
    ((low, high),) = re.findall(
        rf"cvt\.rn\.f16\.f32 low, ({R}); cvt\.rn\.f16\.f32 high, ({R});", text
    )
    assert (value_of(text, low), value_of(text, high)) == ("0f3F800000", "0f40000000")
    ((low, high),) = re.findall(rf"mov\.b64 %fd\d+, \{{({R}), ({R})\}};", text)
    assert (value_of(text, low), value_of(text, high)) == ("3", "4")
    ((low, high),) = re.findall(rf"mov\.b64 \{{({R}), ({R})\}}, %fd\d+;", text)
    stored = dict(re.findall(rf"st\.global\.u32 \[({R})\], ({R});", text))
    offsets = dict(re.findall(rf"add\.s64\s+({R}), {R}, (\d+);", text))
    where = {value: offsets.get(address) for address, value in stored.items()}
    assert (where[low], where[high]) == ("4", "12")


def test_a_load_sees_what_was_stored_before():
    def kernel(a, x):
        first = machine.load_f32(a)
        machine.store_f32(a + 4 * machine.thread(), float32(x))
        machine.store_f32(a, first + machine.load_f32(a))

    text = ptx(kernel, (9, 0))
    found = re.findall(r"(ld|st)\.global\.f32", text)
    assert found == ["ld", "st", "ld", "st"]


def test_threads_meet_in_one_barrier():
    def kernel(a, x):
        is_first = False
        value = float32(x)
        if machine.thread() < 5:
            is_first = True
            value = machine.load_f32(a)
        machine.barrier()
        value = machine.shuffle_xor_f32(value, int32(16))
        # no copy of what is above for each value of is_first
        if is_first:
            machine.store_f32(a + 4 * machine.thread(), value)

    text = ptx(kernel, (9, 0))
    assert text.count("bar.sync") == text.count("shfl.sync") == 1


def test_elementary_functions_of_float64_and_a_local_array():
    def kernel(a, x):
        kept = machine.cuda.local.array(8, float32)
        for k in range(8):
            kept[k] = machine.load_f32(a + 4 * k)
        machine.barrier()
        for k in range(8):
            machine.store_f32(a + 4 * k, math.tanh(kept[7 - k]))
        machine.store_f64(a, math.exp(x) + math.log(x) + math.tanh(x))

    text = ptx(kernel, (9, 0))
    made = disassemble(cubins.link(text, (9, 0)))
    assert made.spills == 0
    assert made.before("BAR").count("LDG") == 8
    assert "call" not in text
