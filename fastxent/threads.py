"""How many threads a call may use, how many it is worth, and how many others leave it.

The limit, first that is set: the `num_threads` argument, `set_num_threads`, FASTXENT_NUM_THREADS,
OpenMP's limit (OMP_NUM_THREADS, or what threadpoolctl sets), NUMBA_NUM_THREADS, and the CPUs that
affinity and the cgroup quota leave to the process. One rule for every CPU backend. Of what is not
asked for by `num_threads`, a call takes one thread while calls of other threads are at work.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

from fastxent import checks
from fastxent.cpus import affinity_cpus, available_cpus, machine_cpus

__all__ = [
    "NANOSECONDS_PER_THREAD",
    "Chosen",
    "Team",
    "at_most",
    "available_cpus",
    "counted",
    "forked",
    "get_num_threads",
    "limit_and_origin",
    "most_threads",
    "on_change",
    "only_caller",
    "plan",
    "register_openmp",
    "set_num_threads",
]

# What a call costs on one thread, and what a thread must have to do to be worth waking: a second
# one costs 3 to 8 us. benchmarks/threads.py prints the measurements, and what this choice costs
# beside the best one.
NANOSECONDS_PER_ROW = 5.0
NANOSECONDS_PER_BYTE = 0.1
NANOSECONDS_PER_THREAD = 10_000.0

_process_limit: int | None = None
_openmp_limit: Callable[[], int] | None = None
_in_openmp_region: Callable[[], bool] = bool  # without the extension nobody knows
_forked = False
_caller = threading.Lock()
# How many threads the call takes that a thread is inside of, by the thread. Small calls are not
# here. No lock guards it: one that Ctrl-C leaves behind would stop everybody, an entry that it
# leaves behind is of the thread that writes it anew.
_at_work: dict[int, int] = {}
_listeners: list[Callable[[], None]] = []


def on_change(listener: Callable[[], None]) -> None:
    """Call `listener` whenever this process sets another limit, and in a child after fork.

    For code that runs where no Python can be asked.
    """
    _listeners.append(listener)


def _tell_listeners() -> None:
    for listener in _listeners:
        listener()


def _mark_forked() -> None:
    # libgomp's team and Numba's OpenMP layer do not survive fork: a child that starts a parallel
    # region hangs or is killed. Serial kernels start none. Grandchildren inherit the mark.
    global _forked
    _forked = True
    _tell_listeners()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def forked() -> bool:
    """Whether this process was forked from one that had fastxent loaded: kernels run serially."""
    return _forked


@contextmanager
def only_caller() -> Iterator[bool]:
    """Give True to one thread at a time, and False at once to any other.

    Numba's workqueue layer aborts the process when two threads launch into it together; whoever
    is told False runs the serial kernel.
    """
    taken = _caller.acquire(blocking=False)
    try:
        yield taken
    finally:
        if taken:
            _caller.release()


class Chosen(int):
    """A number of threads, two at least, that nobody asked for: a call may do with one."""

    __slots__ = ()


def at_most(num_threads: int, most: int) -> int:
    """The smaller number; one that nobody asked for stays so."""
    if num_threads <= most:
        return num_threads
    return Chosen(most) if isinstance(num_threads, Chosen) and most > 1 else most


class Team:
    """The threads of a call that is worth several, counted while it runs.

    A number that was asked for is what it gets. Else it stays on its own thread where the calls of
    other threads take half of that number or more: eight callers on eight CPUs would take 64
    threads; and inside a parallel region of OpenMP, of which Numba's layers tbb and workqueue know
    nothing. A call beside a smaller one takes its number, not what is left: libgomp ends and starts
    threads whenever the size of a team changes.
    """

    __slots__ = ("_most",)

    def __init__(self, num_threads: int) -> None:
        self._most = num_threads

    def __enter__(self) -> int:
        caller, size = threading.get_ident(), int(self._most)
        if isinstance(self._most, Chosen):
            at_work = _at_work.copy()
            at_work.pop(caller, None)
            if 2 * sum(at_work.values()) >= size or _in_openmp_region():
                size = 1
        _at_work[caller] = size
        return size

    def __exit__(self, *_: object) -> None:
        _at_work.pop(threading.get_ident(), None)


class _Planned(Protocol):
    """What a backend's verb takes: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_threads(self) -> int: ...


_Backend = TypeVar("_Backend")
_Problem = TypeVar("_Problem", bound=_Planned)
_Result = TypeVar("_Result")
_Rest = ParamSpec("_Rest")


