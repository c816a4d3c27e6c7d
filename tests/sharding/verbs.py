"""A loss over shards of the classes, by the verbs of a backend."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from fastxent.backends.contract import BLOCK, Outputs, PartialSums


def part_of(problem, begin, end):
    """The problem of some of the classes."""

    def here(factor):
        return factor[begin:end] if isinstance(factor, np.ndarray) else factor

    return replace(
        problem,
        logits=problem.logits[..., begin:end],
        soft=None if problem.soft is None else problem.soft[..., begin:end],
        background=here(problem.background),
        gain=here(problem.gain),
        classes=end - begin,
        class_offset=begin,
    )


def sums_for(problem, aux, parts=None):
    shape = parts or -(-problem.classes // BLOCK), problem.rows
    massed = problem.soft is not None or problem.background is not None
    return PartialSums(
        max=np.full(shape, 7.0),
        sum=np.full(shape, 7.0),
        mass=np.full(shape, 7.0) if massed else None,
        dot=np.full(shape, 7.0) if massed else None,
        spread=np.full(shape, 7.0) if aux else None,
        argmax=np.full(shape, 7, np.int64) if aux else None,
        label_logit=None if problem.target is None else np.full(problem.rows, 7.0),
    )


NAMES = ("max", "sum", "mass", "dot", "spread", "argmax")


def joined(sums):
    """The sums of all parts, in the order of their classes."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in sums])
        for name in NAMES
        if getattr(sums[0], name) is not None
    }
    if sums[0].label_logit is not None:
        arrays["label_logit"] = np.sum([part.label_logit for part in sums], axis=0)
    return PartialSums(**arrays)


def outputs_for(problem, aux):
    compute, loss, rows = problem.precision.compute, problem.precision.loss, problem.rows
    return Outputs(
        loss=np.full(rows, 7, loss),
        total=np.full(1, 7.0),
        row_max=np.full(rows, 7, compute),
        row_sum=np.full(rows, 7.0),
        log_prob=np.full(rows, 7, loss),
        argmax=np.full(rows, 7, np.int64) if aux else None,
        entropy=np.full(rows, 7, loss) if aux else None,
    )


def single_call(backend, problem, aux):
    """The outputs of one call, and its gradient laid out as the logits."""
    out, grad = outputs_for(problem, aux), problem.new_output(None)
    backend.forward(problem, replace(out, grad=grad.rows))
    return out, grad.rows


def sharded_call(backend, problem, cuts, aux, in_place=False, parts=None):
    """The same from shards, with the sums that they hand up: of each block, or of so many parts."""
    shards = [part_of(problem, *ends) for ends in pairwise(cuts)]
    sums = [sums_for(shard, aux, parts) for shard in shards]
    for shard, of_shard in zip(shards, sums, strict=True):
        backend.partial(shard, of_shard)
    out = replace(outputs_for(problem, aux), mass=np.full(problem.rows, 7.0))
    stand_in = replace(problem, logits=None, soft=None, background=None, gain=None)
    whole = joined(sums)
    backend.merge(stand_in, whole, out)
    grad = problem.logits if in_place else problem.new_output(None).rows
    statistics = out.row_max.astype(np.float64), out.row_sum, out.mass
    for shard, ends in zip(shards, pairwise(cuts), strict=True):
        backend.partial_backward(shard, *statistics, grad[..., slice(*ends)])
    return out, grad, whole


def check_same(ours, others):
    for name in Outputs.__slots__:
        a, b = getattr(ours, name), getattr(others, name)
        assert (a is None) == (b is None) or name == "mass", name
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b, err_msg=name, strict=True)
