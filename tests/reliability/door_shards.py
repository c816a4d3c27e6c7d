"""Any calls of the loss whose classes are spread over shards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent import reference
from fastxent.comparison import compare_loss_and_grad
from reliability.door_calls import (
    JUNK,
    Source,
    class_place,
    classes_of,
    draw_logits,
    draw_options,
    draw_target,
)
from reliability.door_checks import (
    FEW_CLASSES,
    is_finite,
    is_known,
    known_to,
    overflows,
    require,
    require_same_bits,
    tried,
)
from reliability.door_losses import hold_aux, of_reference

__all__ = ["shards"]

Array = NDArray[Any]
BLOCK = 1024  # classes that kernels add up together


def _part(array: Any, axis: Any, begin: int, end: int) -> Any:
    if not isinstance(array, np.ndarray) or not array.ndim:
        return array
    at: list[Any] = [slice(None)] * array.ndim
    at[class_place(array.shape, axis)] = slice(begin, end)
    return array[tuple(at)]


def _draw_edges(source: Source, logits: Any, axis: Any, by_block: Any) -> list[int]:
    """Where shards begin and end; what is no array is one shard."""
    classes = classes_of(logits, axis)
    if not isinstance(logits, np.ndarray) or not logits.ndim:
        return [0, classes]
    cuts = [int(source.numbers.integers(classes + 1)) for _ in range(source.below(4))]
    if by_block is True:
        cuts = [cut // BLOCK * BLOCK for cut in cuts]
    return [0, *sorted(cuts), classes]


def shards(source: Source) -> None:
    """`partial_stats` of each shard, `merge_stats`, `loss_from_stats` and `grad_from_stats`."""
    logits, wild = draw_logits(source)
    axis = source.one_of((-1, -1, 0, 1, 7))
    target = draw_target(source, logits, axis, wild)
    options = draw_options(source, logits, axis) | {"axis": axis}
    if isinstance(options.get("aux"), tuple) and not source.chance(12):
        # of which statistics know nothing
        options["aux"] = tuple(name for name in options["aux"] if name != "target_grad")
    options["backend"] = source.one_of(("cython", "cython", "cython", "numpy"))
    by_block = source.one_of((False, False, True, False, True, source.one_of(JUNK)))
    runs = list(pairwise(_draw_edges(source, logits, axis, by_block)))
    classes = classes_of(logits, axis) if not source.chance(30) else source.one_of(JUNK)
    is_soft = np.shape(target) == np.shape(logits) and np.asarray(target).dtype.kind not in "iu"
    given, given_target = np.array(logits), np.array(target)
    of_shards = [
        (
            _part(logits, axis, *run),
            _part(target, axis, *run) if is_soft else target,
            run[0] if not source.chance(60) else source.one_of((1, *JUNK)),
        )
        for run in runs
    ]
    everything = options | {"num_classes": classes, "by_block": by_block}
    partial = known_to(fx.partial_stats, everything)
    stats = [
        tried(fx.partial_stats, some, of_some, class_offset=offset, **partial)
        for some, of_some, offset in of_shards
    ]
    if source.chance(30):
        stats.append(source.one_of((stats[0], source.one_of(JUNK))))
    merged = tried(fx.merge_stats, *(stats[at] for at in source.numbers.permutation(len(stats))))
    if source.chance(15):  # what statistics do not depend on
        name = source.one_of(("reduction", "normalizer", "sample_weight", "z_loss", "num_classes"))
        everything[name] = source.one_of(JUNK)
        options |= {name: everything[name]} if name != "num_classes" else {}
    if source.chance(60):
        merged = source.one_of(JUNK)
    value = tried(fx.loss_from_stats, merged, target, **known_to(fx.loss_from_stats, everything))
    value, *more = value if isinstance(value, tuple) else (value,)
    grad = np.empty(given.shape, given.dtype)
    for run, (some, of_some, offset) in zip(runs, of_shards, strict=True):
        into = _part(grad, axis, *run) if isinstance(logits, np.ndarray) else None
        found = tried(
            *(fx.grad_from_stats, some, of_some, merged),
            class_offset=offset,
            out=into,
            **known_to(fx.grad_from_stats, everything),
        )
        grad = found if into is None else grad
    if not is_known(given, wild) or not is_finite(given_target):
        return
    if given_target.dtype.kind == "f" and given_target.shape != given.shape:
        return  # it fits each shard: the probabilities of its own classes
    known = of_reference(options)
    if overflows(given, reference.cross_entropy_and_grad(given, given_target, **known)):
        return
    require(compare_loss_and_grad(value, grad, given, given_target, known))
    for asides in more:
        hold_aux(asides, given, given_target, known)
    is_last = axis in (-1, given.ndim - 1)
    if by_block is True and options["backend"] == "cython" and is_last and classes > FEW_CLASSES:
        options.pop("aux", None)
        single = fx.cross_entropy_and_grad(given, given_target, **options)
        require_same_bits("the loss of shards, of a single call", value, single[0])
        require_same_bits("the gradient of shards, of a single call", grad, single[1])
