"""The public loss behind a linear layer: arguments checked as far as they are known when traced."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastxent import checks
from fastxent.checks.jax import check_fixed_sizes
from fastxent.jax.arguments import Arguments, checked
from fastxent.jax.handlers import share_threads
from fastxent.jax.linear_loss import linear_loss
from fastxent.jax.linear_operands import LinearOperands, LinearOptions
from fastxent.jax.manual_axes import alike
from fastxent.jax.reading import fixed, labels_kept, stand_in
from fastxent.options import Options

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    hidden: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
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
    memory_budget: float | None = None,
    grad_filter: float | None = None,
    num_threads: int | None = None,
) -> jax.Array:
    """Cross-entropy of the logits ``hidden @ linear_weight.T + linear_bias``, never held whole.

    Parameters
    ----------
    hidden : array_like of float16, bfloat16, float32 or float64
        Vectors of D features along `axis`, every other position is a row.
    linear_weight : array_like of shape (C, D)
        Features of each class.
    target : array_like
        Integers of any dtype: class indices, shape of `hidden` without `axis`. Floating-point
        numbers or bool: probabilities, shape of `hidden` with C in the place of D.
    linear_bias : array_like of shape (C,), optional
    weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap
        As in `cross_entropy`.
    logit_scale, all_ignored
        As in `cross_entropy`.
    axis : int, default -1
        Where the features are, and the classes of probabilities. Another than the last is moved
        there by a copy, which counts as temporary memory.
    memory_budget : number, optional
        Bytes of all temporary memory, as ``memory_analysis`` of the compiled function reports them
        beside its arguments and results; 64e6 by default, or what one row needs if that is more.
    grad_filter : float, optional
        In each chunk of rows, classes whose gradient of the logits (of the rows' own losses, before
        factors of rows) is below this in every row are left out of the two backward products. It
        pays where most classes have next to no probability. The error of ``d hidden[i]`` is at most
        ``grad_filter`` times the sum of the norms of the rows of `linear_weight` left out, times
        the factor of row i; that of ``d linear_weight[k]`` at most ``grad_filter`` times the sum
        over the rows of their factor times their norm. The loss alone has nothing to leave out.
    num_threads : int, optional
        Of the loss; the products are XLA's, which has threads of its own.

    Returns
    -------
    jax.Array
        float64 if any of the three arrays is, otherwise float32; for ``reduction="none"`` of the
        shape of `hidden` without `axis`.

    Raises
    ------
    ShapeError, OptionError
        A shape or a value does not fit, or `memory_budget` holds no row: the message names the
        least. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with, or a traced option. Also a ``TypeError``.
    LabelError
        A NumPy label that needs 64 bits, where JAX keeps 32. Also an ``IndexError``.
    BackendError
        The function is compiled for something else than a CPU. Also a ``ValueError``.
    jax.errors.JaxRuntimeError
        When it runs, INVALID_ARGUMENT: a class index is outside [0, C) and not `ignore_index`, or
        a weight is negative or not finite. The message names it.

    Notes
    -----
    ``jax.value_and_grad`` with respect to `hidden`, `linear_weight`, `linear_bias`, probabilities
    computes the logits once, in chunks of rows; the gradient of the logits is written over them.
    Sums are taken in float32 at least; each gradient comes back in the dtype of its array. A
    `linear_weight` in less than the dtype of the sums, and of more than one chunk, takes the logits
    twice. So does ``reduction="none"``, whose reverse mode runs the pass again, and which has no
    forward mode. `jax.vmap` runs one call after the other: rows in leading dimensions are faster.
    Derivatives with respect to weights and `normalizer`, and of second order, are computed by JAX
    from a plain formula, with all logits at once.

    Under `jax.shard_map` over rows, pass the sum of all devices' counts as `normalizer` and sum the
    losses.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]])
    >>> linear_weight = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
    >>> step = jax.jit(jax.value_and_grad(fastxent.jax.linear_cross_entropy, (0, 1)))
    >>> loss, (grad_hidden, grad_weight) = step(hidden, linear_weight, jnp.array([2, 0, 3]))
    >>> round(float(loss), 3)
    0.875
    >>> grad_weight.shape
    (4, 2)
    """
    ignore_index = fixed(ignore_index, "ignore_index")
    hidden, linear_weight = jnp.asarray(hidden), jnp.asarray(linear_weight)
    target = jnp.asarray(labels_kept(target, ignore_index))
    linear_bias = None if linear_bias is None else jnp.asarray(linear_bias)
    for name, array in (("hidden", hidden), ("linear_weight", linear_weight), ("target", target)):
        check_fixed_sizes(name, array.shape)
    *arrays, axis = checks.check_linear_arrays(
        stand_in(hidden),
        stand_in(linear_weight),
        None if linear_bias is None else stand_in(linear_bias),
        fixed(axis, "axis"),
    )
    wide = any(array is not None and array.dtype.itemsize == 8 for array in arrays)
    compute = np.dtype(np.float64 if wide else np.float32)
    shape, classes = hidden.shape, linear_weight.shape[0]
    logits = np.broadcast_to(np.zeros((), compute), (*shape[:axis], classes, *shape[axis + 1 :]))
    given = Options(
        *(weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight),
        *(z_loss, softcap, logit_scale, axis, all_ignored),
    )
    arguments = checked(given, logits, axis, target, classes, num_threads)
    options = LinearOptions(
        loss=replace(arguments.options, rank=2, trailing=0),
        compute=compute,
        memory_budget=_checked_budget(fixed(memory_budget, "memory_budget")),
        grad_filter=checks.check_grad_filter(fixed(grad_filter, "grad_filter")),
        moved=axis != hidden.ndim - 1,
    )
    rows_shape = shape[:axis] + shape[axis + 1 :]
    operands = _by_rows(
        hidden, linear_weight, target, linear_bias, arguments, axis, math.prod(rows_shape)
    )
    share_threads()
    loss = linear_loss(options, operands)
    return loss.reshape(rows_shape) if options.loss.reduction == "none" else loss


def _checked_budget(memory_budget: Any) -> float | None:
    """A number that JAX can compare with that of another call; how large is planned later."""
    if memory_budget is None:
        return None
    return checks.check_memory_budget(memory_budget, 0)


def _by_rows(
    hidden: Any,
    linear_weight: Any,
    target: Any,
    linear_bias: Any,
    arguments: Arguments,
    axis: int,
    rows: int,
) -> LinearOperands:
    """The arrays with rows in front; all of them vary along the same axes of a mesh."""
    hidden = jnp.moveaxis(hidden, axis, -1)
    if arguments.hard:
        target = target.reshape(rows)
    else:
        target = jnp.moveaxis(target, axis, -1).reshape(rows, linear_weight.shape[0])
    row_weight = arguments.row_weight
    operands = LinearOperands(
        hidden.reshape(rows, hidden.shape[-1]),
        linear_weight,
        target,
        linear_bias,
        arguments.weight,
        None if row_weight is None else row_weight.reshape(rows),
        arguments.denominator,
    )
    given = {name: x for name, x in operands._asdict().items() if x is not None}
    same, _ = alike(list(given.values()), [])
    return operands._replace(**dict(zip(given, same, strict=True)))
