"""`torch.nn.functional.cross_entropy` of existing code, for what fastxent computes alike.

Everything else goes to the function that was there before: other devices, dtypes, layouts and
subclasses, what PyTorch accepts and fastxent refuses, and what both refuse, so that the errors are
PyTorch's own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn import Parameter, _reduction, functional
from torch.overrides import (
    _get_current_function_mode_stack,
    handle_torch_function,
    has_torch_function_variadic,
)
from torch.utils._device import DeviceContext

from fastxent import checks
from fastxent.errors import FastxentError
from fastxent.torch.arrays import class_axis
from fastxent.torch.devices import is_computed_on
from fastxent.torch.loss import cross_entropy
from fastxent.torch.modes import has_tangent

__all__ = ["patch", "patched", "unpatch"]

_HALVES = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, *_HALVES)
_PLAIN = (Tensor, Parameter)

_lock = threading.Lock()
_active: list[_Patch] = []


class _Patch:
    """One replacement: what it stands for, and whether it still does."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.depth = 1
        self.replacement = _replacement_of(self)


def _is_plain(tensor: Any) -> bool:
    """Whether this is a dense tensor that is computed with, or what a compiler has for one."""
    if type(tensor) not in _PLAIN and not (
        torch.compiler.is_compiling() and isinstance(tensor, (FakeTensor, FunctionalTensor))
    ):
        return False
    return bool(is_computed_on(tensor.device) and tensor.layout == torch.strided)


def _is_supported(input: Any, target: Any, weight: Any) -> bool:
    """Whether the tensors are such that both compute the same with them."""
    if not (_is_plain(input) and _is_plain(target) and input.dtype in _DTYPES and input.dim()):
        return False
    if target.device != input.device:
        return False
    axis = class_axis(input)
    classes = input.shape[axis]
    if classes == 0 or not _has_its_shape(input, target, axis):
        return False
    if weight is not None and not (
        _is_plain(weight)
        and weight.device == input.device
        and weight.dtype == input.dtype
        and weight.shape == (classes,)
        and not weight.requires_grad
        # what the weights are shows only when they are looked at, too late in a compiled call
        and not torch.compiler.is_compiling()
    ):
        return False
    return torch.compiler.is_compiling() or (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and not has_tangent(input, target)
    )


def _has_its_shape(input: Tensor, target: Tensor, axis: int) -> bool:
    if target.is_floating_point():
        return bool(target.shape == input.shape and target.dtype == input.dtype)
    are_labels = target.dtype == torch.int64 or (target.dtype == torch.uint8 and input.dim() <= 2)
    return bool(are_labels and target.shape == input.shape[:axis] + input.shape[axis + 1 :])


def _only_sets_a_device(*tensors: Any) -> bool:
    """Whether all that looks at the call is a default device, which is for new tensors only."""
    if torch.compiler.is_compiling() or not all(
        one is None or type(one) in _PLAIN for one in tensors
    ):
        return False
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def _has_plain_options(ignore_index: Any, reduction: Any, label_smoothing: Any) -> bool:
    return (
        isinstance(ignore_index, int)
        and not isinstance(ignore_index, bool)
        and reduction in ("none", "mean", "sum")
        and isinstance(label_smoothing, (int, float))
        and 0.0 <= label_smoothing <= 1.0
    )


def _replacement_of(state: _Patch) -> Callable[..., Any]:
    original = state.original

    # not the module's name: compiled graphs are cached by it
    @functools.wraps(original, assigned=("__doc__", "__name__"))
    def replacement(
        input: Any,
        target: Any,
        weight: Any = None,
        size_average: Any = None,
        ignore_index: Any = -100,
        reduce: Any = None,
        reduction: Any = "mean",
        label_smoothing: Any = 0.0,
    ) -> Any:
        given = (weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        if state.depth == 0:
            return original(input, target, *given)
        if has_torch_function_variadic(input, target, weight) and not _only_sets_a_device(
            input, target, weight
        ):
            return handle_torch_function(original, (input, target, weight), input, target, *given)
        if not _is_supported(input, target, weight):
            return original(input, target, *given)
        if size_average is not None or reduce is not None:
            reduction = _reduction.legacy_get_string(size_average, reduce)
        if not _has_plain_options(ignore_index, reduction, label_smoothing):
            return original(input, target, *given)
        if target.is_floating_point() and ignore_index >= 0:
            return original(input, target, *given)
        options = {
            "ignore_index": ignore_index,
            "reduction": reduction,
            "label_smoothing": label_smoothing,
        }
        if torch.compiler.is_compiling():
            loss = cross_entropy(input, target, weight, **options)
        else:
            try:
                loss = cross_entropy(input, target, weight, **options)
            except FastxentError:
                return original(input, target, *given)
        if input.dtype in _HALVES and not torch.is_autocast_enabled(input.device.type):
            return loss.to(input.dtype)
        return loss

    # pickle looks it up here under this name, and finds what stands in PyTorch's module then
    replacement.__qualname__ = "functional.cross_entropy"
    # torch.jit.script compiles what this gives
    replacement.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]
    return replacement


def patch() -> None:
    """Let ``torch.nn.functional.cross_entropy`` compute with fastxent, in the whole process.

    `torch.nn.CrossEntropyLoss` calls that function by its name, so it follows. Code that imported
    the function by name before keeps the one it has. Every `patch` needs an `unpatch`; the first
    one acts, and the last `unpatch` undoes it.

    Notes
    -----
    Results have the dtype that PyTorch gives; errors are PyTorch's. What fastxent does not compute
    in the same way goes to the function that was there before. `docs/torch.md` names the three
    cases of infinities and NaN where results differ.

    Examples
    --------
    >>> import torch
    >>> import fastxent.torch
    >>> before = torch.nn.functional.cross_entropy
    >>> fastxent.torch.patch()
    >>> torch.nn.functional.cross_entropy is before
    False
    >>> fastxent.torch.unpatch()
    >>> torch.nn.functional.cross_entropy is before
    True
    """
    with _lock:
        if _active:
            _active[-1].depth += 1
            return
        # one of its own each time: somebody else's wrapper may still call the last one
        state = _Patch(functional.cross_entropy)
        _active.append(state)
        functional.cross_entropy = state.replacement


def unpatch() -> None:
    """Undo one `patch`.

    Raises
    ------
    CallOrderError
        If there was no `patch`. Also a ``ValueError``.

    Notes
    -----
    Where something else has replaced the function since, that stays, and the replacement below it
    only passes calls on.

    Examples
    --------
    >>> import fastxent.torch
    >>> fastxent.torch.patch()
    >>> fastxent.torch.unpatch()
    """
    with _lock:
        if not _active:
            checks.raise_call_order("unpatch() was called without a patch(): call patch() first")
        state = _active[-1]
        state.depth -= 1
        if state.depth:
            return
        _active.pop()
        if functional.cross_entropy is state.replacement:
            functional.cross_entropy = state.original


@contextmanager
def patched() -> Iterator[None]:
    """`patch` for the length of a ``with`` block, or of a function that it decorates.

    Examples
    --------
    >>> import torch
    >>> import fastxent.torch
    >>> loss = torch.nn.CrossEntropyLoss()
    >>> with fastxent.torch.patched():
    ...     print(round(loss(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 4))
    1.3863
    """
    patch()
    try:
        yield
    finally:
        unpatch()
