"""What the kernels ask of the machine: the only module with PTX or LLVM in it.

Each name below is an intrinsic: one instruction, or a few, with fixed types. A kernel calls them
like functions; the compiler converts the arguments to the types given here. Addresses are plain
integers: int64 in global memory, int32 in shared memory. 8- and 16-bit integers come and go in
32 bits. A predicate is an integer or a boolean.

Tests replace this module by one that does the same in Python, so that the kernels' own source runs
where there is no GPU. Importing it imports Numba: only what compiles a kernel does.
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba import cuda as _cuda
from numba.cuda import dispatcher as _dispatcher
from numba.cuda.extending import intrinsic

__all__ = [  # "cuda" is there for its local arrays
    *("thread", "block", "cluster_rank", "barrier", "warp_barrier", "cluster_arrive"),
    *("cluster_wait", "load_vector", "store_vector"),
    *("load_u8", "load_i8", "load_u16", "load_i16", "load_u32", "load_i32", "load_u64"),
    *("load_i64", "load_f32", "load_f64"),
    *("store_u8", "store_u16", "store_u32", "store_i64", "store_f32", "store_f64"),
    *("shared_memory", "load_shared_vector", "store_shared_vector"),
    *("load_shared_u16", "load_shared_u32", "load_shared_f32", "load_shared_f64"),
    *("store_shared_u16", "store_shared_u32", "store_shared_f32", "store_shared_f64"),
    *("remote_shared", "load_remote_f64"),
    *("shuffle_xor_f32", "shuffle_xor_i64", "shuffle_xor_f64"),
    *("renewed", "float_of_bits", "bits_of_float", "double_of_words", "words_of_double"),
    *("float_of_half", "half_of_float", "pack_half", "pack_bfloat"),
    *("max_half_pair", "max_bfloat_pair"),
    *("exp2", "reciprocal", "max_f32", "max_f64"),
    "cuda",
]

cuda: Any = _cuda  # mypy finds the numba.cuda that Numba has of its own
types, cgutils = cuda.types, cuda.cgutils
_I32, _I64 = types.int32, types.int64
_U32, _U64 = types.uint32, types.uint64
_F32, _F64 = types.float32, types.float64

# How LLVM names a register of each type, and the letter of its class in inline assembly.
_REGISTERS = {
    **{_I32: (ir.IntType(32), "r"), _U32: (ir.IntType(32), "r")},
    **{_I64: (ir.IntType(64), "l"), _U64: (ir.IntType(64), "l")},
    **{_F32: (ir.FloatType(), "f"), _F64: (ir.DoubleType(), "d")},
}
_WHOLE_WARP = "0xffffffff"


def _named(names: str) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    words = ["context", *names.split()]
    return inspect.Signature([inspect.Parameter(word, kind) for word in words])


def _instruction(
    result: Any,
    text: str,
    names: str = "",
    parameters: tuple[Any, ...] = (),
    *,
    acts: bool = False,
    together: bool = False,
    on_turing: str = "",
) -> Any:
    """Make an intrinsic of one piece of PTX, in which $0, $1 ... are results, then arguments.

    `acts` keeps it in its place among the others that act (memory is read or written), and from
    being merged with an equal one. `together` says that the threads of a warp meet in it: LLVM
    then neither copies it into branches nor moves it across them. `on_turing` is the PTX for
    GPUs before capability 8.0, where that is another.
    """
    results = result if isinstance(result, tuple) else () if result is None else (result,)
    returned = [_REGISTERS[kind][0] for kind in results]
    several = len(results) > 1
    if several:
        llvm_result, numba_result = ir.LiteralStructType(returned), types.UniTuple(*_count(results))
    else:
        llvm_result = returned[0] if results else ir.VoidType()
        numba_result = results[0] if results else types.void
    # "&": a result may be written before all arguments are read
    constraints = ["=&" + _REGISTERS[kind][1] for kind in results]
    constraints += [_REGISTERS[kind][1] for kind in parameters]
    function = ir.FunctionType(llvm_result, [_REGISTERS[kind][0] for kind in parameters])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        old = on_turing and _dispatcher.get_current_device().compute_capability < (8, 0)
        code = on_turing if old else text
        call = builder.asm(function, code, ",".join(constraints), arguments, acts)
        if together:
            call.attributes.add("convergent")
            builder.function.attributes.add("convergent")
        if several:
            fields = [builder.extract_value(call, index) for index in range(len(results))]
            return cgutils.pack_array(builder, fields)
        return call if results else context.get_dummy_value()

    def typed(context: Any, *arguments: Any) -> Any:
        return numba_result(*parameters), generate

    typed.__signature__ = _named(names)  # type: ignore[attr-defined]
    return intrinsic(typed)


def _count(results: tuple[Any, ...]) -> tuple[Any, int]:
    return results[0], len(results)


# --- Where a thread is, and meeting the others -------------------------------------------------

thread = _instruction(_I32, "mov.u32 $0, %tid.x;")
block = _instruction(_I32, "mov.u32 $0, %ctaid.x;")
# index of this block in its cluster
cluster_rank = _instruction(_I32, "mov.u32 $0, %cluster_ctarank;")

barrier = _instruction(None, "bar.sync 0;", acts=True, together=True)
warp_barrier = _instruction(None, f"bar.warp.sync {_WHOLE_WARP};", acts=True, together=True)
# what was written before the arrival is seen by the whole cluster after the wait
cluster_arrive = _instruction(
    None, "barrier.cluster.arrive.release.aligned;", acts=True, together=True
)
cluster_wait = _instruction(None, "barrier.cluster.wait.acquire.aligned;", acts=True, together=True)


# --- Global memory -----------------------------------------------------------------------------

# 16 bytes as four words; `fill` in each of them where not inside. Not through the read-only path
# (.nc): the same kernel may write there, in place. Each vector is read once: it is not kept in L1.
load_vector = _instruction(
    (_U32, _U32, _U32, _U32),
    "{ .reg .pred p; setp.ne.b32 p, $5, 0; "
    "mov.b32 $0, $6; mov.b32 $1, $6; mov.b32 $2, $6; mov.b32 $3, $6; "
    "@p ld.global.L1::no_allocate.v4.b32 {$0, $1, $2, $3}, [$4]; }",
    "address inside fill",
    (_I64, _I32, _U32),
    acts=True,
)
store_vector = _instruction(
    None,
    "{ .reg .pred p; setp.ne.b32 p, $5, 0; @p st.global.v4.b32 [$0], {$1, $2, $3, $4}; }",
    "address a b c d inside",
    (_I64, _U32, _U32, _U32, _U32, _I32),
    acts=True,
)


def _load(kind: Any, suffix: str, space: str = "global", address: Any = _I64) -> Any:
    return _instruction(kind, f"ld.{space}.{suffix} $0, [$1];", "address", (address,), acts=True)


def _store(kind: Any, suffix: str, space: str = "global", address: Any = _I64) -> Any:
    text = f"st.{space}.{suffix} [$0], $1;"
    return _instruction(None, text, "address value", (address, kind), acts=True)


load_u8 = _load(_U32, "u8")
load_i8 = _load(_I32, "s8")
load_u16 = _load(_U32, "u16")
load_i16 = _load(_I32, "s16")
load_u32 = _load(_U32, "u32")
load_i32 = _load(_I32, "s32")
load_u64 = _load(_U64, "u64")
load_i64 = _load(_I64, "s64")
load_f32 = _load(_F32, "f32")
load_f64 = _load(_F64, "f64")
store_u8 = _store(_U32, "u8")
store_u16 = _store(_U32, "u16")
store_u32 = _store(_U32, "u32")
store_i64 = _store(_I64, "s64")
store_f32 = _store(_F32, "f32")
store_f64 = _store(_F64, "f64")


# --- Shared memory, of the block and of its cluster --------------------------------------------


def _shared_memory(context: Any, size: Any) -> Any:
    if not isinstance(size, types.IntegerLiteral):
        return None
    extent = ir.ArrayType(ir.IntType(8), size.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = builder.module.get_unique_name("shared_memory")
        memory = ir.GlobalVariable(builder.module, extent, name, addrspace=3)
        memory.align = 16
        memory.linkage = "internal"
        memory.initializer = ir.Constant(extent, ir.Undefined)
        return builder.ptrtoint(memory, ir.IntType(32))

    return _I32(size), generate


# `size` bytes, a constant, at a multiple of 16; each call in the source reserves its own
shared_memory: Any = intrinsic(_shared_memory)
load_shared_u16 = _load(_U32, "u16", "shared", _I32)
load_shared_u32 = _load(_U32, "u32", "shared", _I32)
load_shared_f32 = _load(_F32, "f32", "shared", _I32)
load_shared_f64 = _load(_F64, "f64", "shared", _I32)
store_shared_u16 = _store(_U32, "u16", "shared", _I32)
store_shared_u32 = _store(_U32, "u32", "shared", _I32)
store_shared_f32 = _store(_F32, "f32", "shared", _I32)
store_shared_f64 = _store(_F64, "f64", "shared", _I32)
load_shared_vector = _instruction(
    (_U32, _U32, _U32, _U32),
    "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];",
    "address",
    (_I32,),
    acts=True,
)
store_shared_vector = _instruction(
    None,
    "st.shared.v4.b32 [$0], {$1, $2, $3, $4};",
    "address a b c d",
    (_I32, _U32, _U32, _U32, _U32),
    acts=True,
)
# address, for load_remote_f64, of the same place in the shared memory of another block there
remote_shared = _instruction(
    _I32, "mapa.shared::cluster.u32 $0, $1, $2;", "address rank", (_I32, _I32)
)
load_remote_f64 = _load(_F64, "f64", "shared::cluster", _I32)


# --- Exchange in a warp: the value of the lane whose number differs by `mask` ------------------


def _shuffle(kind: Any) -> Any:
    """All 32 lanes take part: a block's threads are a multiple of 32."""
    if kind is _F32:
        text = f"shfl.sync.bfly.b32 $0, $1, $2, 31, {_WHOLE_WARP};"
    else:
        text = (
            "{ .reg .b32 low, high; mov.b64 {low, high}, $1; "
            f"shfl.sync.bfly.b32 low, low, $2, 31, {_WHOLE_WARP}; "
            f"shfl.sync.bfly.b32 high, high, $2, 31, {_WHOLE_WARP}; "
            "mov.b64 $0, {low, high}; }"
        )
    return _instruction(kind, text, "value mask", (kind, _I32), acts=True, together=True)


