"""The loss of arrays in files, alone and with its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent.on_disk.passes import computed
from fastxent.options import Options

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
    memory_budget: float | None = None,
    progress: bool | None = None,
) -> Any:
    """Cross-entropy between the softmax of logits and a target, as `fastxent.cross_entropy`.

    The rows are read a window at a time.

    Parameters
    ----------
    logits : path, numpy.memmap, or array with ``shape``, ``dtype`` and slices
        A .npy file, or for instance a dataset of h5py. In a file of C order the fewest reads are
        taken with the classes last; any `axis`, Fortran order and foreign byte order can be read.
    target : path, numpy.memmap, or array
        Class indices or probabilities, as in `fastxent.cross_entropy`. Probabilities are read a
        window at a time too. Class indices are read as a whole; a numpy.memmap stays mapped.
    weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap, \
logit_scale, axis, all_ignored, backend, num_threads
        As in `fastxent.cross_entropy`.
    aux : iterable of str, default ()
        Side outputs, as in `fastxent.cross_entropy`, but "target_grad", and for probabilities
        "correct".
    memory_budget : float, optional
        Bytes of the windows: of the logits and probabilities that are in memory at a time. At least
        one row; by default 64 MB, or one row where that is more. It does not count what the "numpy"
        backend computes on the way, some arrays of the size of a window; the pages behind a window
        of a numpy.memmap, which is in memory twice; nor one number a row for class indices,
        `sample_weight` and what is returned so.
    progress : bool, optional
        Whether to draw a bar on stderr, by rich. By default one is drawn if the call takes more
        than two seconds, stderr is a terminal and rich is installed.

    Returns
    -------
    loss : numpy scalar or array
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError
        A class index is outside [0, C) and not `ignore_index`. Also an ``IndexError``.
    ShapeError
        A shape does not fit, or a file is cut off. Also a ``ValueError``.
    OptionError, BackendError
        As in `fastxent.cross_entropy`. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with, or a file that is no .npy file. Also a ``TypeError``.
    OSError
        A file cannot be read.

    Notes
    -----
    Losses of rows and gradients have the bits of the call in memory, and so have a mean or a sum
    with `sample_weight`. Otherwise the sums of the windows are added up in float64, with what each
    addition rounds off kept beside: the last bit of a float64 loss may differ, that of a float32
    loss only where the mean lies halfway between two numbers.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> import fastxent.on_disk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "logits.npy")
    ...     np.save(path, np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]))
    ...     loss = fastxent.on_disk.cross_entropy(path, [1, 0], memory_budget=24)
    >>> round(float(loss), 3)
    2.019
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    rest = backend, num_threads, memory_budget, progress
    return computed(logits, target, options, *rest)


def cross_entropy_and_grad(
    logits: Any,
    target: Any,
    *,
    out: Any,
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
    memory_budget: float | None = None,
    progress: bool | None = None,
) -> Any:
    """Cross-entropy and its gradient with respect to the logits, file to file.

    Parameters
    ----------
    logits, target, weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, \
z_loss, softcap, logit_scale, axis, all_ignored, aux, backend, num_threads, memory_budget, progress
        As in `cross_entropy`.
    out : path, numpy.memmap, or array with ``shape``, ``dtype`` and assignment to slices
        Where the gradient goes: a new .npy file, which gets its name when it is complete (a file
        of that name is replaced then), or an array of the shape and dtype of `logits`, which comes
        to hold it window by window. ``out=logits``, the same path or the same array, writes the
        gradient over the logits.
    grad_output : float or array_like of the shape of `logits` without `axis`, optional
        Upstream gradient: multiplies the gradient, not the loss.

    Returns
    -------
    loss : numpy scalar or array
        As from `cross_entropy`, bit for bit.
    out : path or array
        As it was given.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, BackendError, DTypeError, OSError
        As in `cross_entropy`.
    OutputError
        `out` is a directory, the file of an input without being exactly the logits, or shares
        memory with one. Also a ``ValueError``. Nothing has been written when this or any of the
        above but OSError is raised.

    Notes
    -----
    When a call is broken off, be it by Ctrl-C, a full disk or a crash, the logits are as they were,
    unless they were to be written over: then some rows hold logits and some the gradient. A new
    file is taken away again; only a process that is killed leaves it behind, as
    ``<out>.<16 hexadecimal digits>.part``.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from fastxent.on_disk import cross_entropy_and_grad
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, out = os.path.join(folder, "logits.npy"), os.path.join(folder, "grad.npy")
    ...     np.save(path, np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]))
    ...     loss, _ = cross_entropy_and_grad(path, [1, 0], out=out, memory_budget=24)
    ...     np.load(out).round(2)
    array([[ 0.33, -0.38,  0.05],
           [-0.46,  0.24,  0.22]])
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    rest = backend, num_threads, memory_budget, progress
    return computed(logits, target, options, *rest, grad_output, out, wants_grad=True)
