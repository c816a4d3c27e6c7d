"""Disassembled kernels, for tests; those are skipped where the tools are missing."""

import functools

import pytest

from fastxent.backends.cuda import cubins
from fastxent.bench.card import disassembly

__all__ = ["disassemble", "disassembled"]


def disassemble(code):
    """Give the `Disassembly` of a cubin with one kernel."""
    for name in ("cuobjdump", "nvdisasm"):
        if disassembly.tool(name) is None:
            pytest.skip(f"{name} is not installed")
    return disassembly.disassemble(code)


@functools.cache
def disassembled(spec, capability=(9, 0)):
    """Compile a kernel, without the cache on the disk, and disassemble it."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    return disassemble(cubins.compiled(spec, capability))
