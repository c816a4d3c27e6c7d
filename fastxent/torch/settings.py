"""The options of a loss that are no tensors, as operators take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastxent.checks.torch import check_no_gradient

__all__ = ["Settings"]


class Settings(NamedTuple):
    """What `fastxent.torch.cross_entropy` documents."""

    ignore_index: int | None = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    normalizer: float | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    all_ignored: str = "nan"
    backend: str | None = None
    num_threads: int | None = None

    def numbers(self) -> Settings:
        """The same with plain numbers, as operators take them."""
        for name, value in self._asdict().items():
            if isinstance(value, Tensor):
                check_no_gradient(value.requires_grad, name)
        return self._replace(
            label_smoothing=float(self.label_smoothing),
            normalizer=None if self.normalizer is None else float(self.normalizer),
            z_loss=float(self.z_loss),
            softcap=None if self.softcap is None else float(self.softcap),
            logit_scale=float(self.logit_scale),
        )
