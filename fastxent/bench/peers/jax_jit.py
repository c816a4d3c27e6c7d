"""JAX: `jit` of `value_and_grad` of optax's losses, and of `jax.nn`'s softmax."""

from __future__ import annotations

from typing import Any

from fastxent.bench.peers.contract import Result, output_alone, why_not_installed
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays

__all__ = ["PEER", "compiled_call"]


class JaxJit:
    """JAX on the CPU; it takes the threads that the affinity of the process leaves it."""

    name = "JAX"

    def why_not(self, workload: Workload) -> str | None:
        """Why JAX or optax cannot run."""
        if workload.option:
            return "options are measured for fastxent only"
        return why_not_installed("jax", "optax")

    def prepare(self, workload: Workload) -> Call:
        """Compile for this shape and dtype, and hand the arrays over."""
        import jax

        softmax = None if workload.has_loss else getattr(jax.nn, workload.operation)
        return compiled_call(workload, softmax or jax.value_and_grad(_mean_loss(workload)))


def compiled_call(workload: Workload, function: Any) -> Call:
    """Compile `value_and_grad` of a loss, or a softmax, and hand it the arrays of a workload."""
    import jax

    # Without it float64 arrays become float32. Every array here has a dtype of its own.
    jax.config.update("jax_enable_x64", True)
    cpu = jax.devices("cpu")[0]
    logits, target = arrays(workload)
    device_logits = jax.device_put(logits, cpu)
    if not workload.has_loss:
        softmax = jax.jit(function).lower(device_logits).compile()
        return Call(lambda: jax.block_until_ready(softmax(device_logits)), read=output_alone)
    indices = workload.operation == "cross_entropy" and workload.labels == "hard"
    device_target = jax.device_put(target.astype("int32") if indices else target, cpu)
    compiled = jax.jit(function).lower(device_logits, device_target).compile()

    def run() -> Result:
        loss, grad = jax.block_until_ready(compiled(device_logits, device_target))
        return loss, grad

    return Call(run)


def _mean_loss(workload: Workload) -> Any:
    import optax

    axis = workload.axis
    if workload.operation == "binary":
        return lambda z, t: optax.sigmoid_binary_cross_entropy(z, t).mean()
    if workload.labels == "soft":
        return lambda z, t: optax.softmax_cross_entropy(z, t, axis=axis).mean()
    loss = optax.softmax_cross_entropy_with_integer_labels
    return lambda z, t: loss(z, t, axis=axis).mean()


PEER = JaxJit()
