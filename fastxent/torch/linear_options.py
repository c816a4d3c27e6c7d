"""What `torch.nn.LinearCrossEntropyOptions` asks for, field by field."""

from __future__ import annotations

from typing import Any

import torch

from fastxent.checks.linear import check_memory_budget
from fastxent.checks.torch_linear import (
    check_accumulation,
    check_linear_options,
    check_one_chunk_size,
)
from fastxent.torch.linear_arguments import Chunking

__all__ = ["chunking_of", "rows_asked_for"]

# PyTorch's word for "all rows at once": no method and no size.
_ALL_ROWS = 2**62


def chunking_of(
    options: Any, memory_budget: float | None, grad_filter: float, dtype: torch.dtype
) -> Chunking:
    """Read PyTorch's options and the budget; `dtype` is the one that computes."""
    if memory_budget is not None:
        check_memory_budget(memory_budget, least=0)
    chunking = Chunking(memory_budget, grad_filter)
    if options is None:
        return chunking
    check_linear_options(isinstance(options, torch.nn.LinearCrossEntropyOptions), options)
    asked = options.acc_dtype
    check_accumulation(asked is None or asked is dtype, str(asked), str(dtype))
    method, rows = options.chunking_method, options.batch_chunk_size
    if method is None:
        return chunking._replace(chunk_rows=_ALL_ROWS if rows is None else rows)
    if method == "auto":
        return chunking._replace(chunk_rows=rows)
    _, _, factor = method.partition(":")
    return chunking._replace(chunk_rows=rows, aspect_ratio=int(factor or 1))


def rows_asked_for(chunking: Chunking, rows: int, features: int, width: int) -> int | None:
    """Rows of a chunk as the options have it; None where the plan decides."""
    given = None if chunking.chunk_rows is None else min(chunking.chunk_rows, rows)
    if chunking.aspect_ratio is None:
        return given
    # the formula that PyTorch documents: logits of a chunk as large as all of the input
    share = -(-rows // -(-width // max(features, 1)))
    power = 1 << max(share - 1, 0).bit_length()
    chosen = max(1, min(power // chunking.aspect_ratio, rows))
    if given is not None:
        check_one_chunk_size(given, f"aspect_ratio:{chunking.aspect_ratio}", chosen)
    return chosen
