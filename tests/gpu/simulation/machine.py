"""What `fastxent.backends.cuda.machine` offers, on the simulated GPU.

Integers are Python's: whatever numba adds or shifts it first widens to 64 bits, and only a cast, or
an instruction that takes 32 bits, narrows them. float32 and float64 are NumPy's scalars. Arguments
are converted as the real instructions' are.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gpu.simulation.arithmetic import (  # noqa: F401
    bits_of_float,
    double_of_words,
    exp2,
    float_of_bits,
    float_of_half,
    half_of_float,
    max_bfloat_pair,
    max_f32,
    max_f64,
    max_half_pair,
    pack_bfloat,
    pack_half,
    reciprocal,
    renewed,
    words_of_double,
)
from gpu.simulation.executor import current
from gpu.simulation.fault import Fault
from gpu.simulation.memory import MEMORY, Allocation
from gpu.simulation.scalars import cuda
from gpu.simulation.shared import REMOTE

__all__ = [
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
    *("float_of_bits", "bits_of_float", "double_of_words", "words_of_double"),
    *("float_of_half", "half_of_float", "pack_half", "pack_bfloat"),
    *("max_half_pair", "max_bfloat_pair", "renewed"),
    *("exp2", "reciprocal", "max_f32", "max_f64"),
    "cuda",
]

_WORD = 0xFFFFFFFF
_frame = sys._getframe


def thread() -> int:
    return current().index


def block() -> int:
    return current().block.index


def cluster_rank() -> int:
    return current().block.rank


# --- Meeting the others ------------------------------------------------------------------------


def _place(frame: Any) -> Any:
    return frame.f_lasti, frame.f_code


def barrier() -> None:
    me = current()
    me.block.come_to_barrier(me, _place(_frame(1)))
    me.block_passes += 1
    me.warp_passes += 1
    me.pass_stamp()


def warp_barrier() -> None:
    me = current()
    me.block.warp_barriers[me.warp_index].meet(me, _place(_frame(1)))
    me.warp_passes += 1
    me.pass_stamp()


def cluster_arrive() -> None:
    me = current()
    if me.cluster_arrivals != me.cluster_waits:
        raise Fault("cluster_arrive twice without cluster_wait")
    me.cluster_arrivals += 1
    me.pass_stamp()
    me.block.cluster.arrivals.arrive()


def cluster_wait() -> None:
    me = current()
    if me.cluster_arrivals != me.cluster_waits + 1:
        raise Fault("cluster_wait without cluster_arrive")
    me.block.cluster.arrivals.wait(me)
    me.cluster_waits += 1


def _shuffle(value: Any, mask: int) -> Any:
    me = current()
    warp, lane = me.warp, me.lane
    if warp.size != 32:
        raise Fault(f"shuffle in a warp of {warp.size} threads")
    if not 0 <= mask < 32:
        raise Fault(f"shuffle by {mask}")
    frame = _frame(2)
    return warp.exchange(me, lane, lane ^ mask, value, (frame.f_lasti, frame.f_code))


def shuffle_xor_f32(value: Any, mask: int) -> Any:
    return _shuffle(value if type(value) is np.float32 else np.float32(value), mask)


def shuffle_xor_f64(value: Any, mask: int) -> Any:
    return _shuffle(value if type(value) is np.float64 else np.float64(value), mask)


def shuffle_xor_i64(value: Any, mask: int) -> int:
    return _shuffle(int(value), mask)


# --- Global memory -----------------------------------------------------------------------------

_nothing = np.zeros(4, np.int64)
_last = Allocation(_nothing.ctypes.data, 0, _nothing)


# The same few lines for each width, written out by a template: a call less for each access is a
# fifth of the time of a whole case.
_LOAD = """
def load_{name}(address):
    global _last
    found = _last
    if address < found.start or address + {nbytes} > found.end or found.freed:
        found = _last = MEMORY.find(address, {nbytes}, "load")
    if address & {rest}:
        raise Fault(f"misaligned load of {nbytes} bytes at {{address:#x}}")
    found.read += {nbytes}
    {history}
    return found.{name}[address - found.base >> {shift}]
"""
_STORE = """
def store_{name}(address, value):
    global _last
    found = _last
    if address < found.start or address + {nbytes} > found.end or found.freed:
        found = _last = MEMORY.find(address, {nbytes}, "store")
    if address & {rest}:
        raise Fault(f"misaligned store of {nbytes} bytes at {{address:#x}}")
    found.written += {nbytes}
    {history}
    found.{view}[address - found.base >> {shift}] = {value}
