"""The loss behind a linear layer, alone and with its gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent import checks
from fastxent.backends import pick
from fastxent.interchange import home_of
from fastxent.linear import GRADS, LinearGrads, LinearProblem, loss_grads_and_aux
from fastxent.options import Options

__all__ = ["linear_cross_entropy", "linear_cross_entropy_and_grad"]


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
    normalizer: float | None = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    memory_budget: float | None = None,
    grad_filter: float | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy of ``hidden @ linear_weight.T + linear_bias``, never holding all these logits.

    Parameters
    ----------
    hidden : array_like of float16, bfloat16, float32 or float64
        Vectors of D features along `axis`; every other position is a row. 1-D is one row.
    linear_weight : array_like of shape (C, D)
        A row of features a class; of any of these dtypes, not only that of `hidden`.
    target : array_like
        As in `cross_entropy`: class indices of the shape of `hidden` without `axis`, or
        probabilities of the logits' shape, which is that of `hidden` with C in the place of D.
    linear_bias : array_like of shape (C,), optional
        Added to the logits of each row; of any of these dtypes. -inf masks its class.
    weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap, \
logit_scale, all_ignored, aux
        As in `cross_entropy`. Rows with the label `ignore_index` are not multiplied at all.
    axis : int, default -1
        Where the features are in `hidden`, and the classes in probabilities.
    memory_budget : float, optional
        Bytes for everything that the call holds for a while, beside its arguments, its results and
        what copies of arguments other libraries need; by default 64e6, or what one row takes where
        that is more. Fewer bytes make smaller chunks of rows, and slower products; the last bits
        of the gradients follow from the chunks, which are the same on every machine.
    grad_filter : float, optional
        For `linear_cross_entropy_and_grad`; without a gradient there is nothing to leave out.
    backend
        As in `cross_entropy`.
    num_threads : int, optional
        As in `cross_entropy`, but fewer where `memory_budget` has no room for what each thread of
        the loss kernel holds; no bit depends on it. The products are those of NumPy's BLAS, whose
        threads are its own.

    Returns
    -------
    loss : numpy scalar or array
        float64 if `hidden`, `linear_weight` or `linear_bias` are, float32 otherwise; for
        ``reduction="none"`` of the shape of `hidden` without `axis`.
    aux : Aux
        Only where `aux` names something: then loss and side outputs are a tuple.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError
        As in `cross_entropy`; an OptionError for a `memory_budget` without room for a row of
        logits too.
    BackendError
        The backend asked for cannot run here, or an array is on a GPU.

    Notes
    -----
    Logits are computed in float32, or float64 if any array is float64, and never rounded to half
    precision. N x C logits are never there: a chunk of rows is multiplied, its loss is taken, and
    its memory used again.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> hidden = np.array([[1.0, 0.0], [0.5, 2.0]])
    >>> linear_weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> round(float(fx.linear_cross_entropy(hidden, linear_weight, [0, 1])), 4)
    0.9585
    >>> round(float(fx.cross_entropy(hidden @ linear_weight.T, [0, 1])), 4)
    0.9585
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    arrays = {"hidden": hidden, "linear_weight": linear_weight, "target": target}
    checks.check_on_host({**arrays, "linear_bias": linear_bias})
    call = LinearProblem.build(
        *(hidden, linear_weight, target, linear_bias, options),
        memory_budget=memory_budget,
        grad_filter=grad_filter,
        num_threads=num_threads,
    )
    home = home_of(hidden)
    loss, _, asides = loss_grads_and_aux(call, pick(backend, call.problem))
    return home.give(loss) if asides is None else (home.give(loss), home.give_each(asides))


def linear_cross_entropy_and_grad(
    hidden: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
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
    memory_budget: float | None = None,
    grad_filter: float | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
    grad_output: Any = None,
    grads: Iterable[str] = GRADS,
    out: Any = None,
) -> Any:
    """Cross-entropy of a linear layer's logits and its gradients, never holding all these logits.

    Parameters
    ----------
    hidden, linear_weight, target, linear_bias, weight, ignore_index, label_smoothing, reduction, \
normalizer, sample_weight, z_loss, softcap, logit_scale, axis, all_ignored, aux, memory_budget, \
backend, num_threads
        As in `linear_cross_entropy`.
    grad_filter : float, optional
        Leaves classes out of the products of a chunk of rows where all entries of the logits'
        gradient are smaller than this, before the factors of the rows (1/N of the mean,
        `sample_weight`, `grad_output`). The gradient of `linear_weight` is then off by no more
        than ``grad_filter`` times the sum of the rows' sizes and factors, that of `hidden` by
        ``grad_filter`` times the row's factor and the summed sizes of the weights left out.
    grad_output : float or array_like of the shape of `hidden` without `axis`, optional
        Upstream gradient: multiplies the gradients, not the loss.
    grads : iterable of str, default ("hidden", "linear_weight", "linear_bias")
        Which gradients to compute; the products of the others are not made.
    out : LinearGrads, optional
        Memory for gradients, None for each that is to be new: arrays of the shape and dtype of
        `hidden`, `linear_weight` and `linear_bias`. That of `hidden` may be `hidden` itself.

    Returns
    -------
    loss : numpy scalar or array
        As from `linear_cross_entropy`.
    grads : LinearGrads
        Each in the shape and dtype of its array, and laid out like it; None for what was declined,
        and for a bias that was not given.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `linear_cross_entropy`.
    OutputError
        A buffer of `out` is read-only, or shares memory with an input or another buffer. Nothing
        has been written to `out` when any of these is raised.

    Notes
    -----
    With G the gradient of the logits, those of `hidden`, `linear_weight` and `linear_bias` are
    ``G @ linear_weight``, ``G.T @ hidden`` and ``G.sum(axis=0)``; sums over rows are added up in
    the dtype that computes, and rounded once to that of their array.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> hidden = np.array([[1.0, 0.0], [0.5, 2.0]])
    >>> linear_weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> loss, grads = fx.linear_cross_entropy_and_grad(hidden, linear_weight, [0, 1])
    >>> grads.hidden.round(3)
    array([[-0.078,  0.289],
           [ 0.326, -0.039]])
    >>> grads.linear_bias is None
    True
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    buffers = out if isinstance(out, tuple) else ()
    arrays = {"hidden": hidden, "linear_weight": linear_weight, "target": target}
    places = {f"out[{at}]": one for at, one in enumerate(buffers)}
    checks.check_on_host({**arrays, "linear_bias": linear_bias, **places})
    call = LinearProblem.build(
        *(hidden, linear_weight, target, linear_bias, options),
        memory_budget=memory_budget,
        grad_filter=grad_filter,
        num_threads=num_threads,
        grad_output=grad_output,
        grads=grads,
        out=out,
    )
    home = home_of(hidden)
    loss, found, asides = loss_grads_and_aux(call, pick(backend, call.problem))
    given = LinearGrads(
        *(
            None if grad is None else home.deliver(grad, into)
            for grad, into in zip(found, buffers or (None,) * len(found), strict=True)
        )
    )
    if asides is None:
        return home.give(loss), given
    return home.give(loss), given, home.give_each(asides)
