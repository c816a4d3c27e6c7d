"""Parts of Numba's kernels are optimised and compiled with their callers, not by themselves."""

import ctypes

import pytest

pytest.importorskip("numba")

from fastxent.backends.numba_cpu import jit
from fastxent.backends.numba_cpu.jit import numba


@pytest.fixture(params=["inlined", "once"])
def part(request):
    """A function of one kind, and the kind."""

    @getattr(jit, request.param)
    def three_times(number):
        return number * 3.0

    return three_times


def body_of(part):
    """A compiled function that calls a part."""

    def body(number):
        return part(number) + part(number + 1.0)

    compiled = jit.by_pointer(body)
    compiled.compile(numba.types.float64(numba.types.float64))
    return compiled.overloads[(numba.types.float64,)]


def address_of(result):
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


def test_the_caller_has_the_part_and_runs(part):
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    assert kind(address_of(body_of(part)))(2.0) == 15.0


def test_a_part_has_no_machine_code(part):
    body = body_of(part)
    (alone,) = part.overloads.values()
    assert "fmul" in alone.library.get_llvm_str()
    assert "fmul" in body.library.get_llvm_str()
    engine = body.library.codegen._engine
    assert engine.is_symbol_defined(body.fndesc.llvm_cfunc_wrapper_name)
    assert not engine.is_symbol_defined(alone.fndesc.llvm_func_name)


def test_a_part_is_compiled_for_each_kind_of_number(part):
    body_of(part)

    def halves(number):
        return part(number)

    compiled = jit.by_pointer(halves)
    compiled.compile(numba.types.float32(numba.types.float32))
    assert set(part.overloads) == {(numba.types.float64,), (numba.types.float32,)}
