"""One thread for each call of BLAS, while threads of ours each multiply their own rows."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["on_one_thread"]

# BLAS's limit is one of the whole process. Of fits that overlap the first lowers it and the last
# restores it: each for itself, the second would restore what the first had set.
_lock = threading.Lock()
_fits = 0
_limit: Any = None


@functools.cache
def _libraries() -> ThreadpoolController:
    # finding the loaded libraries takes a millisecond
    return ThreadpoolController()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Hold BLAS to one thread a call.

    Threads of BLAS and of OpenMP go on holding their cores for a while when their work is done.
    With two of each on two cores an evaluation of a fit at 50,000 x 200 x 50 in blocks of 512 rows
    took 824 ms; one thread of ours with two of BLAS took 38, two of ours with one of BLAS each 34.
    """
    global _fits, _limit
    with _lock:
        if _fits == 0:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _fits += 1
    try:
        yield
    finally:
        with _lock:
            _fits -= 1
            if _fits == 0:
                _limit.restore_original_limits()
