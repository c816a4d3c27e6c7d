"""What a call may not be given, where no kernel sees it: forward mode, transforms, fake tensors.

The same checks as everywhere, on arrays of zeros that stand for the tensors: they have shape and
dtype and no memory. Values are checked too where a tensor has them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent.binary import BinaryCall
from fastxent.checks import check_axes, raise_bad_binary_target
from fastxent.checks.torch import check_dtype
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.torch.arrays import array_of, class_axis, factor_of, storage_of
from fastxent.torch.devices import kernels_of
from fastxent.torch.modes import outside_of_transforms, plain_tensor, shapes_are_known
from fastxent.torch.settings import Settings

__all__ = ["check_binary_call", "check_call", "check_softmax_call"]


def _zeros(tensor: Tensor, storage: str | None, name: str) -> Array:
    if tensor.dtype is torch.bfloat16:
        dtype = np.dtype(np.float32 if storage is None else np.uint16)
    else:
        named = str(tensor.dtype).removeprefix("torch.")
        check_dtype(named in np.sctypeDict, str(tensor.dtype), name)
        dtype = np.dtype(named)
    return np.broadcast_to(np.zeros((), dtype), tuple(tensor.shape))


def _values(tensor: Tensor | None, storage: str | None, name: str) -> Any:
    """The tensor's own values, or zeros where it has none that can be read now."""
    if tensor is None:
        return None
    plain = plain_tensor(tensor)
    return _zeros(tensor, storage, name) if plain is None else array_of(plain, storage, name)


def _factor(tensor: Tensor | None, name: str) -> Any:
    if tensor is None:
        return None
    plain = plain_tensor(tensor)
    return np.zeros(tuple(tensor.shape)) if plain is None else factor_of(plain)


def check_call(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
    looks_at_labels: bool,
) -> None:
    """Check the arguments of the loss."""
    if not shapes_are_known(logits, target, weight, sample_weight):
        return  # the kernel will see them
    storage = storage_of(logits)
    options = settings._asdict()
    backend = options.pop("backend")
    with outside_of_transforms():
        problem = Problem.build(
            _zeros(logits, storage, "logits"),
            (_values if looks_at_labels else _zeros)(target, storage, "target"),
            weight=_factor(weight, "weight"),
            sample_weight=_factor(sample_weight, "sample_weight"),
            axis=class_axis(logits),
            storage=storage,
            **options,
        )
        chosen = kernels_of(logits).pick(backend, problem)
        if looks_at_labels and problem.target is not None and problem.rows:
            problem.with_labels(chosen)


def check_binary_call(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    options: dict[str, Any],
) -> None:
    """Check the arguments of the binary loss."""
    if not shapes_are_known(logits, target, weight, pos_weight):
        return
    storage = storage_of(logits)
    with outside_of_transforms():
        values = _values(target, storage, "target")
        BinaryCall.build(
            _zeros(logits, storage, "logits"),
            values,
            weight=_values(weight, None, "weight"),
            pos_weight=_values(pos_weight, None, "pos_weight"),
            label_smoothing=options["label_smoothing"],
            reduction=options["reduction"],
            num_threads=options["num_threads"],
            storage=storage,
        )
        kernels_of(logits).pick(options["backend"])
        if not target.dtype.is_floating_point and ((values != 0) & (values != 1)).any():
            raise_bad_binary_target(values)


def check_softmax_call(x: Tensor, dim: int, backend: str | None, num_threads: int | None) -> None:
    """Check the arguments of softmax and its logarithm; nothing is computed of no element."""
    if not shapes_are_known(x):
        return
    storage = storage_of(x)
    array = _zeros(x, storage, "x")
    if math.prod(array.shape):
        problem = Problem.of_array(array, dim, num_threads, storage=storage)
        kernels_of(x).pick(backend, problem)
    else:
        check_axes(dim, array, may_be_empty=True)
