"""PyTorch compiled: `torch.compile` of `torch.func.grad_and_value`."""

from __future__ import annotations

import shutil
import warnings

from fastxent.bench.peers.contract import Result, why_not_installed
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays

__all__ = ["PEER"]


class TorchCompiled:
    """Loss and gradient as one function, compiled for this very shape."""

    name = "torch.compile"

    def why_not(self, workload: Workload) -> str | None:
        """Why PyTorch or its C++ compiler cannot run."""
        reason = why_not_installed("torch")
        if reason is None and not (shutil.which("g++") or shutil.which("clang++")):
            return "torch.compile needs a C++ compiler"
        return reason

    def prepare(self, workload: Workload) -> Call:
        """Compile; the shape is a constant, for by default the second one makes it a variable."""
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(workload.threads)
        torch.compiler.reset()
        logits, target = (torch.from_numpy(array) for array in arrays(workload))

        def run() -> Result:
            grad, loss = compiled(logits, target)
            return loss, grad

        with warnings.catch_warnings():
            # PyTorch 2.13 imports modules of its own that it has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled = torch.compile(torch.func.grad_and_value(F.cross_entropy), dynamic=False)
            run()
        return Call(run)


PEER = TorchCompiled()
