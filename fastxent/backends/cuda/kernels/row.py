"""A row for each warp, part of a warp, block or cluster: every logit is read once, into registers.

All loads are in flight before the first number is used; then come maximum, exponentials and sum,
one exchange among the warps, and the stores. `aligned` means that rows of the logits and of the
result (gradient, or softmax) begin at multiples of 16 bytes and are whole vectors long. Otherwise
the vectors are those that lie within the row at multiples of 16 bytes; the few numbers before and
behind them are one number each for the row's first threads, at least twice the numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of, log_of
from fastxent.backends.cuda.kernels.arguments import kernel_of
from fastxent.backends.cuda.kernels.epilogue import GOOD, NO_CLASS, SKIPPED, Sums, epilogue_of
from fastxent.backends.cuda.kernels.merge import merge_of
from fastxent.backends.cuda.kernels.storage import VECTOR, storage_of
from fastxent.backends.cuda.kernels.window import window_of
from fastxent.backends.cuda.specs import RowGeometry, Variant

cuda = machine.cuda

__all__ = ["make"]
