"""The public functions: docstring, build a Problem, pick a backend, run, reduce."""

from fastxent.api.binary import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_and_grad,
)
from fastxent.api.cross_entropy import cross_entropy, cross_entropy_and_grad
from fastxent.api.jacobian import log_softmax_backward, softmax_backward
from fastxent.api.labels import check_labels
from fastxent.api.linear import linear_cross_entropy, linear_cross_entropy_and_grad
from fastxent.api.sharding import (
    grad_from_stats,
    loss_from_stats,
    merge_stats,
    partial_stats,
)
from fastxent.api.softmax import log_softmax, logsumexp, softmax

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "check_labels",
    "cross_entropy",
    "cross_entropy_and_grad",
    "grad_from_stats",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "loss_from_stats",
    "merge_stats",
    "partial_stats",
    "softmax",
    "softmax_backward",
]