"""
_WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}


def _write(template: str, name: str, **more: Any) -> None:
    nbytes = _WIDTHS[name[1:]]
    shift = nbytes.bit_length() - 1
    # single bytes are not tracked: two make one entry of a history
    what = "load" if template is _LOAD else "store"
    history = f"found.history.{what}(current(), address, {nbytes})" if nbytes > 1 else ""
    source = template.format(
        name=name, nbytes=nbytes, rest=nbytes - 1, shift=shift, history=history, **more
    )
    exec(source, globals())


for _name in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"):
    _write(_LOAD, _name)
for _name, _mask in (("u8", 0xFF), ("u16", 0xFFFF), ("u32", _WORD)):
    _write(_STORE, _name, view=_name, value=f"value & {_mask}")
_write(_STORE, "i64", view="u64", value=f"int(value) & {(1 << 64) - 1}")
for _name in ("f32", "f64"):
    _write(_STORE, _name, view=_name, value="value")


def load_vector(address: int, inside: Any, fill: int) -> tuple[int, ...]:
    global _last
    if not inside:
        fill &= _WORD
        return fill, fill, fill, fill
    found = _last
    if address < found.start or address + 16 > found.end or found.freed:
        found = _last = MEMORY.find(address, 16, "load")
    if address & 15:
        raise Fault(f"misaligned load of 16 bytes at {address:#x}")
    found.read += 16
    found.history.load(current(), address, 16)
    first = address - found.base >> 2
    return tuple(found.u32[first : first + 4])


def store_vector(address: int, a: int, b: int, c: int, d: int, inside: Any) -> None:
    global _last
    if not inside:
        return
    found = _last
    if address < found.start or address + 16 > found.end or found.freed:
        found = _last = MEMORY.find(address, 16, "store")
    if address & 15:
        raise Fault(f"misaligned store of 16 bytes at {address:#x}")
    found.written += 16
    found.history.store(current(), address, 16)
    first = address - found.base >> 2
    words = found.u32
    words[first] = a & _WORD
    words[first + 1] = b & _WORD
    words[first + 2] = c & _WORD
    words[first + 3] = d & _WORD


# --- Shared memory -----------------------------------------------------------------------------


def shared_memory(size: int) -> int:
    frame = _frame(1)
    return current().block.shared.reserve((frame.f_code, frame.f_lasti), size)


def load_shared_u16(address: int) -> int:
    me = current()
    shared = me.block.shared
    shared.before_load(me, address, 2)
    return shared.u16[address >> 1]


def load_shared_u32(address: int) -> int:
    me = current()
    shared = me.block.shared
    shared.before_load(me, address, 4)
    return shared.u32[address >> 2]


def load_shared_f32(address: int) -> Any:
    me = current()
    shared = me.block.shared
    shared.before_load(me, address, 4)
    return shared.f32[address >> 2]


def load_shared_f64(address: int) -> Any:
    me = current()
    shared = me.block.shared
    shared.before_load(me, address, 8)
    return shared.f64[address >> 3]


def load_shared_vector(address: int) -> tuple[int, ...]:
    me = current()
    shared = me.block.shared
    shared.before_load(me, address, 16)
    first = address >> 2
    return tuple(shared.u32[first : first + 4])


def store_shared_u16(address: int, value: int) -> None:
    me = current()
    shared = me.block.shared
    shared.before_store(me, address, 2)
    shared.u16[address >> 1] = value & 0xFFFF


def store_shared_u32(address: int, value: int) -> None:
    me = current()
    shared = me.block.shared
    shared.before_store(me, address, 4)
    shared.u32[address >> 2] = value & _WORD


def store_shared_f32(address: int, value: Any) -> None:
    me = current()
    shared = me.block.shared
    shared.before_store(me, address, 4)
    shared.f32[address >> 2] = value


def store_shared_f64(address: int, value: Any) -> None:
    me = current()
    shared = me.block.shared
    shared.before_store(me, address, 8)
    shared.f64[address >> 3] = value


def store_shared_vector(address: int, a: int, b: int, c: int, d: int) -> None:
    me = current()
    shared = me.block.shared
    shared.before_store(me, address, 16)
    first = address >> 2
    words = shared.u32
    words[first] = a & _WORD
    words[first + 1] = b & _WORD
    words[first + 2] = c & _WORD
    words[first + 3] = d & _WORD


def remote_shared(address: int, rank: int) -> int:
    blocks = current().block.cluster.blocks
    if not 0 <= rank < len(blocks):
        raise Fault(f"block {rank} of a cluster of {len(blocks)}")
    return address + (rank + 1 << REMOTE)


def _remote(address: int, nbytes: int) -> tuple[Any, int]:
    me = current()
    rank, address = (address >> REMOTE) - 1, address & ((1 << REMOTE) - 1)
    if rank < 0:
        raise Fault("load of remote memory at an address that remote_shared did not give")
    shared = me.block.cluster.blocks[rank].shared
    shared.before_load(me, address, nbytes)
    if rank != me.block.rank:
        shared.remote_arrivals = max(shared.remote_arrivals, me.cluster_arrivals)
    return shared, address


def load_remote_f64(address: int) -> Any:
    shared, address = _remote(address, 8)
    return shared.f64[address >> 3]
