"""Calls that get no memory: one after the other of the blocks that they ask for is refused.

usage: LD_PRELOAD=<failing_malloc.c, built> python -m reliability.starved WAY BACKEND [CALL ...]

A child process of reliability/faults.py, which says what the ways are; the last line that it prints
is what it found, as JSON.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import re
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from reliability.allocating import calls, calls_in_code, calls_of_jax, calls_of_torch
from reliability.mixture import Call, digest

WAYS: dict[str, Callable[[str], Iterator[Call]]] = {
    "blocks": calls,
    "torch": calls_of_torch,
    "jax": calls_of_jax,
    "compiled code": calls_in_code,
}
# Who makes arrays besides NumPy: Numba's compiled code, PyTorch, and the extension, that through
# Python too.
MAKERS = ("_nrt_python", "_helperlib", "libc10")
EXTENSION = ("_kernels",)
# Of one call: more of them are a fault.
MOST_BLOCKS = 1000
ROOM = 2 << 20
M_MMAP_THRESHOLD = -3


def ranges_of(names: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Addresses of the code of libraries whose file names hold one of these."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, modes, _, _, _, *file = line.split(maxsplit=5)
        if "x" in modes and file and any(name in Path(file[0]).name for name in names):
            begin, end = (int(number, 16) for number in span.split("-"))
            yield begin, end


class Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler: who makes the memory of arrays."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("malloc", "calloc", "realloc", "free")),
    )


# Place of PyDataMem_SetHandler in NumPy's table of C functions.
SET_HANDLER = 304


def handle_arrays(library: ctypes.CDLL) -> Handler:
    """Let NumPy ask the library for the memory of arrays; what it returns must be kept."""
    handler = Handler(b"failing", 1)
    for name in ("malloc", "calloc", "realloc", "free"):
        function = getattr(library, f"failing_numpy_{name}")
        setattr(handler, name, ctypes.cast(function, ctypes.c_void_p))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    )
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = ctypes.cast(
        pointer(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])
    set_handler(new(ctypes.addressof(handler), b"mem_handler", None))
    return handler


class Refusing:
    """The library of failing_malloc.c, which is loaded before all others."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.failing_stop.restype = self._library.failing_held.restype = ctypes.c_long
        self._library.failing_arm.argtypes = ctypes.c_long, ctypes.c_long
        self._library.failing_range.argtypes = ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int
        self.asked = 0
        self._handler = handle_arrays(self._library)
        for deep, names in enumerate((MAKERS, EXTENSION)):
            for begin, end in ranges_of(names):
                self._library.failing_range(begin, end, deep)

    def refuse(self, first: int, last: int) -> None:
        """Refuse the arrays of these numbers, counted from now on."""
        self._library.failing_arm(first, last)

    def stop(self) -> None:
        """Refuse none any more; `asked` is how many were asked for since `refuse`."""
        self.asked = int(self._library.failing_stop())

    @property
    def held(self) -> int:
        """Blocks that are held."""
        gc.collect()
        return int(self._library.failing_held())


def is_refusal(error: Exception) -> bool:
    """Whether an error says that memory is missing: PyTorch and JAX have errors of their own."""
    words = ("can't allocate memory", "no memory", "RESOURCE_EXHAUSTED")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)


def attempt(call: Call, expected: str, end: Callable[[], object]) -> tuple[str, str | None]:
    """Run a call without memory; say whether it raised or not, and what is wrong.

    `end` is called when it is over: there is memory again.
    """
    try:
        result = call.run()
    except Exception as error:
        end()
        fault = None if is_refusal(error) else f"{type(error).__name__}: {error}"
        return "errors", fault
    end()
    return "unharmed", None if digest(result) == expected else "a wrong result"


def sweep(call: Call, refusing: Refusing, counts: Counter[str]) -> list[str]:
    """Refuse each block of a call in turn, alone and with all that come after it."""
    expected = digest(call.run())
    faults, held = [], 0
    for last in ("alone", "and all others"):
        held = refusing.held  # after the first pass: what a first error leaves is made once
        for number in range(1, MOST_BLOCKS):
            refusing.refuse(number, number if last == "alone" else 2**62)
            what, fault = attempt(call, expected, refusing.stop)
            where = f"{call.name}, block {number} {last}"
            if fault is not None:
                faults.append(f"{where}: {fault}")
            if digest(call.run()) != expected:
                faults.append(f"{where}: another result in the next call")
            if refusing.asked < number:  # it had all that it asked for
                break
            counts[what] += 1
        else:
            faults.append(f"{call.name}: more than {MOST_BLOCKS} blocks")
    left = refusing.held - held
    if left > 0:
        faults.append(f"{call.name}: {left} blocks were not given back")
    return faults


def size_of_process() -> int:
    """Bytes of the address space in use."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmSize:\s+(\d+)", status)[0]) * 1024


def limited(call: Call, counts: Counter[str]) -> list[str]:
    """Run a call with room for 2 MB more than the process has, then without a limit."""
    expected = digest(call.run())
    limit, most = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    resource.setrlimit(resource.RLIMIT_AS, (size_of_process() + ROOM, most))
    lift = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (limit, most))
    what, fault = attempt(call, expected, lift)
    counts[what] += 1
    faults = [] if fault is None else [f"{call.name}, limited: {fault}"]
    if digest(call.run()) != expected:
        faults.append(f"{call.name}: another result after the limit")
    return faults


def main(way: str, backend: str, *only: str) -> None:
    """Print what was found, of all calls or those of these names."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    if way == "limit":
        # blocks of 128 kB and more are mapped, whatever was freed before
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)
        for call in calls(backend, rows=6400):
            if only and call.name not in only:
                continue
            call.run()
            faults += limited(call, counts)
    else:
        chosen = [call for call in WAYS[way](backend) if not only or call.name in only]
        for call in chosen:
            for _ in range(3):  # what is made once is made
                call.run()
        refusing = Refusing()
        for call in chosen:
            faults += sweep(call, refusing, counts)
    print(json.dumps({"faults": faults, **counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
