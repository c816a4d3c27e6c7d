"""The binary loss: operator, derivatives, and the function with PyTorch's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction

from fastxent.backends import pick
from fastxent.binary import BinaryCall
from fastxent.checks.tensors import check_device, check_memory, check_no_gradient, check_tensor
from fastxent.torch.arrays import array_of, storage_of, team, tensor_of
from fastxent.torch.modes import has_tangent, needs_grad
from fastxent.torch.registration import register

__all__ = ["binary_cross_entropy_with_logits"]


def _factor(values: Tensor | None) -> Any:
    """Factors in a dtype that NumPy has; the door converts any other."""
    return None if values is None else array_of(values)


def _kernel(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    reduction: str,
    label_smoothing: float,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor]:
    storage = storage_of(logits)
    place = None
    if wants_grad and not logits.is_contiguous():
        place = array_of(torch.empty_like(logits), storage)
    call = BinaryCall.build(
        array_of(logits, storage),
        array_of(target, storage),
        weight=_factor(weight),
        pos_weight=_factor(pos_weight),
        grad_output=_factor(grad_output),
        label_smoothing=label_smoothing,
        reduction=reduction,
        num_threads=team(num_threads, 0, logits.numel() * logits.itemsize),
        out=place,
        storage=storage,
    )
    loss, grad = call.run(pick(backend), wants_grad)
    if reduction == "none" and not logits.is_contiguous():
        loss = torch.empty_like(logits, dtype=_loss_dtype(logits)).copy_(tensor_of(loss))
    else:
        loss = tensor_of(loss)
    return loss, logits.new_empty(0) if grad is None else tensor_of(grad, storage)


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def _fake(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    reduction: str,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    dtype = _loss_dtype(logits)
    is_whole = reduction == "none"
    loss = torch.empty_like(logits, dtype=dtype) if is_whole else logits.new_empty((), dtype=dtype)
    return loss, torch.empty_like(logits) if wants_grad else logits.new_empty(0)


def _setup(ctx: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
    ctx.options = options
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, of_loss: Tensor | None, of_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    *arguments, grad = ctx.saved_tensors
    logits, target, _, _, grad_output = arguments
    options = ctx.options
    needs_grad, needs_target_grad = ctx.needs_input_grad[:2]
    to_logits = to_target = to_grad_output = None
    if of_loss is not None and needs_grad:
        if options["wants_grad"] and grad_output is None:
            to_logits = (grad * of_loss).to(logits.dtype)
        else:
            again = {**options, "wants_grad": True}
            _, to_logits = _call(*arguments[:4], of_loss, **again)
    if of_loss is not None and needs_target_grad:
        to_target = _target_slope(arguments, options) * of_loss
    if of_grad is not None and options["wants_grad"]:
        more = _gradients_of_gradient(arguments, options, of_grad)
        to_logits = more[0] if to_logits is None else to_logits + more[0]
        to_target = more[1] if to_target is None else to_target + more[1]
        to_grad_output = more[2]
    if to_target is not None:
        to_target = to_target.to(target.dtype) if needs_target_grad else None
    return to_logits, to_target, None, None, to_grad_output


def _terms(arguments: list[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """Logits and target that compute, weight over the mean's denominator, weight of the ones."""
    logits, target, weight, pos_weight, _ = arguments
    dtype = _loss_dtype(logits)
    factor = 1.0 if weight is None else weight.to(dtype)
    if options["reduction"] == "mean":
        factor = factor / logits.numel()
    ones = 1.0 if pos_weight is None else pos_weight.to(dtype)
    return logits.to(dtype), target.to(dtype), factor, ones


def _target_slope(arguments: list[Any], options: dict[str, Any]) -> Tensor:
    """Derivative of the sum of the losses with respect to the target."""
    x, _, factor, ones = _terms(arguments, options)
    softplus = torch.nn.functional.softplus
    # without a weight of the ones the difference is -x, which keeps its digits
    slope = -x if arguments[3] is None else ones * softplus(-x) - softplus(x)
    slope = slope * factor * (1.0 - options["label_smoothing"])
    return torch.as_tensor(slope)


def _masses(y: Tensor, ones: Any, smoothing: float) -> tuple[Any, Any]:
    gain, background = 1.0 - smoothing, smoothing / 2
    return ones * (gain * y + background), gain * (1.0 - y) + background


