"""The gradient of weights whose dtype is too narrow to add chunks up in, a block of them at a time.

A sum of chunks needs at least float32, and a float32 copy of half-precision weights would be twice
their size. So each block of classes goes through all rows: its logits are computed again, and from
the statistics of the rows that the first pass has found their gradient,

    grad = row * dz/dx * ((T + 2 z_loss L) exp(z - row_max) / row_sum - t)

with the terms of docs/math.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastxent.linear.plan import ChunkPlan
from fastxent.torch.linear_arguments import LinearArguments
from fastxent.torch.linear_products import Products
from fastxent.torch.settings import Settings

__all__ = ["BlockGradient", "weight_grad"]


@dataclass(slots=True)
class BlockGradient:
    """What the gradient of a block of classes needs of the rows.

    Statistics have shape (N, positions), float64, where positions are those of a K-dimensional
    loss.
    """

    arguments: LinearArguments
    settings: Settings
    factor: Tensor | None  # of each row's gradient, (N, positions) or one number
    row_max: Tensor = field(init=False)
    row_sum: Tensor = field(init=False)
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        rows = self.arguments.input.shape[0]
        shape = rows, self.arguments.positions
        device = self.arguments.input.device
        self.row_max = torch.empty(shape, dtype=self.arguments.dtype, device=device)
        self.row_sum = torch.empty(shape, dtype=torch.float64, device=device)
        self.total = torch.empty(shape, dtype=torch.float64, device=device)

    def keep(self, rows: slice, row_max: Tensor, row_sum: Tensor) -> None:
        """Take the statistics of some rows."""
        self.row_max[rows] = row_max.reshape(-1, self.arguments.positions)
        self.row_sum[rows] = row_sum.reshape(-1, self.arguments.positions)
        self.total[rows] = self._total(rows)

    def of(self, z: Tensor, rows: slice, first: int) -> Tensor:
        """Gradient of a block's logits, written over them; `first` is the class of the first."""
        settings = self.settings
        count = z.shape[1] // self.arguments.positions
        z = z.view(z.shape[0], count, self.arguments.positions)
        classes = slice(first, first + count)
        slope: Tensor | float = settings.logit_scale
        if settings.softcap is not None:
            z.mul_(settings.logit_scale / settings.softcap).tanh_()
            slope = (1.0 - z * z).mul_(settings.logit_scale)
            z.mul_(settings.softcap)
        elif slope != 1.0:
            z.mul_(slope)
        row_max, row_sum = self.row_max[rows], self.row_sum[rows]
        lse = row_max + row_sum.log()
        share = (self.total[rows] + 2.0 * settings.z_loss * lse) / row_sum
        z.sub_(row_max.unsqueeze(1)).exp_().mul_(share.to(z.dtype).unsqueeze(1))
        self._take_mass(z, rows, classes)
        if isinstance(slope, Tensor) or slope != 1.0:
            z.mul_(slope)
        skipped = self._skipped(rows)
        if skipped is not None:
            z.masked_fill_(skipped.unsqueeze(1), 0.0)
        return z.view(z.shape[0], -1)

    def scale(self, grad: Tensor, rows: slice) -> None:
        """Multiply with the factors of the rows."""
        if self.factor is not None:
            factor = self.factor[rows] if self.factor.dim() else self.factor.reshape(1, 1)
            shown = grad.view(grad.shape[0], -1, self.arguments.positions)
            shown.mul_(factor.to(grad.dtype).unsqueeze(1))

    @property
    def _is_hard(self) -> bool:
        target = self.arguments.target
        return not (target.is_floating_point() or target.dtype is torch.bool)

    def _labels(self, rows: slice) -> Tensor:
        return self.arguments.target[rows].reshape(-1, self.arguments.positions).long()

    def _skipped(self, rows: slice) -> Tensor | None:
        """Rows without a gradient: their label is ignored, or on a GPU outside of the classes."""
        if not self._is_hard:
            return None
        labels = self._labels(rows)
        skipped = (labels < 0) | (labels >= self.arguments.shape_of_row[0])
        if self.settings.ignore_index is not None:
            skipped = skipped | (labels == self.settings.ignore_index)
        return skipped

    def _weights(self, classes: slice) -> Tensor | float:
        weight = self.arguments.weight
        return 1.0 if weight is None else weight[classes].to(self.arguments.dtype)

    def _spike(self, labels: Tensor) -> Tensor | float:
        """Mass on the label itself; labels are inside of the classes."""
        weight = self.arguments.weight
        rest = 1.0 - self.settings.label_smoothing
        return rest if weight is None else weight.double()[labels] * rest

    def _total(self, rows: slice) -> Tensor | float:
        """Mass of each row's target."""
        settings, count = self.settings, self.arguments.shape_of_row[0]
        weight = self.arguments.weight
        background: Tensor | float = settings.label_smoothing
        if weight is not None:
            background = weight.double().sum() * (settings.label_smoothing / count)
        if self._is_hard:
            inside = self._labels(rows).clamp(0, count - 1)
            return self._spike(inside) + background
        soft = self.arguments.target[rows].reshape(-1, count, self.arguments.positions)
        soft = soft.to(self.arguments.dtype)
        if weight is None:
            mass = soft.sum(1, dtype=torch.float64)
        else:
            mass = torch.einsum("ncp,c->np", soft, weight.to(soft.dtype)).double()
        return mass * (1.0 - settings.label_smoothing) + background

    def _take_mass(self, z: Tensor, rows: slice, classes: slice) -> None:
        """Subtract the mass of the targets of these classes."""
        smoothing, count = self.settings.label_smoothing, self.arguments.shape_of_row[0]
        weights = self._weights(classes)
        if smoothing:
            background = weights * (smoothing / count)
            z.sub_(background.unsqueeze(1) if isinstance(background, Tensor) else background)
        if not self._is_hard:
            soft = self.arguments.target[rows].reshape(-1, count, self.arguments.positions)[
                :, classes
            ]
            gain = weights * (1.0 - smoothing)
            shown = gain.unsqueeze(1) if isinstance(gain, Tensor) else gain
            z.sub_(soft.to(z.dtype) * shown)
            return
        labels = self._labels(rows)
        inside = (labels >= classes.start) & (labels < classes.start + z.shape[1])
        place = (labels - classes.start).clamp(0, z.shape[1] - 1)
        spike = inside * self._spike(labels.clamp(0, count - 1))
        z.scatter_add_(1, place.unsqueeze(1), -spike.to(z.dtype).unsqueeze(1))


