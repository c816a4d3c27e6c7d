"""The options of the loss as the caller gave them, unchecked, in one tuple, with defaults."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Options"]


class Options(NamedTuple):
    """What `fastxent.cross_entropy` documents, in its order."""

    weight: Any = None
    ignore_index: Any = -100
    label_smoothing: Any = 0.0
    reduction: Any = "mean"
    normalizer: Any = None
    sample_weight: Any = None
    z_loss: Any = 0.0
    softcap: Any = None
    logit_scale: Any = 1.0
    axis: Any = -1
    all_ignored: Any = "nan"
    aux: Any = ()
