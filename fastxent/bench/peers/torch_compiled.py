"""PyTorch compiled: `torch.compile` of `torch.func.grad_and_value`, and of softmax."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

from fastxent.bench.peers.contract import Result, why_not_installed
from fastxent.bench.peers.torch_arrays import read, tensors
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload

__all__ = ["PEER"]


class TorchCompiled:
    """Loss and gradient as one function, compiled for this very shape."""

    name = "torch.compile"

    def why_not(self, workload: Workload) -> str | None:
        """Why PyTorch or its C++ compiler cannot run."""
        if workload.option:
            return "options are measured for fastxent only"
        reason = why_not_installed("torch")
        if reason is None and not (shutil.which("g++") or shutil.which("clang++")):
            return "torch.compile needs a C++ compiler"
        return reason

    def prepare(self, workload: Workload) -> Call:
        """Compile; the shape is a constant, for by default the second one makes it a variable."""
        import torch

        torch.set_num_threads(workload.threads)
        torch.compiler.reset()
        logits, target = tensors(workload)
        arguments = (logits, target) if workload.has_loss else (logits,)
        with warnings.catch_warnings():
            # PyTorch 2.13 imports modules of its own that it has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled = torch.compile(_function(workload), dynamic=False)
            compiled(*arguments)
        if not workload.has_loss:
            return Call(lambda: compiled(logits), read=read)

        def run() -> Result:
            grad, loss = compiled(logits, target)
            return loss, grad

        return Call(run, read=read)


def _function(workload: Workload) -> Any:
    """Give what is compiled: the gradient and the loss of two arrays, or softmax of one."""
    import torch
    import torch.nn.functional as F

    if workload.operation == "cross_entropy":
        return torch.func.grad_and_value(F.cross_entropy)
    if workload.operation == "binary":
        return torch.func.grad_and_value(F.binary_cross_entropy_with_logits)
    softmax = torch.softmax if workload.operation == "softmax" else torch.log_softmax
    return lambda logits: softmax(logits, workload.axis)


PEER = TorchCompiled()
