"""The loss behind a linear layer as a module: that of `torch.nn`, with fastxent's options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastxent.torch.linear import linear_cross_entropy

__all__ = ["LinearCrossEntropyLoss"]


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
    """`torch.nn.LinearCrossEntropyLoss` computed by fastxent.

    Parameters
    ----------
    in_features, num_classes, out_features, bias, device, dtype, reduction, weight, ignore_index, \
label_smoothing, options
        As in `torch.nn.LinearCrossEntropyLoss`; `weight` becomes a buffer, and the layer is the
        submodule `linear`. What `options` may ask for, `fastxent.torch.linear_cross_entropy` tells.
    normalizer, z_loss, softcap, logit_scale, all_ignored, aux, memory_budget, grad_filter, \
backend, num_threads
        As in `fastxent.torch.linear_cross_entropy`. They are kept in the dictionary `own_options`,
        where they can be changed between calls.

    Notes
    -----
    It is a `torch.nn.LinearCrossEntropyLoss`: the same parameters, buffers and ``state_dict``.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import LinearCrossEntropyLoss
    >>> loss = LinearCrossEntropyLoss(8, 100, label_smoothing=0.1, z_loss=1e-4)
    >>> loss(torch.randn(5, 8), torch.arange(5)).backward()
    >>> loss.linear.weight.grad.shape
    torch.Size([100, 8])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        normalizer: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        all_ignored: str = "nan",
        aux: Iterable[str] = (),
        memory_budget: float | None = None,
        grad_filter: float | None = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            out_features=out_features,
            bias=bias,
            device=device,
            dtype=dtype,
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        self.own_options: dict[str, Any] = {
            "normalizer": normalizer,
            "z_loss": z_loss,
            "softcap": softcap,
            "logit_scale": logit_scale,
            "all_ignored": all_ignored,
            # an iterator would be empty at the second call
            "aux": aux if isinstance(aux, str) else tuple(aux),
            "memory_budget": memory_budget,
            "grad_filter": grad_filter,
            "backend": backend,
            "num_threads": num_threads,
        }

    def extra_repr(self) -> str:
        """PyTorch's line, and fastxent's options that are not the default."""
        defaults = inspect.signature(LinearCrossEntropyLoss).parameters
        changed = (
            f" {name}={value!r},"
            for name, value in self.own_options.items()
            if value != defaults[name].default
        )
        line: str = super().extra_repr()
        return line + "".join(changed)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Any:
        """Compute the loss; `sample_weight` as in `fastxent.torch.linear_cross_entropy`."""
        layer, shape = self.linear, (self.num_classes, *self.out_features)
        bias = None if layer.bias is None else layer.bias.reshape(shape)
        return linear_cross_entropy(
            input,
            layer.weight.reshape(*shape, layer.in_features),
            target,
            linear_bias=bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            sample_weight=sample_weight,
            **self.own_options,
        )
