"""The loss behind a linear layer, a chunk of rows of logits at a time: the loop of all devices.

    logits = x @ W.T + bias          into one buffer, which every chunk uses again
    loss, logits' gradient           the kernels of `fastxent.torch.contract`, in place
    grad of x = gradient @ W         a chunk of it
    grad of W += gradient.T @ x      by the product itself, without a pass of its own

Nothing here waits for a GPU, but what `grad_filter` needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastxent.side_outputs import Aux
from fastxent.torch.contract import Kernels
from fastxent.torch.devices import is_on_gpu, kernels_of
from fastxent.torch.linear_arguments import Chunking, LinearArguments, LinearFound, Wants
from fastxent.torch.linear_blocks import BlockGradient, weight_grad
from fastxent.torch.linear_plan import planned
from fastxent.torch.linear_products import Products
from fastxent.torch.settings import Settings

__all__ = ["compute"]


@dataclass(slots=True)
class _Call:
    """One call, and what has been found so far."""

    arguments: LinearArguments
    settings: Settings
    wants: Wants
    aux: tuple[str, ...]
    kernels: Kernels
    products: Products
    factor: Tensor | None  # of each row's gradient: of the shape of the losses, or one number
    losses: Tensor
    found: LinearFound
    asides: dict[str, Tensor]
    blocks: BlockGradient | None = None

    def chunk(self, rows: slice, logits: Tensor) -> None:
        """Go through some rows; `logits` is memory for theirs."""
        arguments, wants, found = self.arguments, self.wants, self.found
        x = arguments.input[rows].to(arguments.dtype)
        self.products.logits(x, logits)
        shown = logits.view(x.shape[0], *arguments.shape_of_row)
        factor = None if self.products.grad_filter else self.factor_of(rows)
        of_rows = self.kernels.forward(
            shown,
            arguments.target[rows],
            arguments.weight,
            None,
            self.settings._replace(reduction="none", normalizer=None),
            grad_output=factor,
            wants_grad=wants.through_logits,
            wants_target_grad=wants.target,
            wants_later=self.blocks is not None,
            out=shown if wants.through_logits else None,
            aux=self.aux,
        )
        self.losses[rows] = of_rows.loss
        self._keep_asides(of_rows.aux, of_rows.target_grad, rows)
        if self.blocks is not None:
            assert of_rows.later is not None
            statistics = of_rows.later.row_max, of_rows.later.row_sum
            self.blocks.keep(rows, *map(torch.as_tensor, statistics))
        if not wants.through_logits:
            return
        kept = self.products.kept(logits)
        if self.products.grad_filter and self.factor is not None:
            shown.mul_(_spread(self.factor_of(rows), shown))
        if wants.linear_bias:
            _add_bias_grad(found, logits, kept, arguments)
        if found.input is not None:
            self._put_input_grad(found.input[rows], logits, kept)
        if found.linear_weight is not None and self.blocks is None:
            into = found.linear_weight.view(arguments.width, -1)
            self.products.add_weight_grad(into, logits, x, kept, rows.start == 0)

    def factor_of(self, rows: slice) -> Tensor | None:
        """Factors of some rows."""
        if self.factor is None or not self.factor.dim():
            return self.factor
        return self.factor[rows]

    def _put_input_grad(self, into: Tensor, grad: Tensor, kept: Tensor | None) -> None:
        is_narrow = into.dtype is not self.arguments.dtype
        place = torch.empty_like(into, dtype=self.arguments.dtype) if is_narrow else into
        if kept is None:
            self.products.hidden_grad(grad, place)
        else:
            self.products.filtered_hidden_grad(grad, kept, place)
        if is_narrow:
            into.copy_(place)

    def _keep_asides(self, aux: Aux | None, target_grad: Tensor | None, rows: slice) -> None:
        named: dict[str, Any] = {} if aux is None else aux._asdict()
        if target_grad is not None and self.wants.target:
            named["wanted"] = target_grad
        for name, values in named.items():
            if values is None:
                continue
            if self.products.grad_filter and name in ("target_grad", "wanted"):
                factor = self.factor_of(rows)
                if factor is not None:
                    values.mul_(_spread(factor, values))
            if name not in self.asides:
                shape = self.arguments.input.shape[0], *values.shape[1:]
                self.asides[name] = values.new_empty(shape)
            self.asides[name][rows] = values


def _spread(factor: Tensor | None, of_classes: Tensor) -> Tensor:
    """A factor of each row beside arrays that have classes in axis 1."""
    assert factor is not None
    return (factor.unsqueeze(1) if factor.dim() else factor).to(of_classes.dtype)


def _add_bias_grad(
    found: LinearFound, grad: Tensor, kept: Tensor | None, arguments: LinearArguments
) -> None:
    assert found.linear_bias is not None
    flat = found.linear_bias.view(-1)
    if kept is None:
        flat.add_(grad.sum(0))
    else:
        flat.index_add_(0, kept, grad.sum(0)[kept])


def compute(
    arguments: LinearArguments,
    settings: Settings,
    chunking: Chunking,
    wants: Wants,
    grad_output: Tensor | None = None,
    aux: Iterable[str] = (),
) -> LinearFound:
    """Loss, and the gradients that are wanted, times an upstream gradient where one is known.

    `grad_output` is one number, or one a loss; it is no factor of the loss.
    """
    with torch.no_grad(), torch.autocast(arguments.input.device.type, enabled=False):
        return _compute(arguments.detached(), settings, chunking, wants, grad_output, tuple(aux))


def _compute(
    arguments: LinearArguments,
    settings: Settings,
    chunking: Chunking,
    wants: Wants,
    grad_output: Tensor | None,
    aux: tuple[str, ...],
) -> LinearFound:
    kernels = kernels_of(arguments.input)
    dtype, device = arguments.dtype, arguments.input.device
    divisor, has_bad_label = kernels.denominator(
        *(arguments.stand_in(), arguments.target, arguments.weight),
        *(arguments.sample_weight, settings),
    )
    plan = planned(arguments, chunking, wants, aux)
    count = arguments.input.shape[0]
    is_empty = not is_on_gpu(divisor) and divisor.item() == 0.0
    asked = wants
    if is_empty:
        wants = Wants()
    factor = _factor(arguments, settings, divisor, grad_output)
    bias = arguments.linear_bias
    products = Products(
        arguments.linear_weight.reshape(arguments.width, -1),
        None if bias is None else bias.reshape(-1).to(dtype),
        *(dtype, plan.block, chunking.grad_filter),
    )
    losses = torch.empty(arguments.rows_shape, dtype=dtype, device=device)
    found = LinearFound(losses)
    if wants.input:
        found.input = torch.empty_like(arguments.input, memory_format=torch.contiguous_format)
    if wants.linear_weight:
        new = torch.empty if count else torch.zeros
        weight = arguments.linear_weight
        found.linear_weight = new(weight.shape, dtype=weight.dtype, device=device)
    if wants.linear_bias:
        found.linear_bias = torch.zeros(arguments.shape_of_row, dtype=dtype, device=device)
    adds_narrow = wants.linear_weight and arguments.linear_weight.dtype is not dtype
    call = _Call(
        *(arguments, settings, wants, aux, kernels, products, factor, losses, found, {}),
        BlockGradient(arguments, settings, _of_positions(factor, arguments))
        if adds_narrow and plan.count > 1
        else None,
    )
    buffer = torch.empty(plan.rows * arguments.width, dtype=dtype, device=device)
    for start in range(0, count, plan.rows):
        rows = slice(start, min(start + plan.rows, count))
        size = rows.stop - rows.start
        call.chunk(rows, buffer[: size * arguments.width].view(size, -1))
    if call.blocks is not None:
        assert found.linear_weight is not None
        into = found.linear_weight.view(arguments.width, -1)
        weight_grad(call.blocks, products, plan.rows, buffer, into)
    if found.linear_bias is not None and bias is not None:
        found.linear_bias = found.linear_bias.to(bias.dtype)
    found.loss = _reduced(losses, arguments, settings, divisor, has_bad_label)
    _put_asides(call, aux, asked, is_empty)
    if is_empty:
        _put_zeros(found, arguments, asked)
    return found


def _factor(
    arguments: LinearArguments, settings: Settings, divisor: Tensor, grad_output: Tensor | None
) -> Tensor | None:
    """What multiplies the gradient of each row's own loss; None for 1."""
    factors = [] if arguments.sample_weight is None else [arguments.sample_weight.double()]
    if settings.reduction == "mean":
        factors.append(torch.where(divisor == 0, 0.0, 1.0 / divisor))
    if grad_output is not None:
        factors.append(grad_output.detach().double())
    return math.prod(factors[1:], start=factors[0]) if factors else None


