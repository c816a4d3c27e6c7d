"""Disassembled kernels, for tests; those are skipped where the tools are missing."""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

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
def _compilers():
    """A process that compiles: Numba keeps 30 MB of every kernel, and all tests would wait for it.

    With 130,000 objects more for each, the collector takes longer in whatever runs afterwards.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, max_tasks_per_child=30)


@functools.cache
def disassembled(spec, capability=(9, 0)):
    """Compile a kernel, without the cache on the disk, and disassemble it."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    return disassemble(_compilers().submit(cubins.compiled, spec, capability).result())
