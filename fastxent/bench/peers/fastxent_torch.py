"""fastxent inside PyTorch: the adapter's losses and `backward`."""

from __future__ import annotations

from typing import Any

from fastxent.bench.peers.contract import why_not_installed
from fastxent.bench.peers.torch_arrays import read, tensors
from fastxent.bench.peers.torch_eager import training_call
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload

__all__ = ["PEER"]


class FastxentTorch:
    """What PyTorch's users get by importing `fastxent.torch`."""

    name = "fastxent.torch"

    def why_not(self, workload: Workload) -> str | None:
        """Why PyTorch cannot run."""
        if workload.option:
            return "options are measured for the NumPy functions"
        return why_not_installed("torch")

    def prepare(self, workload: Workload) -> Call:
        """Wrap the arrays without a copy."""
        import torch

        from fastxent import torch as adapter

        torch.set_num_threads(workload.threads)
        logits, target = tensors(workload)
        if not workload.has_loss:
            softmax: Any = getattr(adapter, workload.operation)
            return Call(lambda: softmax(logits, workload.axis), read=read)
        losses: dict[str, Any] = {
            "cross_entropy": adapter.cross_entropy,
            "binary": adapter.binary_cross_entropy_with_logits,
        }
        return training_call(losses[workload.operation], logits, target)


PEER = FastxentTorch()
