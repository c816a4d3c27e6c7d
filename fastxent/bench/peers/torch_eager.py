"""PyTorch eager: `F.cross_entropy` and `backward`."""

from __future__ import annotations

from fastxent.bench.peers.contract import Result, why_not_installed
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays

__all__ = ["PEER"]


class TorchEager:
    """PyTorch as people run it: logits that require a gradient, loss, backward."""

    name = "PyTorch eager"

    def why_not(self, workload: Workload) -> str | None:
        """Why PyTorch cannot run."""
        return why_not_installed("torch")

    def prepare(self, workload: Workload) -> Call:
        """Wrap the arrays without a copy."""
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(workload.threads)
        logits, target = (torch.from_numpy(array) for array in arrays(workload))
        leaf = logits.detach().requires_grad_()

        def run() -> Result:
            loss = F.cross_entropy(leaf, target)
            loss.backward()
            grad, leaf.grad = leaf.grad, None  # its memory is not given back inside the next call
            return loss.detach(), grad

        return Call(run)


PEER = TorchEager()
