"""Statistics put together in any grouping and any order, and as processes exchange them."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

import fastxent as fx
from fastxent.sharding.agreement import Shards
from fastxent.sharding.exchange import reduced
from sharding.spread import assert_within

CLASSES = 5000
FIELDS = ("max", "sum", "mass", "dot", "label_logit", "argmax", "spread")


def shards_of(backend, edges, dtype="float32", by_block=False, soft=False, **options):
    rng = np.random.default_rng(7)
    logits = (4 * rng.standard_normal((6, CLASSES))).astype(dtype)
    logits[0, :1500] = -np.inf
    logits[1] = -np.inf
    logits[2, 4000] = np.nan
    target = rng.integers(0, CLASSES, 6)
    target[3] = -100
    if soft:
        target = rng.random((6, CLASSES))
        target[0, :1500] = 0
    stats = [
        fx.partial_stats(
            logits[:, begin:end],
            target[:, begin:end] if soft else target,
            class_offset=begin,
            num_classes=CLASSES,
            backend=backend,
            by_block=by_block,
            **options,
        )
        for begin, end in pairwise(edges)
    ]
    return stats, logits, target


def groupings(items):
    """Every way to merge a list two at a time, neighbours or not."""
    if len(items) == 1:
        yield items[0]
    for one, other in itertools.combinations(range(len(items)), 2):
        rest = [item for at, item in enumerate(items) if at not in (one, other)]
        yield from groupings([*rest, fx.merge_stats(items[other], items[one])])


def live(stats):
    """Statistics without those of the ignored row, which mean nothing."""
    arrays = {name: getattr(stats, name) for name in FIELDS}
    rows = [0, 1, 2, 4, 5]
    return stats._replace(**{name: a[..., rows] for name, a in arrays.items() if a is not None})


def assert_same_stats(one, other, units=4):
    assert one.first_class == other.first_class
    assert one.classes == other.classes
    assert one.dtype == other.dtype
    assert one.by_block == other.by_block
    for name in FIELDS:
        found, expected = getattr(one, name), getattr(other, name)
        if found is None or name in ("max", "argmax", "label_logit"):
            np.testing.assert_array_equal(found, expected, name)
        else:
            assert_within(found, expected, units)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("edges", [[0, 1024, 3072, 3072, 5000], [0, 7, 1500, 4999, 5000]])
def test_any_grouping_and_order_gives_the_same(edges, soft, backend):
    options = {"aux": ("entropy", "argmax"), "label_smoothing": 0.1, "soft": soft}
    stats, _, target = shards_of(backend, edges, **options)
    whole = fx.merge_stats(*stats)
    assert whole.first_class == (0,)
    assert whole.classes == (CLASSES,)
    losses = []
    for merged in groupings(stats):
        assert_same_stats(merged, whole, 8)
        losses.append(
            fx.loss_from_stats(
                merged,
                target,
                num_classes=CLASSES,
                label_smoothing=0.1,
                reduction="none",
                backend=backend,
            )
        )
    for order in itertools.permutations(stats):
        assert_same_stats(fx.merge_stats(*order), whole, 0)
    for loss in losses:
        assert_within(loss, losses[0], 1)


def test_blocks_are_put_together_without_rounding(backend):
    edges = [0, 2048, 2048, 3072, 5000]
    options = {"aux": ("entropy", "argmax"), "label_smoothing": 0.1, "by_block": True}
    stats, _, _ = shards_of(backend, edges, **options)
    assert [one.classes for one in stats] == [(1024, 1024), (), (1024,), (1024, 904)]
    (whole,), _, _ = shards_of(backend, [0, 5000], **options)
    assert whole.by_block
    for merged in groupings(stats):
        assert_same_stats(merged, whole, 0)


def test_blocks_and_other_shards_make_one_part(backend):
    blocks, _, _ = shards_of(backend, [0, 2048], "float64", by_block=True)
    others, _, _ = shards_of(backend, [2048, 3000, 5000], "float64")
    merged = fx.merge_stats(others[1], *blocks, others[0])
    assert not merged.by_block
    assert (merged.first_class, merged.classes) == ((0,), (5000,))
    (whole,), _, _ = shards_of(backend, [0, 5000], "float64")
    assert_same_stats(live(merged), live(whole), 8)


def test_shards_that_do_not_touch_stay_apart(backend):
    stats, _, _ = shards_of(backend, [0, 1000, 2000, 3000, 5000])
    apart = fx.merge_stats(stats[3], stats[0])
    assert (apart.first_class, apart.classes) == ((0, 3000), (1000, 2000))
    assert_same_stats(fx.merge_stats(apart, stats[2], stats[1]), fx.merge_stats(*stats), 4)


def test_one_shard_is_itself(backend):
    for by_block in (False, True):
        (stats,), _, _ = shards_of(backend, [0, 5000], by_block=by_block)
        assert_same_stats(fx.merge_stats(stats), stats, 0)


def test_statistics_mean_what_they_say(backend):
    edges = [0, 2000, 5000]
    stats, logits, target = shards_of(
        backend, edges, "float64", label_smoothing=0.25, aux=("entropy", "argmax"), logit_scale=0.5
    )
    for (begin, end), one in zip(pairwise(edges), stats, strict=True):
        z = 0.5 * logits[[0, 4, 5], begin:end]
        top = z.max(axis=1)
        exps = np.exp(z - top[:, None])
        found = {name: getattr(one, name)[..., [0, 4, 5]] for name in FIELDS}
        assert np.array_equal(found["max"][0], top)
        assert np.array_equal(found["argmax"][0], begin + z.argmax(axis=1))
        assert_within(found["sum"][0], exps.sum(axis=1), 16)
        labels = target[[0, 4, 5]]
        here = (labels >= begin) & (labels < end)
        at_label = z[range(3), np.where(here, labels - begin, 0)]
        assert_within(found["label_logit"], np.where(here, at_label, 0.0), 1)
        masked = np.isneginf(z)
        spread = np.where(masked, 0, exps * np.where(masked, 0, z - top[:, None])).sum(axis=1)
        assert_within(found["spread"][0], spread, 64)
        assert_within(found["mass"][0], np.full(3, 0.25 * (end - begin) / CLASSES), 16)
        dot = 0.25 / CLASSES * (z - top[:, None]).sum(axis=1)
        assert_within(found["dot"][0], dot, 64)
        # masked, NaN, ignored: what is finite harms nobody
        assert one.max[0, 1] == -np.inf
        assert one.sum[0, 1] == 0
        assert np.isnan(one.sum[0, 2]) == (begin == 2000)
        assert one.label_logit[3] == 0
        assert all(np.isfinite(getattr(one, name)[..., 3]).all() for name in FIELDS)


class Threads:
    """A channel between threads, as `fastxent.sharding.exchange.Channel` describes it."""

    arrays = np

    def __init__(self, rank, barrier, sent):
        self.rank, self.size, self._barrier, self._sent = rank, len(sent), barrier, sent

    def _heard(self, numbers):
        self._sent[self.rank] = numbers.copy()
        self._barrier.wait()
        heard = list(self._sent)
        self._barrier.wait()
        return heard

    def all_max(self, numbers):
        numbers[:] = np.max(self._heard(numbers), axis=0)

    def all_min(self, numbers):
        numbers[:] = np.min(self._heard(numbers), axis=0)

    def all_sum(self, numbers):
        numbers[:] = np.sum(self._heard(numbers), axis=0)


def exchanged(stats, edges):
    """What two reductions, of maxima and of sums, leave on each rank."""
    sizes = tuple(end - begin for begin, end in pairwise(edges))
    barrier, sent = threading.Barrier(len(stats), timeout=20), [None] * len(stats)

    def of_rank(rank):
        shards = Shards(rank, sizes, tuple(edges[:-1]))
        return reduced(stats[rank], shards, Threads(rank, barrier, sent))

    with ThreadPoolExecutor(len(stats)) as pool:
        return list(pool.map(of_rank, range(len(stats))))


@pytest.mark.parametrize("soft", [False, True])
def test_sums_relative_to_a_maximum_that_was_exchanged_first(soft, backend):
    """On ranks without a class, too, and with a rank that has infinite logits only."""
    options = {"aux": ("entropy", "argmax"), "label_smoothing": 0.1, "logit_scale": 0.5}
    edges = [0, 1000, 1000, 2500, 5000]
    stats, logits, target = shards_of(backend, edges, soft=soft, **options)
    first, *others = exchanged(stats, edges)
    for other in others:
        assert_same_stats(other, first, 0)
    loss = {"label_smoothing": 0.1, "reduction": "none", "backend": backend}
    loss["aux"] = options["aux"]
    assert_same_stats(live(first), live(fx.merge_stats(*stats)), 8)
    assert (first.softcap, first.logit_scale) == (None, 0.5)
    found, aux = fx.loss_from_stats(first, target, num_classes=CLASSES, **loss)
    expected, of_one_call = fx.cross_entropy(logits, target, logit_scale=0.5, **loss)
    assert_within(found, expected, 4 if not soft else 16)
    assert_within(aux.entropy, of_one_call.entropy, 4)
    assert np.array_equal(aux.argmax, of_one_call.argmax)
