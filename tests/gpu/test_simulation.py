"""The simulated GPU itself: right results for right kernels, and each kind of mistake found."""

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU needs greenlet")

from gpu.simulation import machine
from gpu.simulation.executor import Deadlock, run
from gpu.simulation.fault import Fault
from gpu.simulation.loading import aligned
from gpu.simulation.memory import MEMORY


@pytest.fixture
def floats():
    """The numbers 0 ... 255 and one more for a result, on the GPU."""
    address = MEMORY.allocate(4 * 257)
    MEMORY.allocation(address).bytes.view(np.float32)[:256] = np.arange(256)
    yield address
    MEMORY.free(address)


def result(address):
    return MEMORY.allocation(address).bytes.view(np.float32)[256]


def block_sum(numbers):
    shared = machine.shared_memory(256 * 4)
    thread = machine.thread()
    machine.store_shared_f32(shared + 4 * thread, machine.load_f32(numbers + 4 * thread))
    width = 128
    while width:
        machine.barrier()
        if thread < width:
            other = machine.load_shared_f32(shared + 4 * (thread + width))
            mine = machine.load_shared_f32(shared + 4 * thread)
            machine.store_shared_f32(shared + 4 * thread, mine + other)
        width //= 2
    if thread == 0:
        machine.store_f32(numbers + 4 * 256, machine.load_shared_f32(shared))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_reduction_through_shared_memory(floats, seed):
    run(block_sum, 1, 256, 1, (floats,), seed)
    assert result(floats) == 255 * 128


def warp_sum(value):
    for step in range(5):
        value = value + machine.shuffle_xor_f32(value, 16 >> step)
    return value


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_reduction_by_shuffles(floats, seed):
    def kernel(numbers):
        thread = machine.thread()
        value = warp_sum(machine.load_f32(numbers + 4 * thread))
        if thread == 32:
            machine.store_f32(numbers + 4 * 256, value)

    run(kernel, 1, 64, 1, (floats,), seed)
    assert result(floats) == sum(range(32, 64))


def test_shuffles_of_every_type():
    seen = {}

    def kernel():
        lane = machine.thread()
        seen[lane] = (
            machine.shuffle_xor_f32(np.float32(lane), 1),
            machine.shuffle_xor_i64(lane << 40, 2),
            machine.shuffle_xor_f64(np.float64(lane) / 3, 4),
        )

    run(kernel, 1, 32)
    assert seen == {n: (n ^ 1, (n ^ 2) << 40, (n ^ 4) / 3) for n in range(32)}


def cluster_sum(numbers):
    shared = machine.shared_memory(8)
    thread, rank = machine.thread(), machine.cluster_rank()
    index = machine.block() * 32 + thread
    value = warp_sum(machine.load_f32(numbers + 4 * index))
    if thread == 0:
        machine.store_shared_f64(shared, np.float64(value))
    machine.cluster_arrive()
    machine.cluster_wait()
    total = np.float64(0)
    for other in range(4):
        total += machine.load_remote_f64(machine.remote_shared(shared, other))
    machine.cluster_arrive()
    if rank == 3 and thread == 31:
        machine.store_f32(numbers + 4 * 256, np.float32(total))
    machine.cluster_wait()


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_exchange_in_a_cluster(floats, seed):
    run(cluster_sum, 4, 32, 4, (floats,), seed)
    assert result(floats) == sum(range(128))
    assert "race" in fault(cluster_sum, floats, threads=32, grid=8, cluster=4, seed=seed)


def test_bytes_are_counted(floats):
    allocation = MEMORY.allocation(floats)
    run(block_sum, 1, 256, 1, (floats,))
    assert (allocation.read, allocation.written) == (1024, 4)


def test_a_block_that_ends_while_its_memory_is_read(floats):
    def kernel(numbers):
        shared = machine.shared_memory(8)
        machine.store_shared_f64(shared, 1.0)
        machine.cluster_arrive()
        machine.cluster_wait()
        machine.load_remote_f64(machine.remote_shared(shared, 1))

    with pytest.raises(Fault, match="may end before the last load"):
        run(kernel, 2, 1, 2, (floats,))


def fault(kernel, *arguments, threads=64, grid=1, cluster=1, seed=None):
    with pytest.raises(Fault) as caught:
        run(kernel, grid, threads, cluster, arguments, seed)
    return str(caught.value)


def test_out_of_bounds_access_is_found(floats):
    def load(numbers):
        machine.load_f32(numbers + 4 * (257 if machine.thread() == 7 else 256))

    def store(numbers):
        machine.store_u8(numbers - 1, 0)

    def vector(numbers):
        machine.load_vector(numbers + 1024, True, 0)

    def none(numbers):
        machine.load_i64(0)

    assert "thread 7: load of 4 bytes" in fault(load, floats)
    assert "out of bounds" in fault(store, floats)
    assert "out of bounds" in fault(vector, floats)
    assert "absent array" in fault(none, floats)


def test_nothing_is_loaded_outside(floats):
    def kernel(numbers):
        seen = machine.load_vector(numbers + 1024, machine.thread() < 0, 7)
        machine.store_vector(numbers + 1024, *seen, 0)
        assert seen == (7, 7, 7, 7)

    run(kernel, 1, 32, 1, (floats,))
    assert MEMORY.allocation(floats).read == MEMORY.allocation(floats).written == 0


def test_misaligned_access_is_found(floats):
    assert "misaligned load" in fault(lambda numbers: machine.load_f64(numbers + 4), floats)
    assert "misaligned" in fault(lambda numbers: machine.store_f32(numbers + 2, 1), floats)
    assert "misaligned" in fault(lambda numbers: machine.load_vector(numbers + 8, 1, 0), floats)


