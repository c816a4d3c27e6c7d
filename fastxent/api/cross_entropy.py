"""The loss, alone and with its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent import checks, on_device
from fastxent.backends import pick
from fastxent.backends.contract import Outputs
from fastxent.interchange import home_of
from fastxent.options import Options
from fastxent.problem import Problem
from fastxent.shortcut import are_defaults, mean_loss
from fastxent.side_outputs import loss_and_aux

__all__ = ["cross_entropy", "cross_entropy_and_grad"]


def cross_entropy(
    logits: Any,
    target: Any,
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
) -> Any:
    """Cross-entropy between the softmax of logits and a target.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Unnormalised scores; C classes along `axis`, every other position is a row. 1-D logits are
        one row. A logit of -inf masks its class. They are never modified. bfloat16 is that of
        ``ml_dtypes``; half precision is computed in float32.
    target : array_like
        Integers of any dtype: class indices, shape of `logits` without `axis`. Floating-point
        numbers (any of the dtypes of `logits`, not only theirs) or bool: probabilities, shape of
        `logits`; rows need not sum to one.
    weight : array_like of shape (C,), optional
        Class weights, finite and not negative.
    ignore_index : int or None, default -100
        Rows with this label count for nothing and their logits are not read. None turns this off.
        Probabilities have no labels: with them a value of 0 or more is an error.
    label_smoothing : float, default 0.0
        Share, in [0, 1], of each row's target mass that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the summed class weights (and sample weights) of the counted rows for
        class indices, and by the number (or sample weights) of rows for probabilities, as
        PyTorch does. "none" gives one loss a row.
    normalizer : float, optional
        Replaces the denominator of the mean, as for gradient accumulation; finite and not
        negative. An error with another reduction.
    sample_weight : array_like, shape of `logits` without `axis`, optional
        Factor of each row's loss, finite and not negative; weight 2 equals the row twice. A row
        whose loss is infinite or NaN makes a sum NaN even with weight 0.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp(z)**2`` to the loss of each row that counts, whatever its class
        weight; not negative. It keeps the normaliser of the softmax near 1 [2]_.
    softcap : float, optional
        Bounds the logits: ``z = softcap * tanh(logit_scale * logits / softcap)``. A logit of -inf
        masks its class all the same.
    logit_scale : float, default 1.0
        Factor of the logits, above 0: an inverse temperature.
    axis : int, default -1
        Where the classes are; any is read where it lies, without a copy.
    all_ignored : {"nan", "zero"}, default "nan"
        Loss of a mean whose denominator is 0; its gradient is 0 in either case.
    aux : iterable of str, default ()
        Side outputs, any of "lse", "log_prob", "argmax", "correct", "entropy", "z_loss", and for
        probabilities "target_grad": see `Aux`. They come from the same pass, but for probabilities
        "log_prob" with `weight` or `label_smoothing` takes one more forward pass, "correct" one
        more read of the target, and "target_grad" writes one more array.
    backend : {"cython", "numba", "numpy", "cuda"}, optional
        By default the first of `fastxent.backends()` that can run. "cuda" copies NumPy arrays to
        the GPU and the results back.
    num_threads : int, optional
        At least 1; by default `fastxent.get_num_threads()`, fewer for small arrays. Without meaning
        for arrays on a GPU.

    Returns
    -------
    loss : numpy scalar or array
        In the dtype of `logits`, float32 for half precision; for ``reduction="none"`` of the shape
        of `logits` without `axis`.
    aux : Aux
        Only where `aux` names something: then loss and side outputs are a tuple.

    Raises
    ------
    LabelError
        A class index is outside [0, C) and not `ignore_index`. Also an ``IndexError``.
    ShapeError, OptionError
        A shape or a value does not fit. Also a ``ValueError``.
    BackendError
        The backend asked for cannot run here. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with. Also a ``TypeError``.

    Notes
    -----
    For a row with class index y, ``loss = -w[y] * log(softmax(logits)[y])``; with smoothing
    e, ``(1 - e)`` of that plus ``-e / C * sum_k w[k] * log(softmax(logits)[k])`` [1]_. A class
    without target mass contributes 0 even where its logit is -inf. A NaN or +inf logit, or a row
    of nothing but -inf, makes the loss of that row NaN.

    Nothing is copied, except logits or probabilities of foreign byte order or of more than four
    row dimensions that do not merge, and labels or weights that are not contiguous.

    Arrays may be NumPy's, or any in the CPU's memory: of PyTorch, JAX, TensorFlow, the Python array
    API standard, or with ``__array_interface__`` or DLPack. They are read where they lie. Results
    are arrays of the library of `logits`, a number is one without dimensions. No derivatives go
    through: `fastxent.torch` and its like do that.

    Arrays on a GPU are computed with there, by the backend "cuda", on their library's current
    stream: those of PyTorch, CuPy, numba.cuda and JAX, or with ``__cuda_array_interface__`` or
    DLPack. `target` and `out` must be on the same GPU; weights and `grad_output` may be the host's,
    and are copied there. The call does not wait (but for a copy of more than 16 MB), so it cannot
    look at numbers there: a bad label
    makes the loss NaN and the gradient of its row 0 (`check_labels` finds it, and waits), and
    weights on the GPU are taken as they are.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
       https://arxiv.org/abs/1512.00567, section 7.
    .. [2] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
       https://arxiv.org/abs/2204.02311, section 5.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> fx.cross_entropy(logits, [1, 0], reduction="none").round(3)
    array([1.417, 2.62 ])
    >>> round(float(fx.cross_entropy(logits, [1, 0])), 3)
    2.019
    >>> loss, aux = fx.cross_entropy(logits, [1, 0], aux=("lse", "correct"))
    >>> aux.lse.round(3), aux.correct
    (array([2.417, 2.72 ]), array([False, False]))
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = (*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    if are_defaults(options):
        plain = mean_loss(logits, target, ignore_index, backend, num_threads, False)
        if plain is not None:
            return plain[0]
    home, named = home_of(logits), Options(*options)
    if home.is_on_device:
        return on_device.cross_entropy(home, target, named, backend, num_threads)
    problem = Problem.of_options(logits, target, named, num_threads)
    chosen = pick(backend, problem)
    loss, asides = loss_and_aux(problem.with_labels(chosen), chosen, Outputs())
    return home.give(loss) if asides is None else (home.give(loss), home.give_each(asides))


def cross_entropy_and_grad(
    logits: Any,
    target: Any,
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
    grad_output: Any = None,
    out: Any = None,
) -> Any:
    """Cross-entropy and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, target, weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, \
z_loss, softcap, logit_scale, axis, all_ignored, aux, backend, num_threads
        As in `cross_entropy`.
    grad_output : float or array_like of the shape of `logits` without `axis`, optional
        Upstream gradient: multiplies the gradient, not the loss.
    out : array, optional
        Where the gradient goes: an array of the shape and dtype of `logits`, of any layout, NumPy's
        or of a library whose arrays can be written to; the same object comes back.
        ``out=logits`` writes it over the logits. A buffer used again saves the first touch of
        fresh memory.

    Returns
    -------
    loss : numpy scalar or array
        As from `cross_entropy`, bit for bit.
    grad : array
        In the shape and dtype of `logits`; `out` if it was given. That of ``reduction="none"``
        is the gradient of the sum of the rows' losses. Ignored rows hold 0. A new array is laid
        out in memory as `logits` are.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`.
    OutputError
        `out` is read-only, or overlaps an input without being exactly the logits. Also a
        ``ValueError``. Nothing has been written to `out` when any of these is raised.

    Notes
    -----
    With t the target mass of a row and T its sum (1 without weights),
    ``grad = (T + 2 * z_loss * lse) * softmax(z) - t``, times ``logit_scale`` and, with a softcap,
    ``1 - (z / softcap)**2``, times sample weight and upstream gradient, over the denominator of the
    mean. For plain class indices this is (softmax - Y) / N. The gradient of probabilities q is
    ``-weight * (1 - label_smoothing) * log_softmax(z)`` with the same factors of the row.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> loss, grad = fx.cross_entropy_and_grad(logits, [1, 0])
    >>> grad.round(2)
    array([[ 0.33, -0.38,  0.05],
           [-0.46,  0.24,  0.22]])
    >>> loss, grad = fx.cross_entropy_and_grad(logits, [1, 0], out=logits)
    >>> grad is logits
    True
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = (*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    if grad_output is None and are_defaults(options):
        plain = mean_loss(logits, target, ignore_index, backend, num_threads, True, out)
        if plain is not None:
            return plain
    home, named = home_of(logits), Options(*options)
    if home.is_on_device:
        rest = num_threads, grad_output, out
        return on_device.cross_entropy_and_grad(home, target, named, backend, *rest)
    into = checks.as_output(out)
    problem = Problem.of_options(logits, target, named, num_threads, grad_output, into)
    chosen = pick(backend, problem)
    problem = problem.with_labels(chosen)
    grad = problem.new_output(into)
    loss, asides = loss_and_aux(problem, chosen, Outputs(grad=grad.rows))
    given = home.give(loss), home.deliver(grad.deliver(), out)
    return given if asides is None else (*given, home.give_each(asides))
