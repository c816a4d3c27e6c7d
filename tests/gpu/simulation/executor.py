"""Runs kernels of the simulated GPU: a greenlet for each thread, a cluster of blocks at a time.

A thread runs until it has to wait for others: at a barrier, or in an exchange within its warp.
Who goes first is part of what a seed decides, so that results which depend on it are found; threads
that wait for some which have ended, or wait elsewhere, are found too.
"""

from __future__ import annotations

import contextvars
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from gpu.simulation.fault import Fault
from gpu.simulation.memory import MEMORY
from gpu.simulation.shared import SharedMemory

__all__ = ["Block", "Cluster", "Deadlock", "Thread", "current", "run"]

WARP = 32
current: Callable[[], Any] = getcurrent
# One kernel at a time: autograd, for one, calls from a thread of its own.
_lock = threading.RLock()


class Deadlock(Fault):
    """Threads that wait for threads which will never come."""


class Meeting:
    """Where `size` threads wait for each other: a barrier, or one exchange of a warp after another.

    Those of a warp must come from the same place in the source: the instructions are "aligned".
    """

    __slots__ = ("cluster", "place", "size", "values", "waiting")

    def __init__(self, cluster: Cluster, size: int) -> None:
        self.cluster, self.size = cluster, size
        self.waiting: list[Thread] = []
        self.place: Any = None
        self.values: list[Any] = [None] * size

    def meet(self, thread: Thread, place: Any) -> None:
        """Wait for all the others."""
        waiting = self.waiting
        if not waiting:
            self.place = place
        elif place is not None and place != self.place:
            raise Fault(f"threads of a warp are apart: {_named(place)} and {_named(self.place)}")
        if len(waiting) + 1 == self.size:
            self.waiting = []
            self.cluster.make_ready(waiting)
        else:
            waiting.append(thread)
            self.cluster.wait(thread, self)

    def exchange(self, thread: Thread, index: int, other: int, value: Any, place: Any) -> Any:
        """Leave a value, take the one that another thread left."""
        values = self.values
        values[index] = value
        if len(self.waiting) + 1 == self.size:
            self.values = [None] * self.size
        self.meet(thread, place)
        return values[other]


class Arrivals:
    """The barrier of a cluster, in two steps."""

    __slots__ = ("arrived", "cluster", "complete", "place", "size", "waiting")

    def __init__(self, cluster: Cluster, size: int) -> None:
        self.cluster, self.size, self.place = cluster, size, None
        self.arrived = self.complete = 0
        self.waiting: list[Thread] = []

    def arrive(self) -> None:
        """Arrive and go on."""
        self.arrived += 1
        if self.arrived == self.size:
            self.arrived = 0
            self.complete += 1
            waiting, self.waiting = self.waiting, []
            self.cluster.make_ready(waiting)

    def wait(self, thread: Thread) -> None:
        """Wait until all have arrived as often as this thread."""
        if self.complete < thread.cluster_arrivals:
            self.waiting.append(thread)
            self.cluster.wait(thread, self)


def _named(place: Any) -> str:
    offset, code = place
    lines = [line for first, last, line in code.co_lines() if first <= offset < last]
    return f"line {lines[0] if lines else '?'} in {code.co_name}"


class Thread(greenlet):
    """One thread, and how many barriers it has passed: what orders accesses to shared memory."""

    def __init__(self, block: Block, index: int, parent: greenlet) -> None:
        super().__init__(self._work, parent)
        self.block, self.index = block, index
        self.lane, self.warp_index = index % WARP, index // WARP
        self.warp: Meeting = block.warps[self.warp_index]
        self.waits_in: Meeting | Arrivals | None = None
        self.ended = False
        self.block_passes = self.warp_passes = self.cluster_arrivals = self.cluster_waits = 0
        self.pass_stamp()

    def pass_stamp(self) -> None:
        """Renew what marks this thread's accesses from here on."""
        self.stamp = (self, self.block_passes, self.warp_passes, self.cluster_arrivals)

    def _work(self) -> None:
        cluster = self.block.cluster
        try:
            cluster.kernel(*cluster.arguments)
        except GreenletExit:
            return
        except Exception as error:
            kind = type(error) if isinstance(error, Fault) else Fault
            where = f"block {self.block.index}, thread {self.index}"
            raise kind(f"{type(error).__name__} in {where}: {error}") from error
        self.ended = True


