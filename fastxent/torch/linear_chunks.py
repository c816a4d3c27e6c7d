"""The loss behind a linear layer, a chunk of rows of logits at a time: the loop of all devices.

    logits = x @ W.T + bias          into one buffer, which every chunk uses again
    loss, logits' gradient           the kernels of `fastxent.torch.contract`, in place
    grad of x = gradient @ W         a chunk of it
    grad of W += gradient.T @ x      by the product itself, without a pass of its own

Nothing here waits for a GPU, but what `grad_filter` needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastxent.side_outputs import Aux
from fastxent.threads import at_most
from fastxent.torch.arrays import team
from fastxent.torch.contract import Kernels
from fastxent.torch.devices import is_on_gpu, kernels_of
from fastxent.torch.linear_arguments import Chunking, LinearArguments, LinearFound, Wants
from fastxent.torch.linear_blocks import BlockGradient, weight_grad
from fastxent.torch.linear_plan import LinearPlan, planned
from fastxent.torch.linear_products import Products
from fastxent.torch.linear_results import (
    factor_of_rows,
    has_skipped,
    put_zeros,
    reduced,
    skipped_rows,
)
from fastxent.torch.modes import without_autocast
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
    plan: LinearPlan
    weight_sums: Tensor | None
    blocks: BlockGradient | None = None

    def chunk(self, rows: slice, logits: Tensor) -> None:
        """Go through some rows; `logits` is memory for theirs."""
        arguments, found = self.arguments, self.found
        x = self.hidden(rows)
        self.products.logits(x, logits)
        shown = logits.view(-1, *arguments.shape_of_row)
        kept = self._through_kernel(rows, shown, self.plan.most_threads)
        if not self.wants.through_logits:
            return
        if found.input is not None:
            self._put_input_grad(found.input[rows], logits, kept)
        if self.weight_sums is not None:
            self.products.add_weight_grad(self.weight_sums, logits, x, kept, rows.start == 0)

    def first_rows(self, count: int) -> None:
        """Compute the first rows with their logits in the memory of the weights' gradient.

        A chunk of few rows makes the products slow: with 112 rows of 128,256 classes NumPy's take
        1.16 to 1.39 times their share. The gradient has D entries a class and holds nothing yet,
        so D rows of logits find room in it.
        """
        arguments, into = self.arguments, self.weight_sums
        assert into is not None
        rows = slice(0, count)
        x = arguments.input[rows]
        columns = into[:, :count]
        self.products.logits_by_class(x, columns)
        logits = columns.t()
        shown = columns.view(*arguments.shape_of_row, count).movedim(-1, 0)
        self._through_kernel(rows, shown, self.plan.most_threads_of_first)
        if self.found.input is not None:
            self._put_input_grad(self.found.input[rows], logits, None)
        for start in range(0, into.shape[0], self.products.block):
            part = into[start : start + self.products.block]
            torch.mm(part[:, :count].clone(memory_format=torch.contiguous_format), x, out=part)

    def hidden(self, rows: slice) -> Tensor:
        """Hidden vectors to compute with; of rows that are skipped 0, whatever they hold."""
        x = self.arguments.input[rows]
        if self.plan.copies_input:
            x = x.to(self.arguments.dtype, copy=True, memory_format=torch.contiguous_format)
        if self.plan.has_skipped:
            skipped = skipped_rows(self.arguments, self.settings, rows)
            assert skipped is not None
            x.masked_fill_(skipped.unsqueeze(1), 0.0)
        return x

    def _through_kernel(
        self, rows: slice, shown: Tensor, most_threads: int | None
    ) -> Tensor | None:
        """Losses of some rows, and their gradient over the logits; the columns that are kept."""
        arguments, wants, found = self.arguments, self.wants, self.found
        factor = None if self.products.grad_filter else self.factor_of(rows)
        of_rows = self.kernels.forward(
            shown,
            arguments.target[rows],
            arguments.weight,
            None,
            self._settings_of(shown, most_threads),
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
            return None
        kept = None
        if self.products.grad_filter:
            kept = self.products.kept(shown.view(shown.shape[0], -1))
        if self.products.grad_filter and self.factor is not None:
            shown.mul_(_spread(self.factor_of(rows), shown))
        if found.linear_bias is not None:
            total = shown.sum(0).view(-1)
            flat = found.linear_bias.view(-1)
            if kept is None:
                flat.add_(total)
            else:
                flat.index_add_(0, kept, total[kept])
        return kept

    def _settings_of(self, shown: Tensor, most_threads: int | None) -> Settings:
        """Those of the kernel, with no more threads than the budget has scratch memory for."""
        settings = self.settings._replace(reduction="none", normalizer=None)
        if most_threads is None:
            return settings
        losses = shown.shape[0] * self.arguments.positions
        wanted = team(settings.num_threads, losses, shown.numel() * shown.itemsize)
        return settings._replace(num_threads=at_most(wanted, most_threads))

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
        if "target_grad" not in self.aux:
            named.pop("target_grad", None)
        if target_grad is not None and self.wants.target:
            named["wanted"] = target_grad
        factor = self.factor_of(rows) if self.products.grad_filter else None
        scaled: set[int] = set()
        for name, values in named.items():
            if values is None:
                continue
            # backward's may be the one that the caller gets
            if factor is not None and name in ("target_grad", "wanted"):
                if values.data_ptr() not in scaled:
                    values.mul_(_spread(factor, values))
                scaled.add(values.data_ptr())
            if name not in self.asides:
                shape = self.arguments.input.shape[0], *values.shape[1:]
                self.asides[name] = values.new_empty(shape)
            self.asides[name][rows] = values


def _spread(factor: Tensor | None, of_classes: Tensor) -> Tensor:
    """A factor of each row beside arrays that have classes in axis 1."""
    assert factor is not None
    return (factor.unsqueeze(1) if factor.dim() else factor).to(of_classes.dtype)


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
    with torch.no_grad(), without_autocast(arguments.input.device.type):
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
        # on the CPU bfloat16 probabilities would be converted whole for it
        *(
            arguments.stand_in(),
            arguments.target_of_shape() if arguments.input.is_cpu else arguments.target,
            arguments.weight,
        ),
        *(arguments.sample_weight, settings),
    )
    count, asked = arguments.input.shape[0], wants
    may_look = not is_on_gpu(divisor)
    is_empty = may_look and divisor.item() == 0.0
    if is_empty:
        wants = Wants()
    skips = has_skipped(arguments, settings, may_look)
    plan = planned(arguments, settings, chunking, asked, aux, skips, is_empty)
    factor = factor_of_rows(arguments, settings, divisor, grad_output)
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
    weight_sums = None
    if found.linear_weight is not None and plan.by_class is None:
        weight_sums = found.linear_weight.view(arguments.width, -1)
        if plan.has_weight_sums:
            weight_sums = torch.empty_like(weight_sums, dtype=dtype)
    call = _Call(
        *(arguments, settings, wants, aux, kernels, products, factor, losses, found, {}),
        *(plan, weight_sums),
        BlockGradient(arguments, settings, _of_positions(factor, arguments))
        if plan.by_class is not None
        else None,
    )
    if plan.first_rows:
        call.first_rows(plan.first_rows)
    most = min(plan.rows, count - plan.first_rows)
    buffer = torch.empty(most * arguments.width, dtype=dtype, device=device)
    for start in range(plan.first_rows, count, plan.rows):
        rows = slice(start, min(start + plan.rows, count))
        size = rows.stop - rows.start
        call.chunk(rows, buffer[: size * arguments.width].view(size, -1))
    if found.linear_weight is not None:
        into = found.linear_weight.view(arguments.width, -1)
        if call.blocks is not None and plan.by_class is not None:
            del buffer
            weight_grad(call.blocks, products, plan.by_class, into, call.hidden)
        elif plan.has_weight_sums and weight_sums is not None:
            into.copy_(weight_sums)
    if found.linear_bias is not None and bias is not None:
        found.linear_bias = found.linear_bias.to(bias.dtype)
    found.loss = reduced(losses, arguments, settings, divisor, has_bad_label)
    _put_asides(call, aux, asked, is_empty)
    if is_empty:
        put_zeros(found, arguments, asked)
    return found


def _of_positions(factor: Tensor | None, arguments: LinearArguments) -> Tensor | None:
    """The same with one axis for the losses of a row."""
    if factor is None or not factor.dim():
        return factor
    return factor.reshape(arguments.input.shape[0], -1)


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
