"""fastxent inside JAX: `jit` of `value_and_grad` of the adapter's loss."""

from __future__ import annotations

import functools

from fastxent.bench.peers.contract import why_not_installed
from fastxent.bench.peers.jax_jit import compiled_call
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload

__all__ = ["PEER"]


class FastxentJax:
    """What JAX's users get by importing `fastxent.jax`."""

    name = "fastxent.jax"

    def why_not(self, workload: Workload) -> str | None:
        """Why JAX cannot run."""
        if workload.option:
            return "options are measured for the NumPy functions"
        if workload.operation == "binary":
            return "fastxent.jax has no binary loss"
        return why_not_installed("jax")

    def prepare(self, workload: Workload) -> Call:
        """Compile for this shape and dtype, and hand the arrays over."""
        import jax

        from fastxent import jax as adapter

        if not workload.has_loss:
            function = getattr(adapter, workload.operation)
            return compiled_call(workload, functools.partial(function, axis=workload.axis))
        mean_loss = functools.partial(adapter.cross_entropy, axis=workload.axis)
        return compiled_call(workload, jax.value_and_grad(mean_loss))


PEER = FastxentJax()
