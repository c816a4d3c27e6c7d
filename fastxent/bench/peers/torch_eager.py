"""PyTorch eager: `F.cross_entropy` and `backward`, and its siblings."""

from __future__ import annotations

from typing import Any

from fastxent.bench.peers.contract import Result, why_not_installed
from fastxent.bench.peers.torch_arrays import read, tensors
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload

__all__ = ["PEER", "training_call"]


class TorchEager:
    """PyTorch as people run it: logits that require a gradient, loss, backward."""

    name = "PyTorch eager"

    def why_not(self, workload: Workload) -> str | None:
        """Why PyTorch cannot run."""
        if workload.option:
            return "options are measured for fastxent only"
        return why_not_installed("torch")

    def prepare(self, workload: Workload) -> Call:
        """Wrap the arrays without a copy; softmax goes into a buffer that is used again."""
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(workload.threads)
        logits, target = tensors(workload)
        if not workload.has_loss:
            softmax = torch.softmax if workload.operation == "softmax" else torch.log_softmax
            buffer = torch.full_like(logits, torch.nan)
            return Call(
                lambda: softmax(logits, workload.axis, out=buffer),
                allocates_output=False,
                read=read,
            )
        losses: dict[str, Any] = {
            "cross_entropy": F.cross_entropy,
            "binary": F.binary_cross_entropy_with_logits,
        }
        return training_call(losses[workload.operation], logits, target)


def training_call(mean_loss: Any, logits: Any, target: Any) -> Call:
    """Compute the loss of logits that require a gradient, and call `backward`."""
    leaf = logits.detach().requires_grad_()

    def run() -> Result:
        loss = mean_loss(leaf, target)
        loss.backward()
        grad, leaf.grad = leaf.grad, None  # its memory is not given back inside the next call
        return loss.detach(), grad

    return Call(run, read=read)


PEER = TorchEager()