def weight_grad(
    blocks: BlockGradient,
    products: Products,
    plan: ChunkPlan,
    into: Tensor,
    hidden: Callable[[slice], Tensor],
) -> None:
    """Fill the gradient of the weights by blocks of classes; `hidden` gives rows to compute with.

    A block has all positions of its classes, so of a K-dimensional loss at least those of one.
    """
    arguments, positions = blocks.arguments, blocks.arguments.positions
    count, width = arguments.input.shape[0], into.shape[0]
    step = max(1, plan.block // positions) * positions
    for start in range(0, width, step):
        part = slice(start, min(start + step, width))
        matrix = products.matrix[part].to(products.dtype)
        bias = None if products.bias is None else products.bias[part]
        of_block = Products(matrix, bias, products.dtype, products.block, products.grad_filter)
        total = torch.zeros(matrix.shape, dtype=products.dtype, device=matrix.device)
        for begin in range(0, count, plan.rows):
            rows = slice(begin, min(begin + plan.rows, count))
            x = hidden(rows)
            z = torch.empty((x.shape[0], matrix.shape[0]), dtype=products.dtype, device=x.device)
            of_block.logits(x, z)
            grad = blocks.of(z, rows, start // positions)
            kept = of_block.kept(grad)
            blocks.scale(grad, rows)
            of_block.add_weight_grad(total, grad, x, kept, False)
        into[part] = total
