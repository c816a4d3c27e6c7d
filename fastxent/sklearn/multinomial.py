"""MultinomialLoss: scikit-learn's half multinomial loss on fastxent's kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn._loss.loss import HalfMultinomialLoss

from fastxent import api, checks
from fastxent.backends import pick
from fastxent.backends.contract import Backend, Outputs
from fastxent.checks.half_losses import check_class_values, check_raw_prediction
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.sklearn.results import Results

__all__ = ["MultinomialLoss"]


class MultinomialLoss(HalfMultinomialLoss):  # type: ignore[misc]
    """Softmax cross-entropy, as scikit-learn's estimators ask for it.

    It is a ``sklearn._loss.HalfMultinomialLoss`` whose passes over the scores are fastxent's, so
    that it goes wherever scikit-learn takes such a loss: ``HistGradientBoostingClassifier(loss=)``,
    ``LinearModelLoss``. Whatever is not a pass over the scores (the link, `fit_intercept_only`,
    `init_gradient_and_hessian`, ...) is inherited.

    Parameters
    ----------
    sample_weight : array of shape (n_samples,), optional
        There for the signature only: this loss has no constant Hessian that would depend on it.
        The weights that count are those given to the methods.
    n_classes : int, default 3
        Number of classes, for `fit_intercept_only` and `init_gradient_and_hessian`.

    Notes
    -----
    With p the softmax of a row of scores, y its label and s its weight, the loss is
    ``-s * log p[y]``, the gradient ``s * (p - [k = y])``, the Hessian's diagonal
    ``s * p * (1 - p)``: per row, and not divided by the number of rows.

    Beyond scikit-learn: `y_true` may be of integers or of another dtype than the scores, and is
    checked in each call; scores of -inf exclude a class; results are the same for any number of
    threads. Weights must be finite and not negative.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.sklearn import MultinomialLoss
    >>> loss, gradient = MultinomialLoss(n_classes=3).loss_gradient(
    ...     y_true=np.array([0.0, 2.0]),
    ...     raw_prediction=np.array([[2.0, 1.0, 0.1], [0.0, 0.0, 0.0]]),
    ... )
    >>> loss.round(3)
    array([0.417, 1.099])
    >>> gradient.round(3)
    array([[-0.341,  0.242,  0.099],
           [ 0.333,  0.333, -0.667]])
    """

    def __init__(self, sample_weight: Any = None, n_classes: int = 3) -> None:
        super().__init__(sample_weight=sample_weight, n_classes=n_classes)

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
            Class indices, as floating-point numbers or integers.
        raw_prediction : array of shape (n_samples, n_classes), float32 or float64
            Scores in any layout, never modified unless a result goes to this very array.
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
            `y_true` holds something else than 0, 1, ..., n_classes - 1. Also an ``IndexError``.
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
        """Gradient of each row's loss with respect to its scores.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, n_threads
            As in `loss`.
        gradient_out : array of shape (n_samples, n_classes), float32 or float64, optional
            Where the result goes, in any layout; ``gradient_out=raw_prediction`` writes over the
            scores.

        Returns
        -------
        gradient : array of shape (n_samples, n_classes)
            `gradient_out`, or a new array laid out as the scores, in their dtype.

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
        loss : array of shape (n_samples,)
        gradient : array of shape (n_samples, n_classes)
            As from `loss` and `gradient`; a new one has the dtype of the other if that was given.

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
        """Gradient, and the diagonal of the Hessian in the classes, ``s * p * (1 - p)``.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, gradient_out, n_threads
            As in `gradient`.
        hessian_out : array of shape (n_samples, n_classes), float32 or float64, optional
            Where the Hessian goes, in any layout.

        Returns
        -------
        gradient, hessian : arrays of shape (n_samples, n_classes)
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

    def gradient_proba(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        gradient_out: Array | None = None,
        proba_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Gradient, and the probabilities of the classes.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, gradient_out, n_threads
            As in `gradient`; the weights are no factor of the probabilities.
        proba_out : array of shape (n_samples, n_classes), float32 or float64, optional
            Where the probabilities go, in any layout.

        Returns
        -------
        gradient, proba : arrays of shape (n_samples, n_classes)
            A new one has the dtype of the other if that was given.

        Raises
        ------
        LabelError, ShapeError, OptionError, OutputError, DTypeError
            As in `loss`.
        """
        gradient, proba = _pass(
            y_true,
            raw_prediction,
            sample_weight,
            n_threads,
            gradient_out=gradient_out,
            proba_out=proba_out,
        )
        return gradient, proba

    def predict_proba(self, raw_prediction: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        raw_prediction : array of shape (n_samples, n_classes), float32 or float64

        Returns
        -------
        proba : array of shape (n_samples, n_classes)
            The softmax of each row, in the dtype of the scores.

        Raises
        ------
        ShapeError, DTypeError
            As in `loss`.
        """
        proba: Array = api.softmax(check_raw_prediction(raw_prediction, is_multiclass=True))
        return proba


def _pass(
    y_true: Any, raw_prediction: Any, sample_weight: Any, n_threads: Any, **outs: Array | None
) -> tuple[Array, ...]:
    """Results of these names, each in its array, None for a new one."""
    raw = check_raw_prediction(raw_prediction, is_multiclass=True)
    labels = check_class_values(y_true, len(raw))
    results = Results(raw, {"y_true": y_true, "sample_weight": sample_weight}, outs)
    problem = Problem.build(
        raw,
        labels,
        num_threads=checks.check_num_threads(n_threads, "n_threads"),
        reduction="none",
        sample_weight=sample_weight,
        ignore_index=None,
    )
    backend = pick(None, problem)
    problem.with_labels(backend)
    results.fill(
        lambda rows, filled: _fill(_rows(problem, rows), backend, filled), problem.num_threads
    )
    return results.returned


def _rows(problem: Problem, rows: slice) -> Problem:
    """The same call for some of its rows, on one thread."""
    assert problem.target is not None
    scale = problem.row_scale
    return replace(
        problem,
        given=problem.given[rows],
        logits=problem.logits[rows],
        target=problem.target[rows],
        rows=rows.stop - rows.start,
        row_scale=scale[rows] if isinstance(scale, np.ndarray) else scale,
        num_threads=1,
    )


def _fill(problem: Problem, backend: Backend, filled: dict[str, Array]) -> None:
    loss = filled.get("loss_out")
    outputs = Outputs(
        loss=loss,
        grad=filled.get("gradient_out"),
        hess=filled.get("hessian_out"),
        proba=filled.get("proba_out"),
    )
    backend.forward(problem, outputs)
    if loss is not None and isinstance(problem.row_scale, np.ndarray):
        with np.errstate(all="ignore"):  # 0 * inf: the caller's numbers, and no reason to warn
            # weights are float64, so that a float32 loss is rounded once
            np.multiply(loss, problem.row_scale, out=loss, casting="same_kind")
