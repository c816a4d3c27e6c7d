"""What the kernels of a device are to the rest of this package: one module for each device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from fastxent.side_outputs import Aux
from fastxent.torch.settings import Settings

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["Found", "Kernels", "Later"]


class Later(Protocol):
    """What a forward pass keeps for a gradient that is computed when it is asked for.

    No tensor of the caller's: those come back from autograd, which may have kept them elsewhere.

    Attributes
    ----------
    row_max, row_sum : array or Tensor
        Largest logit of each row, and the sum of the exponentials less that.
    """

    row_max: Any
    row_sum: Any

    def grad(self, saved: Sequence[Tensor | None], grad_output: Tensor) -> Tensor:
        """Gradient for an upstream gradient, one number or one a row: one pass for any of them.

        `saved` are logits, target, weight and sample weight.
        """


@dataclass(slots=True)
class Found:
    """What one pass gives; None for what was not asked."""

    loss: Tensor
    grad: Tensor | None = None
    target_grad: Tensor | None = None
    aux: Aux | None = None
    later: Later | None = None


class Kernels(Protocol):
    """The calls of a device. All tensors of a call are there; they are checked in the call."""

    def pick(self, name: Any, problem: Problem | None = None) -> Any:
        """Backend of this name, or the one that is chosen; an error where it cannot run."""

    def plain_forward(
        self, logits: Tensor, target: Tensor, settings: Settings, wants_grad: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """Mean loss without options, the short way; None where anything is out of the ordinary."""

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Any,
        settings: Settings,
        *,
        grad_output: Tensor | None = None,
        wants_grad: bool = False,
        wants_target_grad: bool = False,
        wants_later: bool = False,
        out: Tensor | None = None,
        aux: Iterable[str] = (),
    ) -> Found:
        """Run the pass with what is asked for; `out` takes the gradient."""

    def denominator(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        settings: Settings,
    ) -> tuple[Tensor, Tensor | None]:
        """What the sum of the losses is divided by, and on a GPU whether a label is a bad one.

        Of `logits` the shape and dtype are looked at. The host waits for neither number; on the CPU
        the labels are checked.
        """

    def scaled(self, grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
        """Give a gradient times the upstream one, one number or one a row.

        What is not kept is changed itself, and not for 1.
        """

    def softmax(
        self, x: Tensor, dim: int, is_log: bool, backend: str | None, num_threads: int | None
    ) -> Tensor:
        """Softmax or its logarithm, laid out as `torch.empty_like` of `x`."""

    def softmax_backward(
        self,
        grad: Tensor,
        result: Tensor,
        dim: int,
        is_log: bool,
        backend: str | None,
        num_threads: int | None,
    ) -> Tensor:
        """Gradient from that of the result, laid out as `torch.empty_like` of the result."""

    def binary(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        grad_output: Tensor | None,
        *,
        wants_grad: bool,
        reduction: str,
        label_smoothing: float,
        backend: str | None,
        num_threads: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Loss, and gradient, empty where it is not wanted."""
