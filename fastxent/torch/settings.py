"""The options of a loss that are no tensors, as operators take them."""

from __future__ import annotations

from typing import NamedTuple

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
