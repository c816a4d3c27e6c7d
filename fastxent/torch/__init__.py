"""fastxent for PyTorch: losses with PyTorch's own signatures, in one pass over the logits.

Examples
--------
>>> import torch
>>> from fastxent.torch import cross_entropy
>>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], requires_grad=True)
>>> loss = cross_entropy(logits, torch.tensor([1, 0]))
>>> loss.backward()
>>> round(loss.item(), 3)
2.019
"""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError(
        "fastxent.torch needs PyTorch, which cannot be imported: pip install 'fastxent[torch]'"
    ) from error

from fastxent.torch.binary import binary_cross_entropy_with_logits
from fastxent.torch.linear import linear_cross_entropy
from fastxent.torch.linear_module import LinearCrossEntropyLoss
from fastxent.torch.loss import cross_entropy
from fastxent.torch.modules import BCEWithLogitsLoss, CrossEntropyLoss
from fastxent.torch.on_cpu.loss import empty_cache
from fastxent.torch.patching import patch, patched, unpatch
from fastxent.torch.softmax import log_softmax, softmax
from fastxent.torch.vocab_parallel import (
    VocabParallelCrossEntropyLoss,
    vocab_parallel_cross_entropy,
)

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "VocabParallelCrossEntropyLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "empty_cache",
    "linear_cross_entropy",
    "log_softmax",
    "patch",
    "patched",
    "softmax",
    "unpatch",
    "vocab_parallel_cross_entropy",
]

del _torch
