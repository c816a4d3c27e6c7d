"""Everybody who is measured on a card: ours, and what else is installed.

Each maker takes logits that require grad and labels, and gives what is timed. One that is missing,
or that cannot do a workload, says why.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastxent as fx

__all__ = ["COPY", "PEERS", "CardPeer", "copy", "versions"]

COPY = "device copy"
Run = Callable[[], Any]


@dataclass(frozen=True)
class CardPeer:
    """Somebody to measure.

    Attributes
    ----------
    prepare : callable
        Takes logits and labels; gives a call that returns the loss and the gradient.
    package : str or None
        What has to be installed.
    from_classes : int
        Not measured with fewer classes.
    overwrites : bool
        Whether the logits are gone afterwards; then it gets a copy of its own.
    """

    name: str
    prepare: Callable[[Tensor, Tensor], Run]
    package: str | None = None
    from_classes: int = 1
    overwrites: bool = False

    def why_not(self, classes: int) -> str | None:
        """Why it is not measured."""
        if classes < self.from_classes:
            return f"measured from {self.from_classes:,} classes on"
        if self.package is not None:
            try:
                version(self.package)
            except PackageNotFoundError:
                return f"{self.package} is not installed"
        return None


def copy(logits: Tensor, labels: Tensor) -> Run:
    """Copy as many bytes as the gradient has; the labels are left out."""
    source, target = logits.detach(), torch.empty_like(logits)
    return lambda: target.copy_(source)


def _with_out(logits: Tensor, labels: Tensor) -> Run:
    plain, grad = logits.detach(), torch.empty_like(logits)
    return lambda: fx.cross_entropy_and_grad(plain, labels, out=grad)


def _sum_with_out(logits: Tensor, labels: Tensor) -> Run:
    plain, grad = logits.detach(), torch.empty_like(logits)
    return lambda: fx.cross_entropy_and_grad(plain, labels, out=grad, reduction="sum")


def _trained(loss_of: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Run:
    leaf = logits.detach().requires_grad_()

    def run() -> tuple[Tensor, Tensor | None]:
        leaf.grad = None
        loss = loss_of(leaf, labels)
        loss.backward()
        return loss, leaf.grad

    return run


def _in_torch(logits: Tensor, labels: Tensor) -> Run:
    adapter = importlib.import_module("fastxent.torch")
    return _trained(adapter.cross_entropy, logits, labels)


def _eager(logits: Tensor, labels: Tensor) -> Run:
    return _trained(F.cross_entropy, logits, labels)


def _compiled(logits: Tensor, labels: Tensor) -> Run:
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: F.cross_entropy(x, y))
    return _trained(compiled, logits, labels)


def _liger(logits: Tensor, labels: Tensor) -> Run:
    functional = importlib.import_module("liger_kernel.transformers.functional")
    return _trained(functional.liger_cross_entropy, logits, labels)


def _flash_attention(logits: Tensor, labels: Tensor) -> Run:
    kernels = importlib.import_module("flash_attn.ops.triton.cross_entropy")
    return _trained(lambda x, y: kernels.cross_entropy_loss(x, y)[0].mean(), logits, labels)


def _quack(logits: Tensor, labels: Tensor) -> Run:
    forward = importlib.import_module("quack.cross_entropy").cross_entropy_fwd
    plain = logits.detach()
    return lambda: forward(plain, labels, return_dx=True)


PEERS = (
    CardPeer("fastxent", _with_out),
    CardPeer("fastxent, sum", _sum_with_out),
    CardPeer("fastxent.torch", _in_torch),
    CardPeer("PyTorch eager", _eager),
    CardPeer("torch.compile", _compiled, from_classes=1000),
    CardPeer("Liger", _liger, "liger-kernel", from_classes=1000, overwrites=True),
    CardPeer("flash-attention", _flash_attention, "flash-attn", from_classes=1000),
    CardPeer("QuACK", _quack, "quack-kernels", from_classes=1000),
)


def versions() -> dict[str, str]:
    """Versions of all that takes part."""
    found = {}
    for name in ("numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "torch", "triton"):
        found[name] = _version(name)
    for peer in PEERS:
        if peer.package is not None:
            found[peer.package] = _version(peer.package)
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
