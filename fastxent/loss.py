"""CrossEntropyLoss: forward keeps the gradient, backward gives it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent import checks
from fastxent.api import cross_entropy_and_grad
from fastxent.options import Options

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss:
    """The loss as an object: `forward` runs the fused pass, `backward` returns its gradient.

    Parameters
    ----------
    weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, \
z_loss, softcap, logit_scale, axis, all_ignored, aux, backend, num_threads
        As in `fastxent.cross_entropy`; checked when `forward` runs.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> loss = fx.CrossEntropyLoss()
    >>> A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> Y = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> round(float(loss(A, Y)), 3)
    2.019
    >>> loss.backward().round(2)
    array([[ 0.33, -0.38,  0.05],
           [-0.46,  0.24,  0.22]])
    """

    def __init__(
        self,
        *,
        weight: Any = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        normalizer: float | None = None,
        sample_weight: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        axis: int = -1,
        all_ignored: str = "nan",
        aux: Iterable[str] = (),
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        # an iterator would be empty at the second forward
        names = tuple(aux) if isinstance(aux, Iterable) and not isinstance(aux, str) else aux
        options = Options(
            *(weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight),
            *(z_loss, softcap, logit_scale, axis, all_ignored, names),
        )
        self.options: dict[str, Any] = {
            **options._asdict(),
            "backend": backend,
            "num_threads": num_threads,
        }
        self._grad: Any = None

    def forward(self, A: Any, Y: Any) -> Any:
        """Compute the loss and keep its gradient.

        Parameters
        ----------
        A, Y
            Logits and target, as in `fastxent.cross_entropy`.

        Returns
        -------
        numpy scalar or array
            The loss; with `aux` loss and side outputs. When an argument is wrong the gradient of
            the forward before is kept.
        """
        loss, self._grad, *asides = cross_entropy_and_grad(A, Y, **self.options)
        return (loss, *asides) if asides else loss

    def backward(self) -> Any:
        """Give the gradient of the last `forward`; the same array until the next one.

        Returns
        -------
        array
            dL/dA, in the shape and dtype of A and of its library.

        Raises
        ------
        CallOrderError
            If there was no `forward`. Also a ``ValueError``.
        """
        if self._grad is None:
            checks.raise_call_order(
                "backward() was called before forward(): call forward(A, Y) first"
            )
        return self._grad

    __call__ = forward

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"CrossEntropyLoss({shown})"
