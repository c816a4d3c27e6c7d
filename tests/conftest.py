"""Settings that must be there before anything imports numba, and the backends to test."""

import os

import pytest

# More threads than cores are real threads then, and "same bits for 5 threads" a real test.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")


@pytest.fixture(params=["cython", "numba", "numpy"])
def backend(request):
    """Name of each backend in turn; one that cannot run is skipped with its reason."""
    import fastxent

    reason = fastxent.backends()[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
