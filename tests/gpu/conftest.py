"""The GPU backend on a simulated GPU."""

import pytest


@pytest.fixture
def simulated():
    """Driver of a simulated GPU, in the place of the real one."""
    pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")
    from fastxent.backends import load
    from gpu.simulation.driver import SimulatedDriver

    backend = load("cuda")
    backend.driver = SimulatedDriver()
    yield backend.driver
    backend.driver = None
