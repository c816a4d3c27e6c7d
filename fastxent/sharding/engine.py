"""What every engine does: agree on the call, take the local statistics, exchange them.

The engines differ in how ranks speak (`Channel`) and in how the rows of a shard are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastxent import checks
from fastxent.backends import pick
from fastxent.backends.contract import BLOCK
from fastxent.options import Options
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.sharding.agreement import Descriptor, Shards, agree, label_range, told
from fastxent.sharding.exchange import Channel, in_order, reduced
from fastxent.sharding.stats import ShardStats
from fastxent.side_outputs import Aux
from fastxent.version import __version__

__all__ = ["MERGES", "Arguments", "Ranks", "agreed", "names_of", "whole_stats"]

MERGES = ("reduce", "in_order")


class Ranks(Channel, Protocol):
    """A channel that carries descriptors too."""

    def gather_bytes(self, mine: Array) -> Array:
        """Descriptors of all ranks, (ranks, bytes)."""


class Arguments(NamedTuple):
    """The arguments of one rank as arrays of NumPy, which are looked at before anything is sent.

    Attributes
    ----------
    logits : array
        Only its shape and dtype count.
    target : array
    options : Options
    has_values : bool
        Whether `target` and the arrays in `options` hold the caller's numbers; False where those
        are on a GPU and these have their shapes only.
    storage : str or None
        As in `Problem.of_options`.
    backend, num_threads, grad_output, out : object
        The caller's.
    """

    logits: Any
    target: Any
    options: Options
    has_values: bool = True
    storage: str | None = None
    backend: Any = None
    num_threads: Any = None
    grad_output: Any = None
    out: Any = None


def agreed(read: Callable[[], Arguments], merge: Any, ranks: Ranks) -> Shards:
    """Check the arguments of this rank, hear what the others were given, and share the classes.

    Parameters
    ----------
    read : callable
        Reads the arguments of this rank, and may raise.
    merge : {"reduce", "in_order"}
    ranks : Ranks

    Returns
    -------
    Shards

    Raises
    ------
    FastxentError
        On every rank, where the arguments of any are wrong, or those of all do not fit together.
    """
    return agree(lambda: _described(read(), merge), ranks.gather_bytes, ranks.rank)


def _described(given: Arguments, merge: Any) -> Descriptor:
    checks.check_choice(merge, "merge", MERGES)
    options = given.options
    logits = checks.check_logits(given.logits, storage=given.storage)
    classes = logits.shape[checks.check_axis(options.axis, logits, may_be_empty=True)]
    # how many classes there are in all is not known yet: as many as there are weights
    weights = 0 if options.weight is None else np.size(options.weight)
    known = options if weights >= classes else options._replace(weight=None)
    rest = given.num_threads, given.grad_output, checks.as_output(given.out), given.storage
    problem = Problem.of_options(
        logits, given.target, known, *rest, shard=(0, max(weights, classes, 1))
    )
    checks.check_aux_of_stats(problem.asked)
    assert problem.reduction is not None
    labels = None
    shared = {
        "the shape of the rows": str(problem.reduction.rows_shape),
        "the dtype of the logits": problem.precision.kind,
        "target": "probabilities" if problem.target is None else "class indices",
    }
    for name, value in options._asdict().items():
        if name != "axis":
            shared[name] = told(_plain(value))
    # the names of a set come in an order of each process's own
    shared["aux"] = told(tuple(name for name in Aux._fields if name in problem.asked))
    shared["grad_output"] = told(_plain(given.grad_output))
    shared["merge"] = merge
    shared["the version of fastxent"] = __version__
    if given.has_values:
        pick(given.backend, problem, "partial")
        if problem.target is not None:
            labels = label_range(problem.target, problem.skip)
            shared["the labels in target"] = told(problem.target)
    return Descriptor(problem.classes, labels, shared)


def names_of(aux: Any) -> Any:
    """The names in `aux`, to be looked at more than once: an iterator would be empty then."""
    if isinstance(aux, str):
        return aux
    try:
        return tuple(aux)
    except TypeError:
        return aux  # for the check that says what is wrong with it


def _plain(value: Any) -> Any:
    """An option as text can tell it: an array, a number, a word, or a tuple of names."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return np.asarray(value)


def whole_stats(
    shards: Shards,
    merge: str,
    channel: Channel,
    partial: Callable[..., ShardStats],
    merged: Callable[..., ShardStats],
) -> ShardStats:
    """Statistics of all classes, the same on every rank.

    Parameters
    ----------
    shards : Shards
    merge : {"reduce", "in_order"}
    channel : Channel
    partial : callable
        The statistics of this rank; takes `class_offset`, `num_classes` and `by_block`.
    merged : callable
        `fastxent.merge_stats`.
    """
    by_block = merge == "in_order" and shards.begin_at_multiples_of(BLOCK)
    stats = partial(**shards.place(), by_block=by_block)
    if merge == "reduce":
        return reduced(stats, shards, channel)
    return in_order(stats, shards, channel, by_block, merged)
