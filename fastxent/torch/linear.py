"""The loss behind a linear layer: PyTorch's arguments, then whoever runs the call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastxent.checks import check_choice, check_grad_filter, check_normalizer
from fastxent.checks.torch import check_no_gradient, check_traceable
from fastxent.checks.torch_linear import (
    check_linear_floats,
    check_linear_shapes,
    check_no_ignored_probabilities,
)
from fastxent.reduction import REDUCTIONS
from fastxent.side_outputs import Aux
from fastxent.torch import formula, linear_eager, linear_operator
from fastxent.torch.devices import check_tensors, is_on_gpu
from fastxent.torch.door import check_call
from fastxent.torch.linear_arguments import LinearArguments, Wants
from fastxent.torch.linear_options import chunking_of
from fastxent.torch.modes import has_tangent, is_eager, needs_grad, without_autocast
from fastxent.torch.normalizer import divided_rows, unless_empty
from fastxent.torch.settings import Settings

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    sample_weight: Tensor | None = None,
    normalizer: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    memory_budget: float | None = None,
    grad_filter: float | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy of ``input @ linear_weight.T + linear_bias``, whose logits are never whole.

    The arguments are those of `torch.nn.functional.linear_cross_entropy`, with fastxent's own
    behind. Rows are taken in chunks that fit into `memory_budget`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        Hidden vectors on the CPU or a GPU of NVIDIA's, of shape (D,) or (N, D).
    linear_weight : Tensor
        Shape (C, D); or (C, d1, ..., D) for a K-dimensional loss, which gives each row of `input`
        d1 * ... losses. Its dtype may be another one.
    target : Tensor
        Integers of any dtype: class indices, of shape (), (N,) or (N, d1, ...). Floating-point
        numbers or booleans: probabilities, of shape (C,), (N, C) or (N, C, d1, ...); of numbers the
        gradient flows to them too.
    linear_bias : Tensor, optional
        Shape (C,) or (C, d1, ...).
    weight : Tensor of shape (C,), optional
        Class weights, finite and not negative, in any dtype.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in PyTorch.
    ignore_index : int or None, default None
        Rows with this label count for nothing. None is -100, as in PyTorch; with probabilities it
        has to be None.
    label_smoothing : float, default 0.0
        In [0, 1].
    options : torch.nn.LinearCrossEntropyOptions, optional
        See Notes.
    sample_weight : Tensor, optional
        Factor of each loss, of the shape of class indices; the mean divides by it.
    normalizer : float or Tensor of one number, optional
        Denominator of the mean, instead of the mass of the targets.
    z_loss, softcap, logit_scale, all_ignored
        As in `fastxent.torch.cross_entropy`.
    aux : iterable of str, default ()
        Side outputs of the same pass by name, as in `fastxent.cross_entropy`: tensors without a
        graph. Not in compiled or transformed calls.
    memory_budget : float, optional
        Bytes of all temporary memory beside arguments, gradients and side outputs; 64e6 by default.
        What gradients of a later backward take counts from the start. Where it has no scratch
        memory for all of them, fastxent's own passes take fewer threads.
    grad_filter : float, optional
        Classes whose entries in the gradient of the logits are all smaller in a chunk, before
        factors of rows, are left out of the products for the gradients; all stay where at least
        half of them would. Worth its while for trained models, whose probabilities have few large
        entries. On a GPU the host then waits in each
        chunk for how many there are.
    backend : {"cython", "numba", "numpy", "cuda"}, optional
        By default the first of `fastxent.backends()` that can run; for tensors on a GPU "cuda".
    num_threads : int, optional
        Of fastxent's own passes on the CPU, at most: `memory_budget` may leave fewer. The products
        take `torch.get_num_threads()`.

    Returns
    -------
    loss : Tensor
        float64 where one of the arguments of the product is, float32 otherwise.
    aux : fastxent.Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError
        A label outside of the classes, on the CPU. Also an ``IndexError``.
    ShapeError, OptionError, BackendError
        A shape or a value does not fit, as a budget that holds no row of logits; or the tensors are
        where nothing computes, or not all on one device. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with. Also a ``TypeError``.

    Notes
    -----
    Logits and sums are float32 for half precision, never rounded to it, and each gradient has the
    dtype of its tensor. Half-precision weights are widened a block of classes at a time; where
    their gradient takes several chunks, their logits are computed twice, so that its sums are
    float32 without a copy of the weights. Under ``torch.autocast`` `input`, `linear_weight` and
    `linear_bias` are cast as `torch.nn.functional.linear` casts them.

    Gradients are computed with the loss, of the tensors that require one, and multiplied by the
    upstream gradient in backward, any number of times. With ``reduction="none"`` and in float16
    the chunks are gone through again in backward, with the upstream gradient as a factor of each
    row. Second derivatives and forward mode hold the logits whole.

    Of `options` the fields mean:

    ``batch_chunk_size``
        Rows of a chunk, whatever the default budget; an error beside a smaller `memory_budget`.
    ``chunking_method``
        "aspect_ratio" and "aspect_ratio:N" choose the rows by PyTorch's formula; "auto" leaves them
        to the budget; None without a size takes all rows at once.
    ``acc_policy``
        All that they promise holds for each: sums in the dtype that computes ("accurate",
        "balanced"), and no scratch of the size of the weights ("compact").
    ``acc_dtype``
        Only the one that computes: float32, or float64 for float64 tensors.
    ``allow_retain_graph``
        A graph can be kept in any case.

    On a GPU nothing waits for the host but `grad_filter`, so the values of labels and weights are
    not looked at: a label outside of the classes gives its row a NaN loss and a gradient of 0.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import linear_cross_entropy
    >>> hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> weights = torch.tensor([[2.0, 0.1], [1.0, 2.0], [0.1, 1.9]], requires_grad=True)
    >>> loss = linear_cross_entropy(hidden, weights, torch.tensor([1, 0]))
    >>> loss.backward()
    >>> round(loss.item(), 3)
    2.019
    >>> weights.grad.round(decimals=2)
    tensor([[ 0.3300, -0.4600],
            [-0.3800,  0.2400],
            [ 0.0500,  0.2200]])
    """
    given = {"input": input, "linear_weight": linear_weight, "target": target}
    others = {"linear_bias": linear_bias, "weight": weight, "sample_weight": sample_weight}
    given |= {name: one for name, one in others.items() if one is not None}
    check_tensors(**given)
    for name in ("input", "linear_weight", "linear_bias"):
        if name in given:
            check_linear_floats(_is_multiplied(given[name]), str(given[name].dtype), name)
    for name in ("weight", "sample_weight"):
        if name in given:
            check_no_gradient(given[name].requires_grad, name)
    bias_shape = None if linear_bias is None else tuple(linear_bias.shape)
    check_linear_shapes(tuple(input.shape), tuple(linear_weight.shape), bias_shape)
    if target.is_floating_point() or target.dtype is torch.bool:
        check_no_ignored_probabilities(ignore_index)
    arguments = LinearArguments(input, linear_weight, target, linear_bias, weight, sample_weight)
    divisor = None
    if isinstance(normalizer, Tensor):
        check_no_gradient(normalizer.requires_grad, "normalizer")
        if is_on_gpu(normalizer):
            check_normalizer(1.0, check_choice(reduction, "reduction", REDUCTIONS))
            sample_weight = divided_rows(arguments.stand_in(), sample_weight, normalizer)
            arguments = arguments._replace(sample_weight=sample_weight)
            divisor, reduction, normalizer = normalizer.reshape(()), "sum", None
        else:
            normalizer = normalizer.item()
    settings = Settings(
        -100 if ignore_index is None else ignore_index,
        label_smoothing,
        reduction,
        normalizer,
        z_loss,
        softcap,
        logit_scale,
        all_ignored,
        backend,
        num_threads,
    )
    device = input.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        loss, asides = _run(arguments, settings, options, memory_budget, grad_filter, aux)
    else:
        arguments = _autocast(arguments, torch.get_autocast_dtype(device))
        with without_autocast(device):
            loss, asides = _run(arguments, settings, options, memory_budget, grad_filter, aux)
    if divisor is not None:
        loss = unless_empty(loss, divisor, all_ignored)
    return loss if asides is None else (loss, asides)