shuffle_xor_f32 = _shuffle(_F32)
shuffle_xor_i64 = _shuffle(_I64)
shuffle_xor_f64 = _shuffle(_F64)


# --- Bits and arithmetic -----------------------------------------------------------------------

# The same word, which the compiler takes for a new one (it cannot know that %ctaid.z is 0): what
# was made of it is made anew, instead of being kept in more registers than the words take.
renewed = _instruction(
    _U32, "{ .reg .b32 z; mov.u32 z, %ctaid.z; xor.b32 $0, $1, z; }", "word", (_U32,), acts=True
)
float_of_bits = _instruction(_F32, "mov.b32 $0, $1;", "bits", (_U32,))
bits_of_float = _instruction(_U32, "mov.b32 $0, $1;", "value", (_F32,))
double_of_words = _instruction(_F64, "mov.b64 $0, {$1, $2};", "low high", (_U32, _U32))
words_of_double = _instruction((_U32, _U32), "mov.b64 {$0, $1}, $2;", "value", (_F64,))

# a half in the low 16 bits, whatever the others hold; the result of half_of_float has zeros there
float_of_half = _instruction(
    _F32,
    "{ .reg .b16 low, high; mov.b32 {low, high}, $1; cvt.f32.f16 $0, low; }",
    "half",
    (_U32,),
)
half_of_float = _instruction(
    _U32,
    "{ .reg .b16 low; cvt.rn.f16.f32 low, $1; cvt.u32.u16 $0, low; }",
    "value",
    (_F32,),
)
# two values rounded to nearest even, the first in the low 16 bits
pack_half = _instruction(
    _U32,
    "{ .reg .b16 low, high; cvt.rn.f16.f32 low, $1; cvt.rn.f16.f32 high, $2; "
    "mov.b32 $0, {low, high}; }",
    "low high",
    (_F32, _F32),
)
# the instruction takes the high one first
pack_bfloat = _instruction(
    _U32,
    "cvt.rn.bf16x2.f32 $0, $2, $1;",
    "low high",
    (_F32, _F32),
    on_turing="{ .reg .b32 low, high, odd; .reg .pred p; "
    + "".join(
        f"mov.b32 {half}, {value}; bfe.u32 odd, {half}, 16, 1; add.u32 odd, odd, 0x7fff; "
        f"add.u32 {half}, {half}, odd; setp.nan.f32 p, {value}, {value}; "
        f"selp.b32 {half}, 0x7fff0000, {half}, p; "
        for half, value in (("low", "$1"), ("high", "$2"))
    )
    + "prmt.b32 $0, low, high, 0x7632; }",
)
# the larger of two pairs, each for itself; the other one where one is NaN
max_half_pair = _instruction(
    _U32,
    "max.f16x2 $0, $1, $2;",
    "a b",
    (_U32, _U32),
    on_turing="{ .reg .b16 a, b, c, d; .reg .f32 x, y; mov.b32 {a, b}, $1; mov.b32 {c, d}, $2; "
    "cvt.f32.f16 x, a; cvt.f32.f16 y, c; max.f32 x, x, y; cvt.rn.f16.f32 a, x; "
    "cvt.f32.f16 x, b; cvt.f32.f16 y, d; max.f32 x, x, y; cvt.rn.f16.f32 b, x; "
    "mov.b32 $0, {a, b}; }",
)
max_bfloat_pair = _instruction(
    _U32,
    "max.bf16x2 $0, $1, $2;",
    "a b",
    (_U32, _U32),
    on_turing="{ .reg .b32 a, b, c; shl.b32 a, $1, 16; shl.b32 b, $2, 16; max.f32 a, a, b; "
    "and.b32 b, $1, 0xffff0000; and.b32 c, $2, 0xffff0000; max.f32 b, b, c; "
    "prmt.b32 $0, a, b, 0x7632; }",
)

# 2**value within 2 units in the last place; subnormal arguments and results become 0
exp2 = _instruction(_F32, "ex2.approx.ftz.f32 $0, $1;", "value", (_F32,))
# 1 / value within 2**-20 or so, where neither is subnormal, 0 or infinite
reciprocal = _instruction(_F64, "rcp.approx.ftz.f64 $0, $1;", "value", (_F64,))
# the larger; the other one where one is NaN
max_f32 = _instruction(_F32, "max.f32 $0, $1, $2;", "a b", (_F32, _F32))
max_f64 = _instruction(_F64, "max.f64 $0, $1, $2;", "a b", (_F64, _F64))
