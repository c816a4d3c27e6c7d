"""Settings that must be there before anything imports numba, what is slow, the backends to test."""

import gc
import os
import sys

import pytest
from slow_tests import is_slow

# More threads than cores are real threads then, and "same bits for 5 threads" a real test.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")


# what is asked for by marks is chosen after this
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what takes long."""
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker("slow")


def pytest_collection_finish():
    """Take 25,000 tests out of the collector's sight: looking at all of them takes it seconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)  # of 700: compilers of all kinds make objects, and hardly a cycle


@pytest.fixture(autouse=True, scope="module")
def what_lives_to_the_end_is_not_looked_at_again():
    """The same for what a file of tests leaves behind, Numba's compiled functions above all."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def jax_has_32_bits():
    """Take back the 64 bits that the benchmark's peer switches on: JAX has 32 unless it is told."""
    yield
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_enable_x64:
        jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def avx2():
    """Whether LLVM finds AVX2 and a fused multiply-add on this CPU; False without Numba."""
    import fastxent

    if fastxent.backends()["numba"] is not None:
        return False
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx2") and features.get("fma"))


@pytest.fixture(params=["cython", "numba", "numpy"])
def backend(request):
    """Name of each backend in turn; one that cannot run is skipped with its reason."""
    import fastxent

    reason = fastxent.backends()[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
