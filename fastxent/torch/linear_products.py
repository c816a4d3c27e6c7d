"""The three matrix products of a chunk, on the weights where they lie or a block of them widened.

Products are PyTorch's, on the CPU and on a GPU alike. A matrix of another dtype than the one that
computes is widened a block of classes at a time: a product of half precision rounds its result to
half precision on a CPU, and neither logits nor sums over rows may be rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Products", "reads_in_place"]

# Classes of a product for the logits on a CPU; 0 for all of them in one.
_CLASSES_OF_PRODUCT = 0


def reads_in_place(matrix: Tensor, dtype: torch.dtype) -> bool:
    """Whether BLAS reads a matrix where it lies."""
    rows, columns = matrix.shape
    down, across = matrix.stride()
    by_rows = across == 1 and down >= max(1, columns)
    by_columns = down == 1 and across >= max(1, rows)
    return matrix.dtype is dtype and (by_rows or by_columns) and not matrix.is_neg()


@dataclass(slots=True)
class Products:
    """What multiplies with the weights.

    Attributes
    ----------
    matrix : (width, D) Tensor
        A row for each logit of a row.
    bias : (width,) Tensor or None
        In the dtype that computes.
    dtype : torch.dtype
        The one that computes.
    block : int
        Rows of the matrix that are widened at a time.
    grad_filter : float
        Columns of a gradient whose entries are all smaller are left out; 0 for none.
    """

    matrix: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    block: int
    grad_filter: float = 0.0

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The matrix as BLAS can read it, from the first row to the last."""
        if reads_in_place(self.matrix, self.dtype):
            yield slice(None), self.matrix
            return
        width = self.matrix.shape[0]
        for start in range(0, width, self.block):
            part = slice(start, min(start + self.block, width))
            yield part, self.matrix[part].to(self.dtype).contiguous()

    def logits(self, x: Tensor, out: Tensor) -> None:
        """Compute ``x @ matrix.T + bias``."""
        for part, rows in self._blocks_of_logits(x.is_cpu):
            if self.bias is None:
                torch.mm(x, rows.t(), out=out[:, part])
            else:
                torch.addmm(self.bias[part], x, rows.t(), out=out[:, part])

    def _blocks_of_logits(self, is_cpu: bool) -> Iterator[tuple[slice, Tensor]]:
        width = self.matrix.shape[0]
        step = _CLASSES_OF_PRODUCT if is_cpu and _CLASSES_OF_PRODUCT else max(1, width)
        for part, rows in self.blocks():
            first = part.start or 0
            for start in range(0, rows.shape[0], step):
                stop = min(start + step, rows.shape[0])
                yield slice(first + start, first + stop), rows[start:stop]

    def logits_by_class(self, x: Tensor, out: Tensor) -> None:
        """Compute ``matrix @ x.T + bias``, with a row a class; the matrix is read in place."""
        if self.bias is None:
            torch.mm(self.matrix, x.t(), out=out)
        else:
            torch.addmm(self.bias.unsqueeze(1), self.matrix, x.t(), out=out)

    def hidden_grad(self, grad: Tensor, out: Tensor) -> None:
        """Compute ``grad @ matrix``."""
        is_first = True
        for part, rows in self.blocks():
            out.addmm_(grad[:, part], rows, beta=0 if is_first else 1)
            is_first = False

    def filtered_hidden_grad(self, grad: Tensor, kept: Tensor, out: Tensor) -> None:
        """Compute the same from the columns that are kept."""
        out.zero_()
        for start in range(0, kept.shape[0], self.block):
            chosen = kept[start : start + self.block]
            rows = self.matrix.index_select(0, chosen).to(self.dtype)
            out.addmm_(grad.index_select(1, chosen), rows)

    def kept(self, grad: Tensor) -> Tensor | None:
        """Columns of a gradient that count, by number; None for all of them.

        On a GPU the host waits for how many they are.
        """
        if self.grad_filter == 0.0 or grad.shape[0] == 0:
            return None
        largest = torch.linalg.vector_norm(grad, torch.inf, dim=0)
        # not `>=`: a NaN stays
        found = torch.nonzero(~(largest < self.grad_filter)).squeeze(1)
        # what is gathered costs a copy: it is worth it where it is the smaller part
        return found if 2 * found.shape[0] < grad.shape[1] else None

    def add_weight_grad(
        self, into: Tensor, grad: Tensor, x: Tensor, kept: Tensor | None, is_first: bool
    ) -> None:
        """Add ``grad.T @ x``, or write it where it is the first."""
        if kept is None:
            if into.dtype is self.dtype:
                into.addmm_(grad.t(), x, beta=0 if is_first else 1)
                return
            for start in range(0, into.shape[0], self.block):  # one chunk: nothing is added up
                part = slice(start, start + self.block)
                into[part] = torch.mm(grad[:, part].t(), x)
            return
        if is_first:
            into.zero_()
        for start in range(0, kept.shape[0], self.block):
            chosen = kept[start : start + self.block]
            product = torch.mm(grad.index_select(1, chosen).t(), x)
            into.index_add_(0, chosen, product.to(into.dtype))
