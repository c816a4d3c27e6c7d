"""What the adapters of frameworks with automatic differentiation refuse."""

from __future__ import annotations

from typing import Any

from fastxent.checks.options import check_choice
from fastxent.errors import BackendError, CallOrderError, DTypeError, OptionError, OutputError

__all__ = [
    "check_device",
    "check_dtype",
    "check_in_place_backward",
    "check_in_place_batch",
    "check_in_place_grad",
    "check_in_place_logits",
    "check_memory",
    "check_no_gradient",
    "check_same_device",
    "check_strided",
    "check_tensor",
    "check_traceable",
]


def check_tensor(is_tensor: bool, value: Any, name: str) -> None:
    """A tensor of the framework, not something that could become one."""
    if not is_tensor:
        raise DTypeError(
            f"{name} must be a tensor, got {type(value).__name__}: fastxent's own functions take "
            "NumPy arrays"
        )


def check_device(is_known: bool, device: str, name: str, why_not: str | None) -> None:
    """Memory that a backend computes in; `why_not` tells why the one for a device cannot run."""
    if not is_known:
        raise BackendError(
            f"{name} is on device {device!r} and no backend computes there: pass {name}.cpu(), or "
            "use the framework's own loss"
        )
    if why_not is not None:
        raise BackendError(
            f"{name} is on device {device!r} and the backend for it cannot run: {why_not}; "
            f"or pass {name}.cpu(), or use the framework's own loss"
        )


def check_same_device(device: str, name: str, other_device: str, other_name: str) -> None:
    """All tensors of a call in one memory: none is copied from device to device silently."""
    if device != other_device:
        raise BackendError(
            f"{other_name} is on device {other_device!r} and {name} on {device!r}: pass "
            f"{name}.to({other_name}.device)"
        )


def check_strided(is_strided: bool, layout: str, name: str) -> None:
    """Memory that a kernel can walk through."""
    if not is_strided:
        raise DTypeError(
            f"{name} has layout {layout}, and kernels read dense memory: pass {name}.to_dense()"
        )


def check_dtype(is_readable: bool, dtype: str, name: str) -> None:
    """A dtype that arrays can have as well."""
    if not is_readable:
        raise DTypeError(
            f"{name} has dtype {dtype}, which is not computed with: convert it, for instance to "
            "float32"
        )


def check_no_gradient(requires_grad: bool, name: str) -> None:
    """Factors are constants."""
    if requires_grad:
        raise OptionError(
            f"{name} requires grad and has no gradient here, which would silently be lost: pass "
            f"{name}.detach()"
        )


def check_memory(memory: Any, in_place: Any, underflows: bool = False) -> None:
    """Where the gradient lives until backward; `underflows` tells of float16."""
    check_choice(memory, "memory", ("fast", "low"))
    if in_place and memory == "low":
        raise OptionError(
            "in_place=True computes the gradient in the forward pass, memory='low' in the backward "
            "pass: give one of them"
        )
    if in_place and underflows:
        raise OptionError(
            "in_place=True computes the gradient before a scaled loss can lift it, and in float16 "
            "the gradient of a mean goes below the smallest number: leave in_place out, or use "
            "bfloat16"
        )


def check_traceable(in_place: Any, aux: Any) -> None:
    """Nothing that a traced or transformed call cannot do."""
    for is_given, name in ((in_place, "in_place"), (aux, "aux")):
        if is_given:
            raise OptionError(
                f"{name} works on plain tensors only, not where a call is compiled, traced or "
                f"transformed: leave {name} out there"
            )


def check_in_place_logits(is_leaf: bool, is_part: bool) -> None:
    """Logits that may be written over."""
    if is_leaf:
        raise OutputError(
            "in_place=True would write over a leaf that requires grad, or a view of one: its "
            "values are parameters; leave in_place out"
        )
    if is_part:
        raise OutputError(
            "in_place=True needs logits that are all of their memory, and these are a part of a "
            "larger tensor: leave in_place out, or pass logits.contiguous()"
        )


def check_in_place_backward(is_spent: bool, creates_graph: bool) -> None:
    """One backward pass, of first order: logits and gradient are gone afterwards."""
    if creates_graph:
        raise CallOrderError(
            "in_place=True wrote over the logits, which second derivatives need: leave in_place "
            "out where create_graph=True"
        )
    if is_spent:
        raise CallOrderError(
            "in_place=True gives its gradient once, and backward has run before: leave in_place "
            "out where the graph is used twice"
        )


def check_in_place_batch(is_batched: bool) -> None:
    """One upstream gradient: there is memory for one gradient."""
    if is_batched:
        raise CallOrderError(
            "in_place=True has memory for one gradient, and a batch of upstream gradients asks for "
            "several: leave in_place out where is_grads_batched=True"
        )


def check_in_place_grad(is_ours: bool) -> None:
    """The gradient that arrives at the logits is what was written over them."""
    if not is_ours:
        raise CallOrderError(
            "in_place=True wrote the gradient over the logits, and another part of the graph uses "
            "them too, or the tensor that they are a view of: leave in_place out, or pass "
            "logits.clone()"
        )