def _of_positions(factor: Tensor | None, arguments: LinearArguments) -> Tensor | None:
    """The same with one axis for the losses of a row."""
    if factor is None or not factor.dim():
        return factor
    return factor.reshape(arguments.input.shape[0], -1)


def _reduced(
    losses: Tensor,
    arguments: LinearArguments,
    settings: Settings,
    divisor: Tensor,
    has_bad_label: Tensor | None,
) -> Tensor:
    weighted = losses
    if arguments.sample_weight is not None:
        weighted = losses.double() * arguments.sample_weight.double()
    if settings.reduction == "none":
        return weighted.to(losses.dtype)
    total = weighted.sum(dtype=torch.float64)
    if settings.reduction == "sum":
        return total.to(losses.dtype)
    empty = torch.full_like(total, math.nan if settings.all_ignored == "nan" else 0.0)
    if has_bad_label is not None:
        empty = empty.masked_fill(has_bad_label, math.nan)
    return torch.where(divisor == 0, empty, total / divisor).to(losses.dtype)


def _put_asides(call: _Call, aux: tuple[str, ...], asked: Wants, is_empty: bool) -> None:
    target, found, asides = call.arguments.target, call.found, dict(call.asides)
    found.target = asides.pop("wanted", None)
    if found.target is None and asked.target:
        found.target = torch.zeros_like(target, memory_format=torch.contiguous_format)
    if not aux:
        return
    if is_empty and "target_grad" in asides:
        asides["target_grad"].zero_()
    missing = [name for name in aux if name not in asides]
    if missing:  # no rows at all
        empty = call.kernels.forward(
            *(call.arguments.stand_in(), target, call.arguments.weight, None),
            call.settings._replace(reduction="none", normalizer=None),
            aux=aux,
        )
        assert empty.aux is not None
        asides.update({name: getattr(empty.aux, name) for name in missing})
    found.aux = Aux(**asides)


def _put_zeros(found: LinearFound, arguments: LinearArguments, wants: Wants) -> None:
    """Gradients of a mean over nothing."""
    for name in ("input", "linear_weight", "linear_bias"):
        if getattr(wants, name):
            given: Tensor = getattr(arguments, name)
            zeros = torch.zeros_like(given, memory_format=torch.contiguous_format)
            setattr(found, name, zeros)
