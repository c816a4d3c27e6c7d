"""The loss of chunked arrays, alone and with its gradient: dask arrays in, lazily out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent.dask.operands import Operands, operands_of
from fastxent.dask.split_rows import of_split_rows
from fastxent.dask.whole_rows import of_whole_rows
from fastxent.options import Options
from fastxent.side_outputs import Aux

__all__ = ["cross_entropy", "cross_entropy_and_grad"]


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
    aux: Iterable[str] = (),
    backend: str | None = None,
    num_threads: int | None = 1,
) -> Any:
    """Cross-entropy between the softmax of logits and a target, as `fastxent.cross_entropy`.

    Nothing is computed by the call: arguments are checked as far as they are known, and what comes
    back is a dask array.

    Parameters
    ----------
    logits : dask array of float16, bfloat16, float32 or float64
        Unnormalised scores; C classes along `axis`, every other position is a row. Blocks of whole
        rows are best; they may be split along any axis.
    target : dask array or array_like
        Integers: class indices, shape of `logits` without `axis`. Floating-point numbers or bool:
        probabilities, shape of `logits`. Blocks other than those of `logits` are rechunked, an
        array in memory is cut.
    weight, ignore_index, label_smoothing, reduction, z_loss, softcap, logit_scale, axis, \
all_ignored
        As in `fastxent.cross_entropy`: no dask arrays.
    normalizer : float or dask array without axes, optional
        Replaces the denominator of the mean.
    sample_weight : dask array or array_like, shape of `logits` without `axis`, optional
        Factor of each row's loss.
    aux : iterable of str, default ()
        Side outputs, as in `fastxent.cross_entropy`: dask arrays too.
    backend : str, optional
        By default that of `fastxent.use_backend` where this is called, else the first that runs
        here: one for all blocks, wherever they are computed.
    num_threads : int or None, default 1
        Threads for each block. Dask's threads and processes compute a block on each core already;
        with ``scheduler="synchronous"``, or few large blocks, give more. None is the default of
        `fastxent.cross_entropy`: as many as a block is worth, up to `fastxent.get_num_threads()`.

    Returns
    -------
    loss : dask array
        Without axes, or for ``reduction="none"`` one loss a row in the blocks of the rows; of the
        dtype of `logits`, float32 for half precision.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    ShapeError, OptionError
        A shape or a value does not fit, or blocks have unknown sizes. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with; `logits` are no dask array, or an option is one. Also a
        ``TypeError``.
    BackendError
        The backend cannot run here. Also a ``ValueError``.
    LabelError
        When it is computed: a class index is outside [0, C) and not `ignore_index`. The message
        names the row of the whole array. Also an ``IndexError``.

    Numbers in dask arrays are looked at when they are computed, and the errors of a bad
    `sample_weight`, `normalizer` or `grad_output` come then.

    Notes
    -----
    ``reduction="none"`` and gradients have the bits of the call in memory, whatever the blocks. So
    does the mean's denominator, unless weights are added up for it: then it differs by the order of
    a float64 sum, and so does the gradient. Losses of rows are added up in float64, with what each
    addition rounds off kept beside. So a mean or a sum in float32 is that of the call in memory,
    but where it lies halfway between two numbers; in float64 the last bits may differ.

    Classes may be split into blocks too (`fastxent.partial_stats`, `fastxent.merge_stats`): then
    the logits are read twice for a gradient, and results differ by a few roundings. Where blocks
    begin at multiples of 1,024 classes, the compiled backends give the bits of whole rows all the
    same. The side output "target_grad", and "correct" of probabilities, need whole rows.

    A bar for long computations is Dask's: ``with dask.diagnostics.ProgressBar(): loss.compute()``.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastxent.dask
    >>> logits = da.from_array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], chunks=(1, 3))
    >>> loss = fastxent.dask.cross_entropy(logits, [1, 0])
    >>> loss.shape, loss.dtype
    ((), dtype('float64'))
    >>> round(float(loss.compute()), 3)
    2.019
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    loss, _, side = _lazily(operands_of(logits, target, options, backend, num_threads))
    return loss if side is None else (loss, side)


def cross_entropy_and_grad(
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
    aux: Iterable[str] = (),
    backend: str | None = None,
    num_threads: int | None = 1,
    grad_output: Any = None,
) -> Any:
    """Cross-entropy and its gradient with respect to the logits, lazily, from one pass.

    Parameters
    ----------
    logits, target, weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, \
z_loss, softcap, logit_scale, axis, all_ignored, aux, backend, num_threads
        As in `cross_entropy`.
    grad_output : float, dask array or array_like of the shape of `logits` without `axis`, optional
        Upstream gradient: multiplies the gradient, not the loss.

    Returns
    -------
    loss : dask array
        As from `cross_entropy`.
    grad : dask array
        In the blocks, the shape and the dtype of `logits`.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    ShapeError, OptionError, DTypeError, LabelError
        As in `cross_entropy`.

    Notes
    -----
    Loss and gradient that are computed together, as by ``dask.compute(loss, grad)`` or
    ``da.store``, come from one pass over each block; computed one after the other, from one pass
    each. A gradient larger than memory goes to a file block by block: ``da.to_zarr``,
    ``da.to_hdf5``, ``da.store``.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> import fastxent.dask
    >>> logits = da.from_array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], chunks=(1, 3))
    >>> loss, grad = dask.compute(*fastxent.dask.cross_entropy_and_grad(logits, [1, 0]))
    >>> grad.round(2)
    array([[ 0.33, -0.38,  0.05],
           [-0.46,  0.24,  0.22]])
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    operands = operands_of(
        logits, target, options, backend, num_threads, grad_output, wants_grad=True
    )
    loss, grad, side = _lazily(operands)
    return (loss, grad) if side is None else (loss, grad, side)


def _lazily(operands: Operands) -> tuple[Any, Any, Aux | None]:
    is_split = operands.logits.numblocks[operands.axis] > 1
    return of_split_rows(operands) if is_split else of_whole_rows(operands)
