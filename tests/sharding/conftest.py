"""The backends that compute on shards."""

import pytest

import fastxent as fx
from fastxent.backends import pick


@pytest.fixture(params=["cython", "numba", "numpy"])
def backend(request):
    """Name of each backend in turn; one that cannot run is skipped with its reason."""
    try:
        pick(request.param, None, "partial")
    except fx.BackendError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(params=["cython", "numba"])
def compiled(request):
    """Name of each backend whose sums are those of blocks."""
    try:
        pick(request.param, None, "partial")
    except fx.BackendError as error:
        pytest.skip(str(error))
    return request.param
