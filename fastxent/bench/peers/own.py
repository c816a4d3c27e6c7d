"""fastxent itself: every backend, into a buffer used before, in place, and into fresh memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, aligned, arrays
from fastxent.precision import Array

__all__ = ["MODES", "Own"]

MODES = ("out", "in place", "new")


@functools.lru_cache(maxsize=1)
def _buffer(workload: Workload) -> Array:
    """One output for all backends: it need not exist more than once."""
    return aligned(arrays(workload).logits)


@dataclass(frozen=True)
class Own:
    """A backend of fastxent, called as users call it.

    Attributes
    ----------
    backend : str
    mode : {"out", "in place", "new"}
        Where the gradient goes: a buffer used before, over the logits, fresh memory.
    threads : int, optional
        By default as many as fastxent takes of itself.
    """

    backend: str
    mode: str = "out"
    threads: int | None = None

    @property
    def name(self) -> str:
        """Backend and mode."""
        return f"{self.backend}/{self.mode}" + (f" x{self.threads}" if self.threads else "")

    def why_not(self, workload: Workload) -> str | None:
        """Why the backend cannot run."""
        return fx.backends()[self.backend]

    def prepare(self, workload: Workload) -> Call:
        """Bind the public function to its arguments."""
        logits, target = arrays(workload)
        options: dict[str, Any] = {"backend": self.backend, "num_threads": self.threads}
        if self.mode == "new":
            return Call(lambda: fx.cross_entropy_and_grad(logits, target, **options))
        buffer = _buffer(workload)
        source: Array = logits
        reset: Callable[[], None] | None = None
        if self.mode == "in place":
            source, reset = buffer, lambda: np.copyto(buffer, logits)
        buffer.fill(np.nan)  # what is not written shows
        return Call(
            lambda: fx.cross_entropy_and_grad(source, target, out=buffer, **options),
            reset,
            allocates_output=False,
        )
