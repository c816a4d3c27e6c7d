"""The loss where classes are spread over processes: each has a shard of every row's logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastxent import checks, on_device, sharding
from fastxent.interchange import home_of
from fastxent.options import Options
from fastxent.sharding import ShardStats

__all__ = ["grad_from_stats", "loss_from_stats", "merge_stats", "partial_stats"]


def partial_stats(
    logits: Any,
    target: Any,
    *,
    class_offset: int,
    num_classes: int,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    aux: Iterable[str] = (),
    by_block: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> ShardStats:
    """What rows hand up of a shard of their classes: the first step of a loss over shards.

    The logits are read once, or twice where `aux` names the "log_prob" of probabilities that have
    class weights or label smoothing. What comes back has a few numbers a row, whatever the number
    of classes: they are what processes exchange.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Logits of the classes ``[class_offset, class_offset + C)``, which lie along `axis`; C may
        be 0.
    target : array_like
        Integers: class indices that count from the first of all classes, the same for every shard.
        Floating-point numbers or bool: probabilities of the classes of these logits.
    class_offset : int
        Where the classes of these logits begin.
    num_classes : int
        Of how many classes in all.
    weight : array_like of shape (num_classes,), optional
        Class weights, of all classes.
    ignore_index, label_smoothing, softcap, logit_scale, axis, backend, num_threads
        As in `cross_entropy`. Smoothing is over all classes.
    aux : iterable of str, default ()
        What `loss_from_stats` will be asked for; "target_grad" cannot be had.
    by_block : bool, default False
        Keep one part for every 1,024 classes, that the loss and gradient have the bits of a call
        that has all classes (`loss_from_stats`). Then `class_offset` must be a multiple of 1,024.

    Returns
    -------
    ShardStats
        Of one part, or with `by_block` one for every 1,024 classes; of no part without classes.

    Raises
    ------
    LabelError
        A class index is outside ``[0, num_classes)`` and not `ignore_index`.
    ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`; or the classes do not lie in ``[0, num_classes)``.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> shards = [
    ...     fx.partial_stats(logits[:, :2], [1, 0], class_offset=0, num_classes=3),
    ...     fx.partial_stats(logits[:, 2:], [1, 0], class_offset=2, num_classes=3),
    ... ]
    >>> stats = fx.merge_stats(*shards)
    >>> round(float(fx.loss_from_stats(stats, [1, 0], num_classes=3)), 3)
    2.019
    """
    options = Options(
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        softcap=softcap,
        logit_scale=logit_scale,
        axis=axis,
        aux=aux,
    )
    home = home_of(logits)
    rest = target, options, (class_offset, num_classes), by_block, backend, num_threads
    if home.is_on_device:
        return on_device.partial_stats(home, *rest)
    return sharding.given(home, sharding.stats_of(logits, *rest))


def merge_stats(*stats: ShardStats) -> ShardStats:
    """Statistics of several shards as one: associative, and in any order.

    Parameters
    ----------
    *stats : ShardStats
        Of the same rows, of classes that do not overlap, made with the same options.

    Returns
    -------
    ShardStats
        Parts in class order. Where all are `by_block` they are put together as they are, and
        nothing is rounded; else runs of classes that touch become one part, in float64.
        Statistics on a GPU are merged on the host: this waits for the GPU, where `partial_stats`,
        `loss_from_stats` and `grad_from_stats` do not.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Rows, dtypes or fields differ, or classes overlap.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.zeros((1, 4))
    >>> shards = [
    ...     fx.partial_stats(logits[:, k : k + 2], [3], class_offset=k, num_classes=4)
    ...     for k in (0, 2)
    ... ]
    >>> merged = fx.merge_stats(*shards)
    >>> merged.sum, merged.classes
    (array([[4.]]), (4,))
    """
    home = home_of(getattr(stats[0], "max", None)) if stats else home_of(None)
    if home.is_on_device:
        return on_device.merge_stats(home, stats)
    return sharding.given(home, sharding.merged(checks.check_mergeable(stats, ShardStats)))


def loss_from_stats(
    stats: ShardStats,
    target: Any,
    *,
    num_classes: int,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    axis: int = -1,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy from the merged statistics of all classes.

    Parameters
    ----------
    stats : ShardStats
        Of all `num_classes` classes, as `merge_stats` gives it.
    target : array_like
        As in `partial_stats`: class indices, or the probabilities of any shard.
    num_classes : int
        How many classes there are in all.
    weight, ignore_index, label_smoothing, axis
        The same as in `partial_stats`.
    reduction, normalizer, sample_weight, z_loss, all_ignored, backend, num_threads
        As in `cross_entropy`. The mean's denominator is that of all rows of `target`.
    aux : iterable of str, default ()
        As in `cross_entropy`; `partial_stats` must have been asked for the same names, but for
        "lse" and "z_loss". "target_grad" cannot be had, and "correct" of probabilities only where
        `target` has those of all classes, and is not on a GPU.

    Returns
    -------
    loss : numpy scalar or array
        As from `cross_entropy`: equal to the loss of a call with all classes within a few
        roundings, and with statistics `by_block` bit for bit, by the compiled backends, where that
        call has more than 100 classes along the last axis.
    aux : Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`; or `stats` lack classes, or were made with another kind of target.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> stats = fx.partial_stats(np.zeros((1, 4)), [3], class_offset=0, num_classes=4)
    >>> round(float(fx.loss_from_stats(stats, [3], num_classes=4)), 4)
    1.3863
    """
    options = Options(
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        sample_weight=sample_weight,
        z_loss=z_loss,
        axis=axis,
        all_ignored=all_ignored,
        aux=aux,
    )
    home = home_of(getattr(stats, "max", None))
    given = stats, target, options, num_classes, backend, num_threads
    if home.is_on_device:
        return on_device.loss_from_stats(home, *given)
    loss, asides = sharding.loss_of(*given)
    return home.give(loss) if asides is None else (home.give(loss), home.give_each(asides))


def grad_from_stats(
    logits: Any,
    target: Any,
    stats: ShardStats,
    *,
    class_offset: int,
    num_classes: int,
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
    backend: str | None = None,
    num_threads: int | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> Any:
    """Gradient of a shard's logits from the merged statistics of all classes.

    Nothing is exchanged: each process computes that of its own classes.

    Parameters
    ----------
    logits, target, class_offset, num_classes
        The same as in `partial_stats`.
    stats : ShardStats
        Of all `num_classes` classes, as `merge_stats` gives it.
    weight, ignore_index, label_smoothing, softcap, logit_scale, axis
        The same as in `partial_stats`.
    reduction, normalizer, sample_weight, z_loss, all_ignored
        The same as in `loss_from_stats`.
    backend, num_threads, grad_output, out
        As in `cross_entropy_and_grad`.

    Returns
    -------
    grad : array
        In the shape and dtype of `logits`: what `cross_entropy_and_grad` gives these classes among
        all, within a few roundings; bit for bit where the loss is (`loss_from_stats`).

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError, OutputError
        As in `cross_entropy_and_grad`, `partial_stats` and `loss_from_stats`.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.zeros((1, 4))
    >>> stats = fx.partial_stats(logits, [3], class_offset=0, num_classes=4)
    >>> fx.grad_from_stats(logits[:, 2:], [3], stats, class_offset=2, num_classes=4)
    array([[ 0.25, -0.75]])
    """
    options = Options(
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        sample_weight=sample_weight,
        z_loss=z_loss,
        softcap=softcap,
        logit_scale=logit_scale,
        axis=axis,
        all_ignored=all_ignored,
    )
    home = home_of(logits)
    shard = class_offset, num_classes
    rest = backend, num_threads, grad_output, out
    if home.is_on_device:
        return on_device.grad_from_stats(home, target, stats, options, shard, *rest)
    return home.deliver(sharding.grad_of(logits, target, stats, options, shard, *rest), out)
