"""The registry: which backends there are, which one runs a call, and why the others do not.

The first in `ORDER` whose `why_not` is None runs, unless the caller names one. A backend that is
named and cannot run is an error with its reason; nothing falls back silently.
"""

from __future__ import annotations

import functools
import importlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from fastxent import checks

if TYPE_CHECKING:
    from types import TracebackType

    from fastxent.backends.contract import Backend, DeviceBackend
    from fastxent.problem import Problem

__all__ = ["ORDER", "backends", "load", "pick", "pick_on_device", "use_backend"]

# Name and module, fastest first; "cuda" comes last, as arrays of the host are at home elsewhere. A
# module is imported when its backend is first asked about.
ORDER = {
    "cython": "fastxent.backends.cython_omp",
    "numba": "fastxent.backends.numba_cpu",
    "numpy": "fastxent.backends.numpy",
    "cuda": "fastxent.backends.cuda",
}

_ON_DEVICE = "cuda"

_chosen: ContextVar[str | None] = ContextVar("fastxent_backend", default=None)


@functools.cache
def load(name: str) -> Backend:
    """Backend of this name; a module of the registry defines `BACKEND`."""
    backend: Backend = importlib.import_module(ORDER[name]).BACKEND
    return backend


def _check_name(name: Any) -> str:
    return checks.check_choice(name, "backend", tuple(ORDER))


def pick(name: Any, problem: Problem | None = None) -> Backend:
    """Backend for a problem: the one named, else the one of `use_backend`, else the first able."""
    asked = _chosen.get() if name is None else _check_name(name)
    if asked is not None:
        backend = load(asked)
        reason = backend.why_not(problem)
        if reason is not None:
            checks.raise_backend(f"backend {asked!r} cannot run: {reason}")
        return backend
    reasons = []
    for candidate in ORDER:
        backend = load(candidate)
        reason = backend.why_not(problem)
        if reason is None:
            return backend
        reasons.append(f"{candidate}: {reason}")
    checks.raise_backend("no backend can run: " + "; ".join(reasons))


def pick_on_device(name: Any) -> DeviceBackend:
    """Backend for arrays on a GPU: there is one."""
    asked = _chosen.get() if name is None else _check_name(name)
    if asked not in (None, _ON_DEVICE):
        checks.raise_backend(
            f"backend {asked!r} computes on the host, and the first argument is on a GPU: leave "
            "the choice to fastxent, or copy the arrays to the host"
        )
    backend = load(_ON_DEVICE)
    reason = backend.why_not()
    if reason is not None:
        checks.raise_backend(
            f"arrays on a GPU need backend {_ON_DEVICE!r}, which cannot run: {reason}; or copy "
            "them to the host"
        )
    return cast("DeviceBackend", backend)


def backends() -> dict[str, str | None]:
    """List the backends in the order in which they are tried.

    Returns
    -------
    dict of str to str or None
        For each backend the reason why it cannot run on this machine; None if it can.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.backends()["numpy"] is None
    True
    """
    return {name: load(name).why_not() for name in ORDER}


class use_backend:
    """Choose the backend of every following call, or of a ``with`` block.

    The choice holds for the current context (a ``contextvars.ContextVar``): other threads and
    other asynchronous tasks keep theirs. A call's own ``backend=`` goes first. At the end of a
    ``with`` block the choice from before it is back; the object can be used for another one.

    Parameters
    ----------
    name : {"cython", "numba", "numpy", "cuda"} or None
        None returns to the automatic choice. "cuda" copies NumPy arrays to the GPU and the results
        back; it is never chosen automatically for them.

    Raises
    ------
    OptionError
        If there is no such backend.
    BackendError
        If the backend cannot run on this machine; the message says why.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> with fx.use_backend("numpy"):
    ...     loss = fx.cross_entropy(np.zeros((1, 2)), [0])
    >>> round(float(loss), 6)
    0.693147
    """

    def __init__(self, name: str | None) -> None:
        if name is not None:
            pick(name)
        self._name = name
        self._before = _chosen.get()
        self._spent = False
        _chosen.set(name)

    def __enter__(self) -> use_backend:
        if self._spent:
            self._before = _chosen.get()
            _chosen.set(self._name)
        self._spent = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _chosen.set(self._before)
