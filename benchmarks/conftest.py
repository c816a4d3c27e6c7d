"""What the benchmark files share."""

import pytest

from fastxent.bench import machine
from fastxent.bench.children import Worker


@pytest.fixture(scope="session", autouse=True)
def machine_facts():
    """Facts of the machine, for the JSON file."""
    return machine.facts()


@pytest.fixture(scope="session")
def one_cpu():
    """A process that has one CPU, for everybody alike."""
    with Worker(1) as worker:
        yield worker
