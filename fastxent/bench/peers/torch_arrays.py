"""NumPy's arrays as PyTorch's and back, without a copy, half precision among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.bench.workloads import Workload, arrays, dtype_of
from fastxent.precision import Array

__all__ = ["read", "tensors"]


def tensors(workload: Workload) -> tuple[Any, Any]:
    """Give logits and target of a workload."""
    logits, target = arrays(workload)
    return _tensor(logits), _tensor(target)


def _tensor(array: Array) -> Any:
    import torch

    if array.dtype.kind in "fi":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def read(result: Any) -> tuple[Any, ...]:
    """Make a result of what a call returned: loss and gradient, or softmax alone."""
    found = result if isinstance(result, tuple) else (None, result)
    return tuple(None if one is None else _array(one) for one in found)


def _array(tensor: Any) -> Array:
    import torch

    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor)
    bits: Array = np.asarray(tensor.view(torch.int16))
    return bits.view(dtype_of("bfloat16"))
