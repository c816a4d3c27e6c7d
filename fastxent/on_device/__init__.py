"""The public calls on arrays of a GPU: the same checks and algebra, and no wait for the GPU.

Numbers on the GPU are never looked at by the host: the denominator of a mean stays there, weights
are taken as they are, and a bad label shows as a NaN. `fastxent.api` has the docstrings.
"""

from fastxent.on_device.binary import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_and_grad,
)
from fastxent.on_device.cross_entropy import cross_entropy, cross_entropy_and_grad
from fastxent.on_device.jacobian import jacobian_product
from fastxent.on_device.labels import check_labels
from fastxent.on_device.sharding import (
    grad_from_stats,
    loss_from_stats,
    merge_stats,
    partial_stats,
)
from fastxent.on_device.softmax import logsumexp, normalised

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "check_labels",
    "cross_entropy",
    "cross_entropy_and_grad",
    "grad_from_stats",
    "jacobian_product",
    "logsumexp",
    "loss_from_stats",
    "merge_stats",
    "normalised",
    "partial_stats",
]
