"""The public functions of the binary loss: docstring, `BinaryCall.build`, pick a backend, run."""

from __future__ import annotations

from typing import Any

from fastxent import checks, on_device
from fastxent.backends import pick
from fastxent.binary import BinaryCall
from fastxent.interchange import home_of

__all__ = ["binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_and_grad"]


def binary_cross_entropy_with_logits(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy between the sigmoid of logits and targets that are each 0, 1 or in between.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Scores of any shape; each is a choice of its own between 0 and 1. Never modified. bfloat16
        is that of the package ml_dtypes; half precision is computed with in float32.
    target : array_like, shape of `logits`
        Floating-point numbers: the probability of 1, not checked. Integers and booleans: 0 or 1.
    weight : array_like, optional
        Factor of each element's loss, broadcast to the shape of `logits`; finite, not negative.
        In another dtype than the one that computes (float64 for float64 logits, else float32) it
        is converted first, to a new array of its own size.
    pos_weight : array_like, optional
        Factor of the loss of the 1, broadcast and converted likewise: above 1 it weighs recall
        more, below 1 precision.
    label_smoothing : float, default 0.0
        Share e, in [0, 1], of each target that is spread evenly: target * (1 - e) + e / 2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is over all elements, whatever their weights, as PyTorch's. "none" gives one
        loss an element.
    backend : {"cython", "numba", "numpy", "cuda"}, optional
        By default the first of `fastxent.backends()` that can run. "cuda" copies NumPy arrays to
        the GPU and the results back.
    num_threads : int, optional
        At least 1; by default `fastxent.get_num_threads()`, fewer for small arrays. Without meaning
        for arrays on a GPU.

    Returns
    -------
    numpy scalar or array
        float32, or float64 for float64 logits; of the shape of `logits` for ``reduction="none"``.
        The mean of no elements is NaN.

    Raises
    ------
    LabelError
        An integer target is neither 0 nor 1. Also an ``IndexError``.
    ShapeError, OptionError
        A shape or a value does not fit. Also a ``ValueError``.
    BackendError
        The backend asked for cannot run here. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with. Also a ``TypeError``.

    Notes
    -----
    With y the target and v its `pos_weight`, ``loss = v * y * log(1 + exp(-x)) + (1 - y) *
    log(1 + exp(x))``, which is ``-v * y * log(sigma(x)) - (1 - y) * log(1 - sigma(x))``, computed
    without overflow or cancellation for any x. A side without mass contributes 0 even where its
    logarithm is infinite. It equals the `cross_entropy` of the two logits ``[0, x]``.

    Arrays of other libraries are taken and given back as in `cross_entropy`. On a GPU an integer
    target that is neither 0 nor 1 gives NaN and a gradient of 0, and factors have to be of the
    dtype that computes.

    Examples
    --------
    >>> import fastxent as fx
    >>> round(float(fx.binary_cross_entropy_with_logits([0.5, -1.0, 3.0], [1, 0, 0])), 4)
    1.2786
    >>> fx.binary_cross_entropy_with_logits([1e4, -1e4], [0, 0], reduction="none")
    array([10000.,     0.])
    """
    options = {
        "weight": weight,
        "pos_weight": pos_weight,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "num_threads": num_threads,
    }
    home = home_of(logits)
    if home.is_on_device:
        return on_device.binary_cross_entropy_with_logits(home, target, options, backend)
    call = BinaryCall.build(logits, target, **options)
    loss, _ = call.run(pick(backend), wants_grad=False)
    return home.give(loss)


def binary_cross_entropy_with_logits_and_grad(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
    num_threads: int | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> tuple[Any, Any]:
    """Binary cross-entropy and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, target, weight, pos_weight, label_smoothing, reduction, backend, num_threads
        As in `binary_cross_entropy_with_logits`.
    grad_output : float or array_like of the shape of `logits`, optional
        Upstream gradient: multiplies the gradient, not the loss. An array is converted as `weight`
        is, and for the mean divided by the number of elements, each into a new array.
    out : array, optional
        Where the gradient goes: an array of the shape and dtype of `logits`, NumPy's or of a
        library whose arrays can be written to; the same object comes back. ``out=logits`` writes
        it over the logits. A buffer used again saves the first touch of fresh memory.

    Returns
    -------
    loss : numpy scalar or array
        As from `binary_cross_entropy_with_logits`, bit for bit.
    grad : array
        In the shape and dtype of `logits`; `out` if it was given. That of ``reduction="none"``
        is the gradient of the sum of the losses.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `binary_cross_entropy_with_logits`.
    OutputError
        `out` is read-only, or overlaps an input without being exactly the logits. Also a
        ``ValueError``. Nothing has been written to `out` when any of these is raised.

    Notes
    -----
    Without weights, ``grad = sigma(logits) - target``, over the number of elements for the mean;
    at a target of 1 it is computed as ``-sigma(-logits)``, which keeps its digits for large logits.

    Examples
    --------
    >>> import fastxent as fx
    >>> loss, grad = fx.binary_cross_entropy_with_logits_and_grad(
    ...     [0.0, 2.0, 100.0], [1, 0, 1], reduction="sum"
    ... )
    >>> grad
    array([-5.00000000e-01,  8.80797078e-01, -3.72007598e-44])
    """
    options = {
        "weight": weight,
        "pos_weight": pos_weight,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "num_threads": num_threads,
        "grad_output": grad_output,
    }
    home = home_of(logits)
    if home.is_on_device:
        compute = on_device.binary_cross_entropy_with_logits_and_grad
        return compute(home, target, options, backend, out)
    call = BinaryCall.build(logits, target, **options, out=checks.as_output(out))
    loss, grad = call.run(pick(backend), wants_grad=True)
    assert grad is not None
    return home.give(loss), home.deliver(grad, out)