def test_use_after_free_is_found():
    address = MEMORY.allocate(64)
    MEMORY.free(address)
    assert "given back" in fault(machine.load_f32, address)
    with pytest.raises(Fault, match="no allocation"):
        MEMORY.free(address)


@pytest.mark.parametrize("seed", [None, 3])
def test_race_on_shared_memory_is_found(seed):
    def kernel():
        shared = machine.shared_memory(64 * 4)
        thread = machine.thread()
        machine.store_shared_f32(shared + 4 * thread, thread)
        machine.load_shared_f32(shared + 4 * (thread ^ 32))

    def next_round():
        shared = machine.shared_memory(16)
        for number in range(2):
            if machine.thread() == 0:
                machine.store_shared_u32(shared, number)
            machine.barrier()
            machine.load_shared_u32(shared)

    assert "shared memory" in fault(kernel, seed=seed)
    assert "race" in fault(next_round, seed=seed)


def test_race_on_global_memory_is_found(floats):
    def in_place(numbers):
        thread = machine.thread()
        value = machine.load_f32(numbers + 4 * (thread ^ 1))
        machine.store_f32(numbers + 4 * thread, value)

    def by_all(numbers):
        machine.store_f32(numbers, 1.0)

    def over_blocks(numbers):
        thread, block = machine.thread(), machine.block()
        machine.load_f32(numbers + 4 * (32 * block + thread))
        machine.barrier()
        machine.store_f32(numbers + 4 * thread, 1.0)

    def in_order(numbers):
        thread = machine.thread()
        value = machine.load_f32(numbers + 4 * (thread ^ 1))
        machine.barrier()
        machine.store_f32(numbers + 4 * thread, value)

    for kernel in (in_place, by_all, over_blocks):
        assert "race" in fault(kernel, floats, grid=2, threads=32)
    run(in_order, 1, 64, 1, (floats,))


def test_a_barrier_of_the_warp_orders_its_threads_only():
    def kernel(distance):
        shared = machine.shared_memory(64 * 4)
        thread = machine.thread()
        machine.store_shared_f32(shared + 4 * thread, thread)
        machine.warp_barrier()
        assert machine.load_shared_f32(shared + 4 * (thread ^ distance)) == thread ^ distance

    run(kernel, 1, 64, 1, (16,))
    assert "race" in fault(kernel, 32, seed=1)


def test_shared_memory_that_nobody_wrote_is_found():
    assert "nothing was stored" in fault(
        lambda: machine.load_shared_u16(machine.shared_memory(16) + 2)
    )


def test_shared_memory_has_an_end_and_alignment():
    assert "of 16 of shared" in fault(
        lambda: machine.store_shared_f32(machine.shared_memory(16) + 16, 1.0)
    )
    assert "misaligned" in fault(
        lambda: machine.store_shared_vector(machine.shared_memory(32) + 8, 1, 2, 3, 4)
    )


def test_pieces_of_shared_memory_are_apart():
    addresses = []

    def kernel():
        addresses.append((machine.shared_memory(20), machine.shared_memory(4)))

    run(kernel, 2, 3)
    assert set(addresses) == {(0, 32)}


@pytest.mark.parametrize("seed", [None, 0])
def test_missing_barrier_is_found(seed):
    def ended():
        if machine.thread() < 32:
            machine.barrier()

    def in_the_warp():
        if machine.thread() & 1:
            machine.shuffle_xor_f32(1.0, 2)

    def in_the_cluster():
        if machine.block() == 0:
            machine.cluster_arrive()
            machine.cluster_wait()

    for kernel, cluster in ((ended, 1), (in_the_warp, 1), (in_the_cluster, 2)):
        with pytest.raises(Deadlock, match="wait for ever"):
            run(kernel, 2, 64, cluster, (), seed)


def test_lanes_that_are_apart_are_found():
    def shuffles():
        if machine.thread() & 1:
            machine.shuffle_xor_f32(1.0, 2)
        else:
            machine.shuffle_xor_f32(2.0, 2)

    def barriers():
        if machine.thread() & 1:
            machine.barrier()
        else:
            machine.barrier()

    assert "apart" in fault(shuffles)
    assert "apart" in fault(barriers)
    assert "warp of 16" in fault(lambda: machine.shuffle_xor_i64(1, 1), threads=16)


def test_an_error_in_a_kernel_names_the_thread():
    assert "ZeroDivisionError in block 0, thread 0" in fault(lambda: 1 // 0)


def test_seed_decides_who_is_first():
    def kernel():
        first.append(machine.thread())
        machine.barrier()
        second.append(machine.thread())

    seen = []
    for seed in (None, 0, 1, 0):
        first, second = [], []
        run(kernel, 1, 64, 1, (), seed)
        assert sorted(first) == sorted(second) == list(range(64))
        seen.append((first, second))
    assert seen[0][0] == list(range(64))
    assert seen[0] != seen[1] != seen[2]
    assert seen[3] == seen[1]


def test_registered_arrays_have_their_own_bounds():
    array = aligned(np.zeros(5, np.float32), offset=4)
    assert array.ctypes.data % 256 == 4
    address = MEMORY.register(array)
    try:
        run(lambda start: machine.store_f32(start + 16, 3.0), 1, 1, 1, (address,))
        assert array.tolist() == [0, 0, 0, 0, 3]
        assert "out of bounds" in fault(lambda start: machine.load_f32(start + 20), address)
        with pytest.raises(Fault, match="already"):
            MEMORY.register(array)
    finally:
        MEMORY.free(address)