class Block:
    """Its threads, warps and shared memory."""

    def __init__(self, cluster: Cluster, index: int, rank: int, threads: int) -> None:
        self.cluster, self.index, self.rank = cluster, index, rank
        self.shared = SharedMemory()
        self.barrier = Meeting(cluster, threads)
        sizes = [min(WARP, threads - first) for first in range(0, threads, WARP)]
        self.warps = [Meeting(cluster, size) for size in sizes]
        self.warp_barriers = [Meeting(cluster, size) for size in sizes]
        self._places: list[Any] = [(-1, None)] * len(sizes)
        self.threads: list[Thread] = []

    def come_to_barrier(self, thread: Thread, place: Any) -> None:
        """Wait for the whole block; those of a warp must come from one place in the source."""
        passes, other = self._places[thread.warp_index]
        if passes != thread.block_passes:
            self._places[thread.warp_index] = (thread.block_passes, place)
        elif other != place:
            raise Fault(f"threads of a warp are apart: {_named(place)} and {_named(other)}")
        self.barrier.meet(thread, None)


class Cluster:
    """Blocks that run at the same time."""

    def __init__(
        self,
        kernel: Callable[..., None],
        arguments: Sequence[Any],
        blocks: range,
        threads: int,
        order: random.Random | None,
    ) -> None:
        self.kernel, self.arguments, self.order = kernel, arguments, order
        self.hub = getcurrent()
        self.arrivals = Arrivals(self, len(blocks) * threads)
        self.blocks = [Block(self, index, rank, threads) for rank, index in enumerate(blocks)]
        for block in self.blocks:
            block.threads = [Thread(block, index, self.hub) for index in range(threads)]
        # the last one is the next
        self.ready = [thread for block in self.blocks for thread in block.threads][::-1]
        if order is not None:
            order.shuffle(self.ready)

    def make_ready(self, threads: list[Thread]) -> None:
        """Let threads go on: next, or with a seed maybe last, and in another order."""
        threads.reverse()
        order = self.order
        if order is None:
            self.ready += threads
            return
        first = int(order.random() * len(threads))
        turned = threads[first:] + threads[:first]
        if order.random() < 0.5:
            turned.reverse()
        if order.random() < 0.5:
            self.ready += turned
        else:
            self.ready[:0] = turned

    def wait(self, thread: Thread, meeting: Meeting | Arrivals) -> None:
        """Let another thread run; back when this one is ready.

        Threads begin in the hub: a greenlet inherits the depth of Python's stack where it begins.
        """
        thread.waits_in = meeting
        ready = self.ready
        if ready and ready[-1]:
            ready.pop().switch()
        else:
            self.hub.switch()

    def run(self) -> None:
        """Run all threads to their end."""
        threads = [thread for block in self.blocks for thread in block.threads]
        context = contextvars.copy_context
        for thread in threads:
            thread.gr_context = context()  # NumPy's error state is in it
        try:
            ready = self.ready
            while ready:
                ready.pop().switch()
            if not all(thread.ended for thread in threads):
                raise Deadlock(self._stuck(threads))
        finally:
            for thread in threads:
                if thread and not thread.dead:
                    thread.throw()
        for block in self.blocks:
            block.shared.check_end(block)

    @staticmethod
    def _stuck(threads: list[Thread]) -> str:
        waiting: dict[str, list[str]] = {}
        for thread in threads:
            if thread.ended:
                where = "ended"
            else:
                meeting = thread.waits_in
                assert meeting is not None
                where = f"{meeting.size} threads to meet"
                if meeting.place is not None:
                    where += f" at {_named(meeting.place)}"
            waiting.setdefault(where, []).append(f"{thread.block.index}.{thread.index}")
        parts = [f"{len(names)} ({names[0]} ...) {where}" for where, names in waiting.items()]
        return "threads (block.thread) wait for ever: " + "; ".join(parts)


def run(
    kernel: Callable[..., None],
    grid: int,
    threads: int,
    cluster: int = 1,
    arguments: Sequence[Any] = (),
    seed: int | None = None,
) -> None:
    """Run a kernel over a grid of blocks.

    Parameters
    ----------
    kernel : callable
        What the `make` of a kernel module gave, from `gpu.simulation.loading.load`.
    grid : int
        Blocks, a multiple of `cluster`.
    threads : int
        Threads a block.
    cluster : int
        Blocks a cluster.
    arguments : sequence
        Python integers and ``numpy.float64``.
    seed : int, optional
        Of the order in which clusters and threads run; by default that of their numbers.
    """
    if grid < 1 or grid % cluster or not 1 <= threads <= 1024 or not 1 <= cluster <= 16:
        raise Fault(f"no launch: {grid} blocks of {threads} threads in clusters of {cluster}")
    order = None if seed is None else random.Random(seed)
    firsts = list(range(0, grid, cluster))
    if order is not None:
        order.shuffle(firsts)
    with _lock, np.errstate(all="ignore"):
        try:
            for first in firsts:
                blocks = range(first, first + cluster)
                Cluster(kernel, arguments, blocks, threads, order).run()
        finally:
            MEMORY.forget_accesses()
