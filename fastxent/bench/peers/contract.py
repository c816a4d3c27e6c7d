"""What a peer is: a name, why it cannot run, and the call to time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from fastxent.bench.timer import Call
from fastxent.bench.workloads import HALVES, Workload

__all__ = [
    "Peer",
    "Result",
    "call_returning",
    "output_alone",
    "why_not_installed",
    "why_not_plain",
]

# Loss (None for softmax), gradient or softmax, and what was asked for besides.
Result = tuple[Any, Any] | tuple[Any, Any, Any]


class Peer(Protocol):
    """One way to compute the mean loss and its gradient with respect to the logits, or softmax."""

    @property
    def name(self) -> str:
        """Give the name in results, tables and pictures."""
        ...

    def why_not(self, workload: Workload) -> str | None:
        """Why it cannot run this workload; None if it can. Imports what it needs."""
        ...

    def prepare(self, workload: Workload) -> Call:
        """Do everything that is done once, and give the call; calling it gives a `Result`.

        The call computes on `workloads.arrays(workload)`, leaves them as they are, and computes
        everything anew each time.
        """
        ...


def why_not_installed(*modules: str) -> str | None:
    """Why a peer cannot run that needs these modules: the first one that does not import."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f'{error}; pip install "fastxent[bench]"'
    return None


def why_not_plain(workload: Workload) -> str | None:
    """Why a peer that has the formulas of plain rows only is not measured."""
    if workload.option:
        return "options are measured for fastxent only"
    if workload.shape:
        return "only PyTorch and JAX are measured with classes on axis 1"
    if workload.dtype in HALVES:
        return "it has no formulas of its own for half precision"
    return None


def output_alone(output: Any) -> Result:
    """Make a `Result` of a softmax."""
    return None, output


def call_returning(function: Callable[..., Result], *arguments: Any) -> Call:
    """Call a function with these arguments, every time."""
    return Call(lambda: function(*arguments))
