"""Memory that is used again: only when nobody has it, and never more than one piece."""

import threading

import numpy as np
import pytest

from fastxent import spare as module
from fastxent.spare import LINE, Spare

SIZE = 1 << 20
pytestmark = pytest.mark.skipif(not module._COUNTS, reason="references are not counted exactly")


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_is_free_is_used_again():
    spare = Spare()
    place = address(spare.take(SIZE))
    assert place % LINE == 0
    assert address(spare.take(SIZE)) == place


@pytest.mark.parametrize("hold", [lambda taken: taken, lambda taken: taken[5:6].view(np.int8)])
def test_memory_that_somebody_holds_is_not(hold):
    spare = Spare()
    held = hold(spare.take(SIZE))
    held[...] = 7
    spare.take(SIZE)[...] = 1
    assert (held == 7).all()


def test_another_size_is_other_memory_and_replaces_it():
    spare = Spare()
    assert spare.take(SIZE).size == SIZE
    assert spare.take(2 * SIZE).size == 2 * SIZE
    spare.clear()
    assert spare._memory is None


def test_little_memory_is_not_worth_it():
    assert Spare().take(SIZE - 1) is None
    assert Spare().array((10, 10), np.dtype(np.float32)) is None


def test_arrays_have_shape_and_dtype():
    array = Spare().array((1024, 512), np.dtype(np.float32))
    assert array.shape == (1024, 512)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous


def test_threads_never_share_memory():
    spare, wrong = Spare(), []

    def work(number):
        for _ in range(300):
            taken = spare.take(SIZE)
            taken[::4096] = number
            if (taken[::4096] != number).any():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
