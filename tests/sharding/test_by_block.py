"""Statistics by block: the very bits of one call, loss and gradient, on compiled backends."""

import numpy as np
import pytest

import fastxent as fx
from fastxent.cases import Case
from fastxent.cases.recipe import AUX
from fastxent.comparison import same_bits
from sharding.spread import spread

EDGES = {
    1: [0, 3100],
    2: [0, 2048, 3100],
    3: [0, 1024, 1024, 3100],
    5: [0, 1024, 2048, 3072, 3072, 3100],
}
MANY = {"weight": "positive", "label_smoothing": 0.1, "z_loss": 1e-3, "logit_scale": 0.7}
MANY |= {"sample_weight": True, "grad_output": "rows", "softcap": 20.0}
ASKED = tuple(name for name in AUX if name != "target_grad")
CASES = [
    Case(37, 3100),
    Case(37, 3100, "ignored", logits="special-rows"),
    Case(9, 3100, "ignored", logits="masked-block", label_smoothing=0.1),
    Case(9, 3100, "soft", logits="minus-inf", reduction="none"),
    Case(9, 3100, "ignored", aux=ASKED, **MANY),
    Case(9, 3100, "unnormalised", aux=ASKED, **MANY),
    Case(9, 3100, "one-hot", "bool", weight="some-zero"),
    Case((2, 3), 3100, "ignored", reduction="sum", z_loss=1e-3, logits="huge-offset"),
    Case(20, 3100, logits="flat", softcap=5.0, layout="stepped"),
    Case(300, 3100, "ignored", label_smoothing=0.1),
]


@pytest.mark.parametrize(("shards", "threads"), [(1, 1), (2, 1), (3, 1), (3, 3), (5, 1)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bits_are_those_of_one_call(case, dtype, shards, threads, compiled):
    reason = case.why_not(dtype)
    if reason is not None:
        pytest.skip(reason)
    logits, target, options = case.arguments(dtype)
    options |= {"backend": compiled, "num_threads": threads}
    if case.aux:
        options["aux"] = case.asked
    loss, grad, aux = spread(logits, target, options, EDGES[shards], by_block=True)
    whole = fx.cross_entropy_and_grad(logits, target, **options)
    assert same_bits(loss, whole[0])
    assert same_bits(grad, whole[1])
    for name in options.get("aux", ()):
        assert same_bits(getattr(aux, name), getattr(whole[2], name)), name


@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_numpys_bits_are_those_of_any_number_of_shards(case):
    """Not those of one call, which adds up in another order; other backends have these too."""
    logits, target, options = case.arguments("float32")
    options |= {"backend": "numpy"}
    if case.aux:
        options["aux"] = case.asked
    loss, grad, _ = spread(logits, target, options, EDGES[1], by_block=True)
    for edges in (EDGES[2], EDGES[5]):
        other, its_grad, _ = spread(logits, target, options, edges, by_block=True)
        assert same_bits(other, loss)
        assert same_bits(its_grad, grad)


@pytest.mark.parametrize("classes", [101, 1024, 1025])
def test_few_classes(classes, compiled):
    """On a single shard, and on one that is followed by the rest of a class."""
    logits, target, _ = Case(50, classes, "ignored").arguments("float32")
    options = {"backend": compiled}
    edges = [0, 1024, classes] if classes > 1024 else [0, classes]
    loss, grad, _ = spread(logits, target, options, edges, by_block=True)
    whole = fx.cross_entropy_and_grad(logits, target, **options)
    assert same_bits(loss, whole[0])
    assert same_bits(grad, whole[1])


def test_the_logits_may_be_written_over(compiled):
    logits, target, _ = Case(9, 3100, "ignored").arguments("float32")
    options = {"backend": compiled, "softcap": 9.0}
    found = spread(logits, target, options, EDGES[3], by_block=True, in_place=True)
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    assert same_bits(found[0], expected[0])
    assert same_bits(found[1], expected[1])


def test_one_part_of_blocks_has_their_sums(compiled):
    """Without `by_block` the same sums are only put together, in float64."""
    logits, target, _ = Case(9, 3100).arguments("float32")
    where = {"class_offset": 0, "num_classes": 3100, "backend": compiled}
    blocks = fx.partial_stats(logits, target, **where, by_block=True)
    joined = fx.partial_stats(logits, target, **where)
    top = blocks.max.max(axis=0)
    expected = (blocks.sum * np.exp(blocks.max - top)).sum(axis=0)
    assert np.array_equal(joined.max[0], top)
    np.testing.assert_allclose(joined.sum[0], expected, rtol=1e-15)
