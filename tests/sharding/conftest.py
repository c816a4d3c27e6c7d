"""The backends whose sums are those of blocks; tests/conftest.py has all."""

import pytest

import fastxent as fx


@pytest.fixture(params=["cython", "numba"])
def compiled(request):
    """Name of each compiled backend; one that cannot run is skipped with its reason."""
    reason = fx.backends()[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
