"""BinomialLoss: scikit-learn's half binomial loss on fastxent's kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn._loss.loss import HalfBinomialLoss

from fastxent import checks
from fastxent.backends import pick
from fastxent.backends.contract import Backend, BinaryOutputs
from fastxent.binary import BinaryCall, BinaryProblem
from fastxent.checks.half_losses import check_raw_prediction, check_weight_shape
from fastxent.precision import Array, native
from fastxent.sklearn.results import Results

__all__ = ["BinomialLoss"]


class BinomialLoss(HalfBinomialLoss):  # type: ignore[misc]
    """Sigmoid cross-entropy of two classes, as scikit-learn's estimators ask for it.

    It is a ``sklearn._loss.HalfBinomialLoss`` whose passes over the scores are fastxent's, as
    `MultinomialLoss` is for more classes.

    Parameters
    ----------
    sample_weight : array of shape (n_samples,), optional
        There for the signature only: this loss has no constant Hessian that would depend on it.
        The weights that count are those given to the methods.

    Notes
    -----
    With x a score, y its target in [0, 1] and s its weight, the loss is
    ``s * (log(1 + exp(x)) - y * x)``, the gradient ``s * (sigma(x) - y)``, the Hessian
    ``s * sigma(x) * (1 - sigma(x))``: per row, and not divided by the number of rows.

    Beyond scikit-learn: `y_true` may be of integers 0 and 1, of booleans, or of another dtype than
    the scores. Weights must be finite and not negative.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.sklearn import BinomialLoss
    >>> loss, gradient = BinomialLoss().loss_gradient(
    ...     y_true=np.array([1.0, 0.0]), raw_prediction=np.array([0.5, -1.0])
    ... )
    >>> loss.round(3)
    array([0.474, 0.313])
    >>> gradient.round(3)
    array([-0.378,  0.269])
    """

    def __init__(self, sample_weight: Any = None) -> None:
        super().__init__(sample_weight=sample_weight)

    def loss(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        loss_out: Array | None = None,
        n_threads: int = 1,
    ) -> Array:
        """Loss of each row.

        Parameters
        ----------
        y_true : array of shape (n_samples,)
            Probability of the 1 as floating-point numbers, not checked; or integers or booleans
            that are 0 or 1.
        raw_prediction : array of shape (n_samples,) or (n_samples, 1), float32 or float64
            Scores, never modified unless a result goes to this very array.
        sample_weight : array of shape (n_samples,), optional
            Finite and not negative.
        loss_out : array of shape (n_samples,), float32 or float64, optional
            Where the result goes.
        n_threads : int, default 1
            Threads, at least 1; more than can be had are clamped.

        Returns
        -------
        loss : array of shape (n_samples,)
            `loss_out`, or a new array in the dtype of the scores.

        Raises
        ------
        LabelError
            An integer target is neither 0 nor 1. Also an ``IndexError``.
        ShapeError, OptionError, OutputError
            A shape or a value does not fit, or two arrays overlap. Also a ``ValueError``.
        DTypeError
            A dtype that is not computed with. Also a ``TypeError``.
        """
        (loss,) = _pass(y_true, raw_prediction, sample_weight, n_threads, loss_out=loss_out)
        return loss

    def gradient(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        gradient_out: Array | None = None,
        n_threads: int = 1,
    ) -> Array:
        """Gradient of each row's loss with respect to its score.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, n_threads
            As in `loss`.
        gradient_out : array of shape (n_samples,), float32 or float64, optional
            Where the result goes; ``gradient_out=raw_prediction`` writes over the scores.

        Returns
        -------
        gradient : array of shape (n_samples,)
            `gradient_out`, or a new array in the dtype of the scores.

        Raises
        ------
        LabelError, ShapeError, OptionError, OutputError, DTypeError
            As in `loss`.
        """
        (gradient,) = _pass(
            y_true, raw_prediction, sample_weight, n_threads, gradient_out=gradient_out
        )
        return gradient

    def loss_gradient(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        loss_out: Array | None = None,
        gradient_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Loss and gradient in one pass.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, loss_out, gradient_out, n_threads
            As in `loss` and `gradient`.

        Returns
        -------
        loss, gradient : arrays of shape (n_samples,)
            A new one has the dtype of the other if that was given.

        Raises
        ------
        LabelError, ShapeError, OptionError, OutputError, DTypeError
            As in `loss`.
        """
        loss, gradient = _pass(
            y_true,
            raw_prediction,
            sample_weight,
            n_threads,
            loss_out=loss_out,
            gradient_out=gradient_out,
        )
        return loss, gradient

    def gradient_hessian(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        gradient_out: Array | None = None,
        hessian_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Gradient and Hessian of each row's loss with respect to its score.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, gradient_out, n_threads
            As in `gradient`.
        hessian_out : array of shape (n_samples,), float32 or float64, optional
            Where the Hessian goes.

        Returns
        -------
        gradient, hessian : arrays of shape (n_samples,)
            A new one has the dtype of the other if that was given.

        Raises
        ------
        LabelError, ShapeError, OptionError, OutputError, DTypeError
            As in `loss`.
        """
        gradient, hessian = _pass(
            y_true,
            raw_prediction,
            sample_weight,
            n_threads,
            gradient_out=gradient_out,
            hessian_out=hessian_out,
        )
        return gradient, hessian


def _pass(
    y_true: Any, raw_prediction: Any, sample_weight: Any, n_threads: Any, **outs: Array | None
) -> tuple[Array, ...]:
    """Results of these names, each in its array, None for a new one."""
    raw = check_raw_prediction(raw_prediction, is_multiclass=False)
    call = BinaryCall.build(
        raw,
        y_true,
        weight=check_weight_shape(sample_weight, len(raw)),
        pos_weight=None,
        label_smoothing=0.0,
        reduction="none",
        num_threads=checks.check_num_threads(n_threads, "n_threads"),
    )
    results = Results(raw, {"y_true": y_true, "sample_weight": sample_weight}, outs)
    problem = _problem(call)
    backend = pick(None)
    if call.target.dtype.kind in "iu" and backend.binary(problem, BinaryOutputs()):
        checks.raise_bad_binary_target(call.target)
    results.fill(
        lambda rows, filled: _fill(_rows(problem, rows), backend, filled), problem.num_threads
    )
    return results.returned


def _problem(call: BinaryCall) -> BinaryProblem:
    """The whole call; the arrays are of one dimension, and need no other view of them."""
    target = call.target
    return BinaryProblem(
        logits=call.logits.astype(call.precision.kernel, copy=False),
        logits_kind=call.precision.kind,
        target=target.astype(native(target.dtype), copy=False),
        target_kind=call.target_kind,
        compute=call.precision.compute,
        ones=1.0,
        factor=call.factor,
        upstream=1.0,
        gain=1.0,
        background=0.0,
        num_threads=call.num_threads,
    )


def _rows(problem: BinaryProblem, rows: slice) -> BinaryProblem:
    """The same call for some of its rows, on one thread."""
    factor = problem.factor
    return replace(
        problem,
        logits=problem.logits[rows],
        target=problem.target[rows],
        factor=factor[rows] if isinstance(factor, np.ndarray) else factor,
        num_threads=1,
    )


def _fill(problem: BinaryProblem, backend: Backend, filled: dict[str, Array]) -> None:
    outputs = BinaryOutputs(
        loss=filled.get("loss_out"),
        grad=filled.get("gradient_out"),
        hess=filled.get("hessian_out"),
    )
    backend.binary(problem, outputs)
