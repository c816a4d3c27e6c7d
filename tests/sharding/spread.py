"""One call of the loss, spread over shards, and what the tests hold it against."""

import inspect
from itertools import pairwise

import numpy as np

import fastxent as fx
from fastxent.comparison import compare_aux, compare_loss_and_grad


def edges_of(classes, shards, multiple=1):
    """Where the classes are cut: as even as can be, for more than two shards one of them empty."""
    cuts = [classes * at // shards // multiple * multiple for at in range(1, shards)]
    if shards > 2:
        cuts[-1] = cuts[-2]
    return [0, *cuts, classes]


def call(function, *arguments, options):
    """Call with those options that the function has."""
    names = inspect.signature(function).parameters
    return function(*arguments, **{name: options[name] for name in options if name in names})


def part_of(array, axis, begin, end):
    """Classes of an array, as a view."""
    at = [slice(None)] * array.ndim
    at[axis] = slice(begin, end)
    return array[tuple(at)]


def spread(logits, target, options, edges, order=None, in_place=False, **more):
    """Loss, gradient and side outputs, from shards that begin and end at the `edges`."""
    options = {**options, **more}
    axis = options.get("axis", -1)
    is_hard = target.dtype.kind in "iu"
    num_classes = logits.shape[axis]

    def shard_of(begin, end, array=logits):
        here = target if is_hard else part_of(target, axis, begin, end)
        where = {"class_offset": begin, "num_classes": num_classes}
        return part_of(array, axis, begin, end), here, {**options, **where}

    shards = []
    for begin, end in pairwise(edges):
        x, y, given = shard_of(begin, end)
        shards.append(call(fx.partial_stats, x, y, options=given))
    stats = fx.merge_stats(*(shards[at] for at in order or range(len(shards))))
    of_all = {**options, "num_classes": num_classes}
    loss = call(fx.loss_from_stats, stats, target, options=of_all)
    loss, aux = loss if options.get("aux") else (loss, None)
    grad = logits.copy(order="K")
    if not in_place:
        grad[...] = np.nan
    for begin, end in pairwise(edges):
        x, y, given = shard_of(begin, end, grad if in_place else logits)
        out = x if in_place else part_of(grad, axis, begin, end)
        back = call(fx.grad_from_stats, x, y, stats, options={**given, "out": out})
        assert back is out
    return loss, grad, aux


def wide(dtype):
    """Dtype of the loss."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize < 4 else np.dtype(dtype)


def assert_within(found, expected, units, scale=None):
    """Within so many units in the last place, of the number's own size or `scale`, at least 1."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    unit = np.finfo(wide(found.dtype)).eps if found.dtype.itemsize >= 4 else None
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    size = np.maximum(np.abs(expected), 1) if scale is None else scale
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0, np.abs(found - expected) / size) / unit
    assert np.all(error <= units), f"{np.nanmax(error)} units in the last place"


def assert_is_truth(results, logits, target, options, asked=()):
    """What one call is held against in tests/test_conformance.py."""
    loss, grad, aux = results
    of_aux = {name: getattr(aux, name) for name in asked} if asked else {}
    plain = {name: value for name, value in options.items() if name != "aux"}
    for comparison in (
        *compare_loss_and_grad(loss, grad, logits, target, plain),
        *compare_aux(of_aux, logits, target, plain),
    ):
        assert comparison.passed, str(comparison)