def _gradients_of_gradient(
    arguments: list[Any], options: dict[str, Any], cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pull a cotangent of the gradient back to logits, target and upstream gradient."""
    logits, target, _, _, grad_output = arguments
    x, y, factor, ones = _terms(arguments, options)
    smoothing = options["label_smoothing"]
    positive, negative = _masses(y, ones, smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    upstream = 1.0 if grad_output is None else grad_output.to(x.dtype)
    v = cotangent.to(x.dtype) * factor
    to_logits = v * upstream * (positive + negative) * p * q
    to_target = -v * upstream * (1.0 - smoothing) * (p + ones * q)
    to_upstream = None
    if grad_output is not None:
        to_upstream = v * (negative * p - positive * q)
        to_upstream = (to_upstream if grad_output.dim() else to_upstream.sum()).to(
            grad_output.dtype
        )
    return to_logits.to(logits.dtype), to_target.to(target.dtype), to_upstream


def _formula(arguments: list[Any], options: dict[str, Any]) -> Tensor:
    """The loss in plain operators, for forward mode."""
    x, y, factor, ones = _terms(arguments, options)
    softplus = torch.nn.functional.softplus
    positive, negative = _masses(y, ones, options["label_smoothing"])
    losses = factor * (positive * softplus(-x) + negative * softplus(x))
    return torch.as_tensor(losses if options["reduction"] == "none" else losses.sum())


def _batched(
    operator: Callable[..., Any],
    info: Any,
    in_dims: Any,
    *arguments: Tensor | None,
    **options: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """One call over all samples; the mean of each is over its own elements."""
    size = info.batch_size
    logits = arguments[0]
    assert logits is not None
    dims = logits.dim() - (in_dims[0] is not None)
    merged = [
        None if one is None else _spread(one, dim, size, dims)
        for one, dim in zip(arguments, in_dims[:5], strict=True)
    ]
    reduction = options["reduction"]
    each = {**options, "reduction": "none"}
    logits, target, weight, pos_weight, upstream = merged
    assert logits is not None
    count = logits.numel() // size if size else 0
    if upstream is not None:
        upstream = upstream.expand_as(logits)
    if reduction == "mean" and count:
        weight = logits.new_ones(()) / count if weight is None else weight / count
    loss, grad = operator(logits, target, weight, pos_weight, upstream, **each)
    if reduction != "none":
        loss = loss.reshape(size, -1).sum(1)
        if reduction == "mean" and not count:
            loss = loss / 0.0
    if not options["wants_grad"]:
        grad = grad.new_empty(size, 0)
    return (loss, grad), (0, 0)


def _spread(tensor: Tensor, dim: int | None, size: int, dims: int) -> Tensor:
    """The batch first, and as many dimensions after it as a sample of the logits has."""
    if dim is None:
        if tensor.dim() < dims:
            return tensor
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    tensor = tensor.movedim(dim, 0)
    missing = dims - (tensor.dim() - 1)
    return tensor.reshape(tensor.shape[0], *(1,) * missing, *tensor.shape[1:])


_call = register(
    "binary_cross_entropy_with_logits",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? grad_output, *, "
    "bool wants_grad, str reduction, float label_smoothing, str? backend, int? num_threads) "
    "-> (Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    setup=_setup,
    backward=_backward,
    batched=_batched,
)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    memory: str = "fast",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Binary cross-entropy with the arguments of PyTorch's function of that name.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        Logits on the CPU, of any shape and layout.
    target : Tensor of the same shape
        Floating-point numbers: the probability of 1, to which the gradient flows too. Integers and
        booleans: 0 or 1.
    weight : Tensor, optional
        Factor of each element's loss, broadcast to the shape of `input`; not negative.
    size_average, reduce : bool, optional
        Deprecated by PyTorch, with the same effect and the same warning.
    reduction : {"mean", "sum", "none"}, default "mean"
    pos_weight : Tensor, optional
        Factor of the loss of the 1, broadcast likewise.
    label_smoothing : float, default 0.0
        Share of each target that is spread evenly over 0 and 1.
    memory : {"fast", "low"}, default "fast"
        "fast" computes the gradient with the loss; "low" keeps nothing and computes it in backward.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        float32, or float64 for float64 logits; of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import binary_cross_entropy_with_logits
    >>> logits = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> loss = binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0]))
    >>> loss.backward()
    >>> logits.grad
    tensor([-0.2500,  0.4404])
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    check_memory(memory, False)
    named = {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight}
    for name, tensor in named.items():
        if tensor is None:
            continue
        check_tensor(isinstance(tensor, Tensor), tensor, name)
        check_device(tensor.device.type, name)
        if name.endswith("weight"):
            check_no_gradient(tensor.requires_grad, name)
    is_fused = memory == "fast" and reduction != "none" and input.dtype is not torch.float16
    options = {
        "wants_grad": is_fused and needs_grad(input),
        "reduction": reduction,
        "label_smoothing": float(label_smoothing),
        "backend": backend,
        "num_threads": num_threads,
    }
    if has_tangent(input, target):
        return _formula([input, target, weight, pos_weight, None], options)
    loss, _ = _call(input, target, weight, pos_weight, None, **options)
    return loss
