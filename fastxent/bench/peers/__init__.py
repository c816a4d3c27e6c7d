"""The registry of peers: who is measured, and in which order they are named.

A new peer is a file beside this one with an object that has the methods of `contract.Peer`, and
one entry in `OTHERS`. The test suite checks and times every entry on a small workload.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from fastxent.backends import ORDER
from fastxent.bench.peers import openmp
from fastxent.bench.peers.contract import Peer
from fastxent.bench.peers.own import MODES, Own

__all__ = ["OTHERS", "adapters", "named", "others", "own"]

# Modules below this package; each defines `PEER` and imports its framework when it is asked to run.
OTHERS = (
    "torch_eager",
    "torch_compiled",
    "jax_jit",
    "sklearn_loss",
    "scipy_special",
    "numpy_textbook",
)

# fastxent inside a framework: measured beside what the users of that framework would call.
ADAPTERS = ("fastxent_torch", "fastxent_jax")


# Those of the CPU: for arrays of the host the GPU would only copy. bench.card measures that one.
_BACKENDS = tuple(name for name in ORDER if name != "cuda")


def own(
    modes: Sequence[str] = MODES, threads: int | None = None, backends: Sequence[str] = _BACKENDS
) -> list[Peer]:
    """Give fastxent's backends, each in these modes; with `threads`, those that have threads."""
    openmp.share()
    able = [name for name in backends if threads is None or name != "numpy"]
    return [Own(backend, mode, threads) for backend in able for mode in modes]


def named(name: str) -> Peer:
    """Give the peer of this name."""
    return next(peer for peer in [*own(), *adapters(), *others()] if peer.name == name)


def adapters() -> list[Peer]:
    """Give fastxent's adapters."""
    openmp.share()
    return [_loaded(module) for module in ADAPTERS]


def others() -> list[Peer]:
    """Give everybody else."""
    openmp.share()
    return [_loaded(module) for module in OTHERS]


def _loaded(module: str) -> Peer:
    peer: Peer = importlib.import_module(f"{__name__}.{module}").PEER
    return peer