def _is_multiplied(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _autocast(arguments: LinearArguments, dtype: torch.dtype) -> LinearArguments:
    """Cast as autocast does what goes into a linear layer: all but float64."""
    names = ("input", "linear_weight", "linear_bias")
    cast = {name: getattr(arguments, name) for name in names}
    return arguments._replace(
        **{
            name: tensor.to(dtype)
            for name, tensor in cast.items()
            if tensor is not None and tensor.dtype is not torch.float64
        }
    )


def _run(
    arguments: LinearArguments,
    settings: Settings,
    options: Any,
    memory_budget: float | None,
    grad_filter: float | None,
    aux: Iterable[str],
) -> tuple[Tensor, Any]:
    given, weights, target, bias, weight, sample_weight = arguments
    chunking = chunking_of(options, memory_budget, check_grad_filter(grad_filter), arguments.dtype)
    tensors = [one for one in arguments if one is not None]
    goes_forward = has_tangent(given, weights, target, bias)
    check_call(arguments.stand_in(), target, weight, sample_weight, settings, goes_forward)
    settings = settings.numbers()
    if goes_forward:
        check_traceable(False, aux)
        loss = formula.loss(arguments.logits(), target, weight, sample_weight, settings)
        return loss, None
    is_single = given.dim() == 1
    if is_single:
        arguments = _with_rows(arguments)
    if is_eager(*tensors):
        loss, asides = linear_eager.run(arguments, settings, chunking, aux)
    else:
        check_traceable(False, aux)
        wants = Wants(*(_needs_grad(getattr(arguments, name)) for name in Wants._fields))
        if not linear_operator.is_fused(arguments, settings.reduction):
            wants, chunking = Wants(), chunking._replace(later=list(wants))
        loss, *_ = linear_operator.linear_cross_entropy(arguments, None, settings, chunking, wants)
        asides = None
    if not is_single:
        return loss, asides
    if isinstance(asides, Aux):
        asides = Aux(*(None if one is None else one.squeeze(0) for one in asides))
    return loss.squeeze(0) if loss.dim() else loss, asides


def _needs_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and needs_grad(tensor)


def _with_rows(arguments: LinearArguments) -> LinearArguments:
    """A single row as one of many."""
    factor = arguments.sample_weight
    return arguments._replace(
        input=arguments.input.unsqueeze(0),
        target=arguments.target.unsqueeze(0),
        sample_weight=None if factor is None else factor.unsqueeze(0),
    )
