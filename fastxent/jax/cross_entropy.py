"""The public loss: arguments checked as far as they are known when a function is traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fastxent import checks
from fastxent.jax.arguments import checked
from fastxent.jax.handlers import share_threads
from fastxent.jax.loss import loss
from fastxent.jax.operands import Operands
from fastxent.jax.reading import fixed, labels_kept, stand_in
from fastxent.options import Options

__all__ = ["cross_entropy"]


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    all_ignored: str = "nan",
    num_threads: int | None = None,
) -> jax.Array:
    """Cross-entropy between the softmax of logits and a target, as `fastxent.cross_entropy`.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Unnormalised scores; C classes along `axis`, every other position is a row.
    target : array_like
        Integers of any dtype: class indices, shape of `logits` without `axis`. Floating-point
        numbers or bool: probabilities, shape of `logits`.
    weight : array_like of shape (C,), optional
        Class weights, finite and not negative.
    ignore_index : int or None, default -100
        Rows with this label count for nothing and their logits are not read; None for no such
        label.
    label_smoothing : float, default 0.0
        Share, in [0, 1], of each row's target mass that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        PyTorch's mean: over the summed weights of the counted rows for class indices, over rows
        for probabilities.
    normalizer : scalar, optional
        Replaces the denominator of the mean. It may be traced, as ``jax.lax.psum`` of the counts
        of all devices is.
    sample_weight : array_like, shape of `logits` without `axis`, optional
        Factor of each row's loss, finite and not negative.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp(z)**2`` to the loss of each row that counts.
    softcap : float, optional
        Bounds the logits: ``z = softcap * tanh(logit_scale * logits / softcap)``.
    logit_scale : float, default 1.0
        Factor of the logits, above 0.
    axis : int, default -1
        Where the classes are; any is read where it lies.
    all_ignored : {"nan", "zero"}, default "nan"
        Loss of a mean whose denominator is 0; its gradient is 0 in either case.
    num_threads : int, optional
        At least 1; by default `fastxent.get_num_threads()`, fewer for small arrays.

    Returns
    -------
    jax.Array
        In the dtype of `logits`, float32 for half precision; for ``reduction="none"`` of the shape
        of `logits` without `axis`.

    Raises
    ------
    ShapeError, OptionError
        A shape or a value does not fit. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with, or a traced option. Also a ``TypeError``.
    LabelError
        A NumPy label that needs 64 bits, where JAX keeps 32. Also an ``IndexError``.
    BackendError
        The function is compiled for something else than a CPU. Also a ``ValueError``.
    jax.errors.JaxRuntimeError
        When it runs, INVALID_ARGUMENT: a class index is outside [0, C) and not `ignore_index`, or
        a weight is negative or not finite. The message names it. Where XLA drops the pass, as in
        ``jit(grad(...))`` with respect to weights alone, the derivatives are NaN instead.

    Notes
    -----
    The gradient with respect to the logits (and to probabilities) comes from the same pass as the
    loss, scaled for the mean: ``jax.value_and_grad`` reads the logits once. Derivatives with
    respect to weights and `normalizer`, and of second order, are computed by JAX from a plain
    formula. `weight`, `sample_weight`, `normalizer` and both arrays may be traced, everything else
    is fixed when the function is traced.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> logits = jnp.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> loss_and_grad = jax.jit(jax.value_and_grad(fastxent.jax.cross_entropy))
    >>> loss, grad = loss_and_grad(logits, jnp.array([1, 0]))
    >>> round(float(loss), 3)
    2.019
    >>> grad.shape
    (2, 3)
    """
    ignore_index = fixed(ignore_index, "ignore_index")
    logits, target = jnp.asarray(logits), jnp.asarray(labels_kept(target, ignore_index))
    shaped = checks.check_logits(stand_in(logits))
    axis = checks.check_axis(fixed(axis, "axis"), shaped)
    given = Options(
        *(weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight),
        *(z_loss, softcap, logit_scale, axis, all_ignored),
    )
    options, _, *factors = checked(given, shaped, axis, target, shaped.shape[axis], num_threads)
    share_threads()
    return loss(options, Operands(logits, target, *factors))
