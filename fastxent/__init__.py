"""Softmax, cross-entropy and its gradient in one pass over the logits.

>>> import fastxent as fx
>>> import numpy as np
>>> loss, grad = fx.cross_entropy_and_grad(np.zeros((4, 10), "float32"), [3, 1, 4, 1])
>>> round(float(loss), 4)
2.3026
"""

from fastxent.api import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_and_grad,
    check_labels,
    cross_entropy,
    cross_entropy_and_grad,
    grad_from_stats,
    linear_cross_entropy,
    linear_cross_entropy_and_grad,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    loss_from_stats,
    merge_stats,
    partial_stats,
    softmax,
    softmax_backward,
)
from fastxent.backends import backends, use_backend
from fastxent.config import show_config
from fastxent.errors import (
    BackendError,
    CallOrderError,
    DTypeError,
    FastxentError,
    LabelError,
    OptionError,
    OutputError,
    ShapeError,
)
from fastxent.linear import LinearGrads
from fastxent.loss import CrossEntropyLoss
from fastxent.openmp import share_openmp
from fastxent.sharding import ShardStats
from fastxent.side_outputs import Aux
from fastxent.threads import get_num_threads, set_num_threads
from fastxent.version import __version__

__all__ = [
    "Aux",
    "BackendError",
    "CallOrderError",
    "CrossEntropyLoss",
    "DTypeError",
    "FastxentError",
    "LabelError",
    "LinearGrads",
    "OptionError",
    "OutputError",
    "ShapeError",
    "ShardStats",
    "__version__",
    "backends",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "check_labels",
    "cross_entropy",
    "cross_entropy_and_grad",
    "get_num_threads",
    "grad_from_stats",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "loss_from_stats",
    "merge_stats",
    "partial_stats",
    "set_num_threads",
    "share_openmp",
    "show_config",
    "softmax",
    "softmax_backward",
    "use_backend",
]
