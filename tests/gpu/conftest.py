"""The GPU backend on a simulated GPU."""

import gc

import pytest


@pytest.fixture
def simulated():
    """Driver of a simulated GPU, in the place of the real one; all of its memory must come back."""
    pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")
    from fastxent.backends import load
    from gpu.simulation.driver import SimulatedDriver
    from gpu.simulation.memory import MEMORY

    backend = load("cuda")
    driver = SimulatedDriver()
    before = {id(one) for one in MEMORY.live}
    backend.driver = driver
    yield driver
    backend.driver = None
    left = [one for one in MEMORY.live if id(one) not in before]
    if left:
        gc.collect()
        left = [one for one in MEMORY.live if id(one) not in before]
    assert not left, f"{len(left)} allocations of {sum(one.nbytes for one in left)} bytes are left"
