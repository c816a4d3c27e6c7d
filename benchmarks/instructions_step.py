"""Count the instructions that a call executes, one by one, as a debugger does.

Processors count them too, but virtual machines and containers seldom let a program read that.
The difference between rows of two lengths, over the difference of the lengths, is what an element
takes, with everything that is done once a block; what is done once a call cancels out. Python's
own instructions are left out: an interpreter does not take the same path twice.

usage: python benchmarks/instructions_step.py BACKEND hard|soft DTYPE (the process that is stepped)
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import sys
from pathlib import Path

import numpy as np

import fastxent as fx
from fastxent.bench.workloads import dtype_of

LENGTHS = (2048, 6144)
_TRACEME, _PEEK_USER, _CONTINUE, _STEP = 0, 3, 7, 9  # of <sys/ptrace.h>
_RIP = 16 * 8  # where <sys/user.h> has the address of the next instruction


def why_not() -> str | None:
    """Why nothing can be counted here, if so."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "instructions are stepped on Linux on x86-64 only"
    child = _start([sys.executable, "-c", ""], {})
    stepped = _libc().ptrace(_STEP, child, None, None) == 0
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None if stepped else "this system forbids ptrace"


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    library.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    return library


def _start(command: list[str], environment: dict[str, str]) -> int:
    """Start a process that waits for its tracer."""
    child = os.fork()
    if child == 0:
        try:
            _libc().ptrace(_TRACEME, 0, None, None)
            os.execve(command[0], command, os.environ | environment)
        finally:
            os._exit(127)
    os.waitpid(child, 0)
    return child


def _interpreter(child: int) -> list[range]:
    """Addresses of Python's own code."""
    found = []
    for line in Path(f"/proc/{child}/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, *_, path = line.split(maxsplit=5)
        if "x" in rights and Path(path).name.startswith(("python", "libpython")):
            first, last = (int(end, 16) for end in addresses.split("-"))
            found.append(range(first, last))
    return found


def executed(backend: str, labels: str, dtype: str, environment: dict[str, str]) -> float:
    """Instructions an element of a row, all included."""
    command = [sys.executable, __file__, backend, labels, dtype]
    child = _start(command, environment)
    ptrace = _libc().ptrace
    counts: list[int] = []
    request, python = _CONTINUE, list[range]()
    while True:
        if ptrace(request, child, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            break
        if os.WSTOPSIG(status) == signal.SIGSTOP:  # each call is between two of these
            if request == _CONTINUE:
                request, python = _STEP, _interpreter(child)
                counts.append(0)
            else:
                request = _CONTINUE
        elif request == _STEP:
            address = ptrace(_PEEK_USER, child, _RIP, None)
            counts[-1] += not any(address in code for code in python)
    if status != 0 or len(counts) != len(LENGTHS):
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return (counts[1] - counts[0]) / (LENGTHS[1] - LENGTHS[0])


def main(backend: str, labels: str, dtype: str) -> None:
    """Call once for each length, between two stops."""
    rng = np.random.default_rng(0)
    calls = []
    for classes in LENGTHS:
        logits = rng.standard_normal((1, classes)).astype(dtype_of(dtype))
        target = np.zeros(1, np.int64)
        if labels == "soft":
            target = np.full_like(logits, 1 / classes)
        calls.append((logits, target, np.empty_like(logits)))
    gc.disable()  # or one of the calls pays for it
    for _ in range(3):  # compiled, and every page touched
        for logits, target, out in calls:
            fx.cross_entropy_and_grad(logits, target, out=out, backend=backend, num_threads=1)
    for logits, target, out in calls:
        os.kill(os.getpid(), signal.SIGSTOP)
        fx.cross_entropy_and_grad(logits, target, out=out, backend=backend, num_threads=1)
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main(*sys.argv[1:])
