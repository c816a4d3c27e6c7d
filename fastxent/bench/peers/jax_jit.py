"""JAX: `jit` of `value_and_grad` of optax's losses."""

from __future__ import annotations

from typing import Any

from fastxent.bench.peers.contract import Result, why_not_installed
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays

__all__ = ["PEER"]


class JaxJit:
    """JAX on the CPU; it takes the threads that the affinity of the process leaves it."""

    name = "JAX"

    def why_not(self, workload: Workload) -> str | None:
        """Why JAX or optax cannot run."""
        return why_not_installed("jax", "optax")

    def prepare(self, workload: Workload) -> Call:
        """Compile for this shape and dtype, and hand the arrays over."""
        import jax
        import optax

        # Without it float64 arrays become float32. Every array here has a dtype of its own.
        jax.config.update("jax_enable_x64", True)
        cpu = jax.devices("cpu")[0]
        logits, target = arrays(workload)
        hard = workload.labels == "hard"

        def mean_loss(z: Any, t: Any) -> Any:
            if hard:
                return optax.softmax_cross_entropy_with_integer_labels(z, t).mean()
            return optax.softmax_cross_entropy(z, t).mean()

        device_logits = jax.device_put(logits, cpu)
        device_target = jax.device_put(target.astype("int32") if hard else target, cpu)
        compiled = jax.jit(jax.value_and_grad(mean_loss))
        compiled = compiled.lower(device_logits, device_target).compile()

        def run() -> Result:
            loss, grad = jax.block_until_ready(compiled(device_logits, device_target))
            return loss, grad

        return Call(run)


PEER = JaxJit()
