"""fastxent itself: every backend, into a buffer used before, in place, and into fresh memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench.peers.contract import output_alone
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, aligned, arrays, options_of
from fastxent.precision import Array

__all__ = ["MODES", "Own"]

MODES = ("out", "in place", "new")


@functools.lru_cache(maxsize=2)
def _buffer_like(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """One output for all backends: it need not exist more than once."""
    return aligned(np.zeros(shape, dtype))


def _bound(workload: Workload, logits: Array, **options: Any) -> Callable[[], Any]:
    """Bind the public function of an operation to all its arguments."""
    if not workload.has_loss:
        softmax = fx.softmax if workload.operation == "softmax" else fx.log_softmax
        return functools.partial(softmax, logits, workload.axis, **options)
    target = arrays(workload).target
    if workload.operation == "binary":
        binary = fx.binary_cross_entropy_with_logits_and_grad
        return functools.partial(binary, logits, target, **options)
    options |= options_of(workload)
    if workload.shape:
        options["axis"] = workload.axis
    return functools.partial(fx.cross_entropy_and_grad, logits, target, **options)


@dataclass(frozen=True)
class Own:
    """A backend of fastxent, called as users call it.

    Attributes
    ----------
    backend : str or None
        None for the one that fastxent takes of itself, which is not a peer to be measured.
    mode : {"out", "in place", "new"}
        Where the gradient goes: a buffer used before, over the logits, fresh memory.
    threads : int, optional
        By default as many as fastxent takes of itself.
    """

    backend: str | None
    mode: str = "out"
    threads: int | None = None

    @property
    def name(self) -> str:
        """Backend and mode."""
        return f"{self.backend}/{self.mode}" + (f" x{self.threads}" if self.threads else "")

    def why_not(self, workload: Workload) -> str | None:
        """Why the backend cannot run."""
        return None if self.backend is None else fx.backends()[self.backend]

    def prepare(self, workload: Workload) -> Call:
        """Bind the public function to its arguments."""
        logits = arrays(workload).logits
        options: dict[str, Any] = {"backend": self.backend, "num_threads": self.threads}
        read = None if workload.has_loss else output_alone
        if self.mode == "new":
            return Call(_bound(workload, logits, **options), read=read)
        buffer = _buffer_like(logits.shape, logits.dtype)
        source: Array = logits
        reset: Callable[[], None] | None = None
        if self.mode == "in place":
            source, reset = buffer, lambda: np.copyto(buffer, logits)
        buffer.fill(np.nan)  # what is not written shows
        run = _bound(workload, source, out=buffer, **options)
        return Call(run, reset, allocates_output=False, read=read)
