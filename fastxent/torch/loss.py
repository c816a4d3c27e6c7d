"""The functional loss: PyTorch's arguments, then whoever runs the call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction

from fastxent.checks import check_choice, check_normalizer
from fastxent.checks.torch import check_memory, check_no_gradient, check_traceable
from fastxent.reduction import REDUCTIONS
from fastxent.torch import eager, formula, operators
from fastxent.torch.devices import check_tensors, is_on_gpu
from fastxent.torch.door import check_call
from fastxent.torch.modes import has_tangent, is_eager, needs_grad
from fastxent.torch.normalizer import divided_rows, unless_empty
from fastxent.torch.settings import Settings

__all__ = ["cross_entropy"]

# What the short way of `fastxent.shortcut` takes for granted.
_PLAIN = (0.0, "mean", None, 0.0, None, 1.0, "nan")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int | None = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    normalizer: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    memory: str = "fast",
    in_place: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy with the arguments of `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        Logits on the CPU or a GPU of NVIDIA's, of shape (C,), (N, C) or (N, C, d1, ...), of any
        layout.
    target : Tensor
        Integers of any dtype: class indices, shape of `input` without axis 1. Floating-point
        numbers or booleans: probabilities, shape of `input`; of numbers the gradient flows to them
        too.
    weight : Tensor of shape (C,), optional
        Class weights, finite and not negative, in any dtype.
    size_average, reduce : bool, optional
        Deprecated by PyTorch, with the same effect and the same warning.
    ignore_index : int or None, default -100
        Rows with this label count for nothing and are not read. None: no label is special.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in PyTorch.
    label_smoothing : float, default 0.0
        In [0, 1].
    sample_weight : Tensor, optional
        Factor of each row's loss, of the shape of class indices; the mean divides by it.
    normalizer : float or Tensor of one number, optional
        Denominator of the mean, instead of the mass of the targets.
    z_loss : float, default 0.0
        Factor of ``logsumexp**2``, added to each row's loss.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``.
    logit_scale : float, default 1.0
        Factor of the logits, before `softcap`.
    all_ignored : {"nan", "zero"}, default "nan"
        Loss of a mean whose denominator is 0.
    aux : iterable of str, default ()
        Side outputs of the same pass by name, as in `fastxent.cross_entropy`: tensors without a
        graph. Not in compiled or transformed calls.
    memory : {"fast", "low"}, default "fast"
        "fast" computes the gradient with the loss and keeps it until backward. "low" keeps two
        numbers a row and computes the gradient in backward, from the logits.
    in_place : bool, default False
        Write the gradient over the logits. Their values are gone; see Notes.
    backend : {"cython", "numba", "numpy", "cuda"}, optional
        By default the first of `fastxent.backends()` that can run; for tensors on a GPU "cuda".
    num_threads : int, optional
        By default fastxent's own limit, and at most `torch.get_num_threads()`. Of the CPU only.

    Returns
    -------
    loss : Tensor
        float32, or float64 for float64 logits; half precision gives float32.
    aux : fastxent.Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError
        A label outside of the classes, on the CPU. Also an ``IndexError``.
    ShapeError, OptionError, BackendError
        A shape or a value does not fit, or the tensors are where nothing computes, or not all on
        one device. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with. Also a ``TypeError``.
    OutputError, CallOrderError
        `in_place` cannot keep its promise. Also a ``ValueError``.

    Notes
    -----
    Without a gradient to compute none is computed. Where one is, "fast" computes it in the same
    pass, and an upstream gradient of 1 takes it as it is. With ``reduction="none"`` and in float16
    it is computed in backward all the same: there the upstream gradient belongs into the pass, as
    a factor of each row, or because the gradient of a mean would be rounded to 0 before a scaled
    loss could lift it.

    `in_place` needs logits that another operation made, whose values nothing needs any more. If
    such a value was saved, PyTorch's version counter raises in backward; if the logits, or the
    tensor they are a view of, are part of the graph in another way, `CallOrderError` is raised
    there; so it is for a second backward and for second derivatives. What does not go through
    autograd, as an ``argmax`` for the accuracy, must come before the call.

    Weights, sample weights and options have no gradient; a `weight` that requires one is an error.

    On a GPU nothing waits for the host, so the values of labels and weights are not looked at: a
    label outside of the classes gives its row a NaN loss and a gradient of 0.
    `fastxent.check_labels` raises for it, and waits.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import cross_entropy
    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], requires_grad=True)
    >>> target = torch.tensor([1, 0])
    >>> cross_entropy(logits, target, z_loss=1e-4).backward()
    >>> logits.grad.round(decimals=2)
    tensor([[ 0.3300, -0.3800,  0.0500],
            [-0.4600,  0.2400,  0.2200]])
    >>> loss, aux = cross_entropy(logits, target, aux=("correct",))
    >>> aux.correct
    tensor([False, False])
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if memory != "fast" or in_place:
        check_memory(memory, in_place, getattr(input, "dtype", None) is torch.float16)
    divisor = None
    if isinstance(normalizer, Tensor):
        check_no_gradient(normalizer.requires_grad, "normalizer")
        if is_on_gpu(normalizer):
            # its number stays there: a mean is a sum of rows that weigh less
            check_normalizer(1.0, check_choice(reduction, "reduction", REDUCTIONS))
            sample_weight = divided_rows(input, sample_weight, normalizer)
            divisor, reduction, normalizer = normalizer.reshape(()), "sum", None
        else:
            normalizer = normalizer.item()
    options = label_smoothing, reduction, normalizer, z_loss, softcap, logit_scale, all_ignored
    has_factors = weight is not None or sample_weight is not None
    if has_factors:
        _check_factors(input, weight, sample_weight)
    settings = Settings(ignore_index, *options, backend, num_threads)
    if not is_eager(input, target) or has_tangent(input, target):
        check_traceable(in_place, aux)
        loss = _traced(input, target, weight, sample_weight, settings, memory)
        return loss if divisor is None else unless_empty(loss, divisor, all_ignored)
    call = eager.Call(
        settings,
        is_plain=not (has_factors or aux) and options == _PLAIN,
        weight=weight,
        sample_weight=sample_weight,
        aux=aux,
        memory=memory,
        in_place=in_place,
    )
    loss = eager.run(input, target, call)
    if divisor is not None:
        loss = unless_empty(loss, divisor, all_ignored)
    return (loss, call.found_aux) if call.found_aux is not None and aux else loss


def _check_factors(input: Any, weight: Any, sample_weight: Any) -> None:
    factors = {"weight": weight, "sample_weight": sample_weight}
    given = {name: factor for name, factor in factors.items() if factor is not None}
    check_tensors(input=input, **given)
    for name, factor in given.items():
        check_no_gradient(factor.requires_grad, name)


def _traced(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
    memory: str,
) -> Tensor:
    check_tensors(input=input, target=target)
    goes_forward = has_tangent(input, target)
    check_call(input, target, weight, sample_weight, settings, goes_forward)
    settings = settings.numbers()
    if goes_forward:
        return formula.loss(input, target, weight, sample_weight, settings)
    is_fused = operators.is_fused(input, settings.reduction, memory)
    loss, _, _ = operators.cross_entropy(
        *(input, target, weight, sample_weight, None, settings),
        wants_grad=is_fused and needs_grad(input),
        wants_target_grad=is_fused and needs_grad(target),
    )
    return loss