def counted(
    verb: Callable[Concatenate[_Backend, _Problem, _Rest], _Result],
) -> Callable[Concatenate[_Backend, _Problem, _Rest], _Result]:
    """Count the threads of a backend's verb that takes a problem; it may get one thread only."""

    @functools.wraps(verb)
    def with_its_team(
        backend: _Backend, problem: _Problem, /, *args: _Rest.args, **kwargs: _Rest.kwargs
    ) -> _Result:
        if problem.num_threads == 1:
            return verb(backend, problem, *args, **kwargs)
        with Team(problem.num_threads) as size:
            if size != problem.num_threads:
                problem = replace(problem, num_threads=size)
            return verb(backend, problem, *args, **kwargs)

    return with_its_team


def register_openmp(limit: Callable[[], int], in_region: Callable[[], bool]) -> None:
    """Let the extension tell OpenMP's limit, and whether the caller is in a parallel region."""
    global _openmp_limit, _in_openmp_region
    _openmp_limit, _in_openmp_region = limit, in_region


def _own_limit() -> int | None:
    name = "FASTXENT_NUM_THREADS"
    text = os.environ.get(name, "").strip()
    return checks.check_num_threads(int(text) if text.isdecimal() else text, name) if text else None


@functools.cache  # once, as OpenMP and Numba read theirs: a look takes 1 us, and a call had six
def _limit_of_others(name: str) -> int | None:
    # OMP_NUM_THREADS may list one number a nesting level; the outermost counts. What is wrong with
    # the variables of others is theirs to say.
    first = os.environ.get(name, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _openmp() -> int | None:
    """OpenMP's limit, where somebody set one: unset, it is the number of CPUs.

    Numba's OpenMP layer sets it to NUMBA_NUM_THREADS when it starts, whatever OMP_NUM_THREADS says:
    what is above that is no limit.
    """
    asked = _limit_of_others("OMP_NUM_THREADS")
    if _openmp_limit is None:
        return asked
    limit = _openmp_limit()
    if asked is not None:
        return min(limit, asked)
    return limit if limit < affinity_cpus() else None  # by threadpoolctl or omp_set_num_threads


def most_threads() -> int:
    """Most threads that can be had; more than these are clamped, never an error.

    The CPUs of the machine, or what OMP_NUM_THREADS or NUMBA_NUM_THREADS ask for beyond them.
    """
    numba_config = sys.modules.get("numba.core.config")
    numba_threads = getattr(numba_config, "NUMBA_NUM_THREADS", None)
    asked = (
        _limit_of_others("OMP_NUM_THREADS"),
        _limit_of_others("NUMBA_NUM_THREADS"),
        numba_threads,
    )
    return max(machine_cpus(), *(n for n in asked if n is not None), 1)


def limit_and_origin() -> tuple[int, str]:
    """Most threads of a call without `num_threads=`, and what sets this number."""
    if _forked:
        return 1, "forked child: only serial kernels run"
    if _process_limit is not None:
        return _process_limit, "set_num_threads"
    for limit, origin in (
        (_own_limit(), "FASTXENT_NUM_THREADS"),
        (_openmp(), "OpenMP (OMP_NUM_THREADS or threadpoolctl)"),
        (_limit_of_others("NUMBA_NUM_THREADS"), "NUMBA_NUM_THREADS"),
    ):
        if limit is not None:
            return min(limit, most_threads()), origin
    return available_cpus(), "CPUs that affinity and the cgroup quota leave"


def set_num_threads(num_threads: int) -> None:
    """Limit the threads of every following call of this process.

    Parameters
    ----------
    num_threads : int
        At least 1; more than can be had is clamped.

    Raises
    ------
    OptionError
        If `num_threads` is below 1.

    Examples
    --------
    >>> import fastxent as fx
    >>> before = fx.get_num_threads()
    >>> fx.set_num_threads(1)
    >>> fx.get_num_threads()
    1
    >>> fx.set_num_threads(before)
    """
    global _process_limit
    _process_limit = min(checks.check_num_threads(num_threads), most_threads())
    _tell_listeners()


def get_num_threads() -> int:
    """Give the most threads that a call without `num_threads=` uses.

    Returns
    -------
    int
        1 in a forked child, where only serial kernels run.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.get_num_threads() >= 1
    True
    """
    limit, _ = limit_and_origin()
    return limit


def plan(num_threads: Any, rows: int, size_in_bytes: int) -> int:
    """Threads for a pass over so many rows of logits: as asked for, or as many as it is worth."""
    if num_threads is not None:
        if isinstance(num_threads, Chosen):  # planned before
            return 1 if _forked else num_threads
        asked = checks.check_num_threads(num_threads)
        return 1 if _forked or asked == 1 else min(asked, most_threads())
    worth = rows * NANOSECONDS_PER_ROW + size_in_bytes * NANOSECONDS_PER_BYTE
    if _forked or worth < 2 * NANOSECONDS_PER_THREAD:
        return 1
    most = min(get_num_threads(), int(worth / NANOSECONDS_PER_THREAD))
    return Chosen(most) if most > 1 else 1
