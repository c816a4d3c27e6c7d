"""The losses as modules: those of `torch.nn`, with fastxent behind and its options beside."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastxent.torch.binary import binary_cross_entropy_with_logits
from fastxent.torch.loss import cross_entropy

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss"]

_OWN = ("ignore_index", "reduction", "label_smoothing")


def _shown(kind: type, options: dict[str, Any]) -> str:
    """Show the options that are not the default."""
    defaults = inspect.signature(kind).parameters
    changed = {name: value for name, value in options.items() if value != defaults[name].default}
    return ", ".join(f"{name}={value!r}" for name, value in changed.items())


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` computed by fastxent.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`; `weight` becomes a buffer.
    normalizer, z_loss, softcap, logit_scale, all_ignored, aux, memory, in_place, backend, \
num_threads
        As in `fastxent.torch.cross_entropy`. They are kept in the dictionary `options`, where they
        can be changed between calls.

    Notes
    -----
    It is a `torch.nn.CrossEntropyLoss`: the same buffers and the same ``state_dict``.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import CrossEntropyLoss
    >>> loss = CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4)
    >>> logits = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
    >>> loss(logits, torch.tensor([0])).backward()
    >>> [round(number, 3) for number in logits.grad[0].tolist()]
    [-0.274, 0.209, 0.065]
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int | None = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        normalizer: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        all_ignored: str = "nan",
        aux: Iterable[str] = (),
        memory: str = "fast",
        in_place: bool = False,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.options: dict[str, Any] = {
            "normalizer": normalizer,
            "z_loss": z_loss,
            "softcap": softcap,
            "logit_scale": logit_scale,
            "all_ignored": all_ignored,
            # an iterator would be empty at the second call
            "aux": aux if isinstance(aux, str) else tuple(aux),
            "memory": memory,
            "in_place": in_place,
            "backend": backend,
            "num_threads": num_threads,
        }

    def extra_repr(self) -> str:
        """Options that are not the default."""
        own = {name: getattr(self, name) for name in _OWN}
        return _shown(CrossEntropyLoss, {**own, **self.options})

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Any:
        """Compute the loss; `sample_weight` as in `fastxent.torch.cross_entropy`."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
            **self.options,
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss` computed by fastxent.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As in `torch.nn.BCEWithLogitsLoss`; `weight` and `pos_weight` become buffers.
    label_smoothing, memory, backend, num_threads
        As in `fastxent.torch.binary_cross_entropy_with_logits`; kept in the dictionary `options`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import BCEWithLogitsLoss
    >>> loss = BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    >>> round(loss(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0])).item(), 4)
    0.8677
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        memory: str = "fast",
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.options: dict[str, Any] = {
            "label_smoothing": label_smoothing,
            "memory": memory,
            "backend": backend,
            "num_threads": num_threads,
        }

    def extra_repr(self) -> str:
        """Options that are not the default."""
        return _shown(BCEWithLogitsLoss, {"reduction": self.reduction, **self.options})

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss."""
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            **self.options,
        )
