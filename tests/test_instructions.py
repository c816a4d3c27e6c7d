"""Instructions an element in the loops over long rows, as they were compiled."""

import platform
import shutil
import sys
from pathlib import Path

import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
if not (ROOT / "benchmarks" / "instructions.py").exists():
    pytest.skip("benchmarks/ is not beside tests/: not a source tree", allow_module_level=True)
if platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("loops are recognised in code for x86-64", allow_module_level=True)
pytest.importorskip("rich", reason="rich draws the progress bars")
sys.path.insert(0, str(ROOT / "benchmarks"))

import instructions  # noqa: E402
import instructions_loops as parsed  # noqa: E402

LISTING = """
0000000000001000 <void close<float>(float*, long)>:
    1000:\tvbroadcastss %xmm0,%zmm1
    1006:\txor    %eax,%eax
    1008:\tvmulps (%rdi,%rax,4),%zmm1,%zmm0
    100f:\tadd    $0x10,%rax
    1013:\tvmovups %zmm0,-0x40(%rdi,%rax,4)
    101b:\tcmp    %rax,%rsi
    101e:\tjg     1008 <void close<float>(float*, long)+0x8>
    1020:\tret
"""
HALF_LISTING = """
0000000000002000 <void blocks<brain, only_on_label>(brain*, long)>:
    2000:\tvpmovzxwd (%rdi,%rax,1),%zmm0
    2008:\tvpslld $0x10,%zmm0,%zmm0
    200f:\tvmulps %zmm1,%zmm0,%zmm0
    2015:\tvpsrld $0x10,%zmm0,%zmm0
    201c:\tvpmovdw %zmm0,(%rsi,%rax,1)
    2024:\tadd    $0x20,%rax
    2028:\tcmp    %rax,%rdx
    202b:\tjg     2000 <void blocks<brain, only_on_label>(brain*, long)>
    202d:\tret
"""
ASSEMBLED = """\t.text
largest:
\tmovq\t%rsp, %rbp
.LBB0_1:
\tvmaxpd\t(%rdi), %ymm0, %ymm0
\tvmaxpd\t32(%rdi), %ymm1, %ymm1
\taddq\t$64, %rdi
\tjne\t.LBB0_1
.LBB0_2:
\tvmaxpd\t-64(%rbp), %ymm0, %ymm0
\tjne\t.LBB0_2
\tret
"""


@pytest.fixture(scope="module")
def paths():
    reason = instructions.why_not("cython")
    if reason is not None:
        pytest.skip(reason)
    found = instructions.of_extension(instructions.library())
    return {(path.labels, path.dtype, path.instructions): path for path in found}


def test_a_listing_of_objdump(monkeypatch):
    def run(command, **_options):
        return type("Done", (), {"stdout": LISTING})

    monkeypatch.setattr(parsed.subprocess, "run", run)
    (function,) = parsed.disassembled(Path("kernels.o"))
    (loop,) = parsed.loops(function)
    assert (loop.kind, loop.dtype, loop.instructions, loop.elements) == ("close", "float32", 5, 16)
    assert loop.address == 0x1008
    assert loop.streams == 1


def test_half_precision_is_counted_by_the_float32_it_is_computed_in(monkeypatch):
    # a shift by 16 is no power of two, and what narrows the bits is a store
    monkeypatch.setattr(
        parsed.subprocess, "run", lambda command, **_: type("Done", (), {"stdout": HALF_LISTING})
    )
    (function,) = parsed.disassembled(Path("kernels.o"))
    (loop,) = instructions.hot_loops([function], "bfloat16")
    assert instructions.hot_loops([function], "float32") == ()
    assert loop.half == "bfloat16"
    assert (loop.kind, loop.dtype, loop.instructions, loop.elements) == ("close", "float32", 8, 16)


def test_assembler_text_of_numba():
    # the second loop reads the stack only: that is no pass over an array
    (function,) = parsed.assembled(ASSEMBLED)
    (loop,) = parsed.loops(function)
    assert (loop.kind, loop.dtype, loop.instructions, loop.elements) == ("max", "float64", 4, 8)


CYTHON = [
    (*key[1:], level)
    for key in instructions.AIMS
    if key[0] == "cython"
    for level in instructions.levels_of(*key[1:])
]


@pytest.mark.parametrize(("labels", "dtype", "level"), CYTHON)
def test_the_extension_has_the_loops_of_each_level(paths, labels, dtype, level):
    # in the registers of the level: only functions that use no others are looked at
    path = paths[labels, dtype, level]
    assert path.missing == []


@pytest.mark.parametrize(("labels", "dtype", "level"), CYTHON)
def test_the_extension_meets_the_aims(paths, labels, dtype, level):
    path = paths[labels, dtype, level]
    assert path.each <= path.aim, path.loops


def test_each_level_multiplies_and_adds_in_its_own_registers():
    if (reason := instructions.why_not("cython")) is not None:
        pytest.skip(reason)
    functions = parsed.disassembled(instructions.library())
    for registers in instructions.REGISTERS.values():
        found = {
            loop.dtype
            for function in functions
            if function.registers == registers
            for loop in parsed.loops(function)
            if loop.kind == "exp"  # which takes a chain of vfmadd
        }
        assert found == {"float32", "float64"}, registers


@pytest.mark.parametrize("level", instructions.REGISTERS)
def test_numba_meets_the_aims(level):
    if (reason := fx.backends()["numba"]) is not None:
        pytest.skip(reason)
    if level == "AVX-512" and not instructions.has_avx512():
        pytest.skip("Numba compiles for this CPU, which has no AVX-512")
    path = instructions.of_numba("hard", "float32", level)
    assert path.met, path.loops


def test_what_is_missing_is_said(monkeypatch):
    if fx.backends()["cython"] is not None:
        pytest.skip("there is nothing to disassemble")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "objdump" in instructions.why_not("cython")
