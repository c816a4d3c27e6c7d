"""What XLA calls on some of the classes: against one call on all of them."""

import itertools

import numpy as np
import pytest

import fastxent as fx

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = pytest.importorskip("jax.numpy")
from fastxent.jax import info  # noqa: E402
from fastxent.jax.wide import float64  # noqa: E402

pytestmark = pytest.mark.skipif(info() != "XLA FFI", reason=info())
CLASSES = 2500
CUTS = (0, 700, 2048, CLASSES)
EPS = float(np.finfo(np.float32).eps)


def call(name, operands, shapes, options, weight):
    integers = (2, 0, True, -100, weight is not None, 0, CLASSES)
    smoothing = options.get("label_smoothing", 0.0)
    numbers = (
        *(1 - smoothing, smoothing, options.get("logit_scale", 1.0)),
        *(options.get("softcap", 0.0), options.get("z_loss", 0.0)),
    )
    if weight is not None:
        operands = [*operands, weight]
    foreign = jax.ffi.ffi_call(f"fastxent_{name}", shapes, vmap_method="broadcast_all")
    return foreign(
        *operands, integers=np.array(integers, np.int64), numbers=np.array(numbers, np.float64)
    )


def partial(logits, target, offset, options, weight):
    rows, hard = logits.shape[:-1], target.ndim < logits.ndim
    everywhere = not hard or options.get("label_smoothing")
    count = 2 + 2 * bool(everywhere) + hard
    shapes = [jax.ShapeDtypeStruct(rows, np.float64)] * count
    with float64():
        rest = list(call("partial", [logits, target, offset], shapes, options, weight))
    parts = {"max": rest.pop(0), "sum": rest.pop(0)}
    parts["mass"], parts["dot"] = (rest.pop(0), rest.pop(0)) if everywhere else (0.0, 0.0)
    parts["label_logit"] = rest.pop(0) if hard else 0.0
    return parts


def over_shards(logits, target, options, weight=None, row_scale=1.0):
    """Loss of each row and the gradient, with what processes would exchange added up here."""
    hard = target.ndim < logits.ndim
    shards = []
    for begin, end in itertools.pairwise(CUTS):
        local = target if hard else target[..., begin:end]
        own = None if weight is None else weight[begin:end]
        shards.append((logits[..., begin:end], local, jnp.int32(begin), own))
    parts = [partial(*shard[:3], options, shard[3]) for shard in shards]
    top = jnp.max(jnp.stack([part["max"] for part in parts]), axis=0)
    total = sum(part["sum"] * jnp.exp(part["max"] - top) for part in parts)
    mass = sum(part["mass"] for part in parts)
    dot = sum(part["dot"] + part["mass"] * (part["max"] - top) for part in parts)
    at_label = sum(part["label_logit"] for part in parts)
    live = target != -100 if hard else True
    spike = 0.0
    if hard:
        spike = (1 - options.get("label_smoothing", 0.0)) * jnp.ones_like(top)
        if weight is not None:
            spike = spike * weight[target]
        spike = jnp.where(live, spike, 0.0)
    mass = jnp.broadcast_to(mass + spike, top.shape)
    # the maximum of a skipped row is 0 in each shard, its sum 1
    lse = jnp.where(live, top + jnp.log(total), 0.0)
    loss = mass * (lse - top) - dot - spike * (at_label - top)
    loss = jnp.where(live, loss + options.get("z_loss", 0.0) * lse**2, 0.0)
    row_scale = jnp.broadcast_to(jnp.float64(row_scale), top.shape)
    grads = [
        call(
            "partial_backward",
            [*shard[:3], top, total, mass, row_scale],
            [jax.ShapeDtypeStruct(shard[0].shape, logits.dtype)],
            options,
            shard[3],
        )[0]
        for shard in shards
    ]
    return loss, jnp.concatenate(grads, axis=-1)


SMOOTHED = {"label_smoothing": 0.1, "z_loss": 1e-3}


@pytest.mark.parametrize("hard", [True, False], ids=["labels", "probabilities"])
@pytest.mark.parametrize(
    ("dtype", "options", "weighted"),
    [
        ("float32", {}, False),
        ("bfloat16", SMOOTHED, True),
        ("float16", {"softcap": 20.0, "logit_scale": 1.5}, True),
    ],
)
def test_shards_give_what_one_call_gives(dtype, hard, options, weighted):
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.standard_normal((6, CLASSES)) * 4, dtype)
    weight = jnp.asarray(rng.random(CLASSES), np.float32) if weighted else None
    target = jnp.asarray([0, 699, 700, 2499, -100, 2048], jnp.int32)
    if not hard:
        target = jnp.asarray(rng.dirichlet(np.ones(CLASSES), 6), np.float32)
    with float64():
        loss, grad = jax.jit(lambda *arrays: over_shards(*arrays, options, weight, 0.25))(
            logits, target
        )
    expected, grads = fx.cross_entropy_and_grad(
        np.asarray(logits),
        np.asarray(target),
        weight=None if weight is None else np.asarray(weight),
        reduction="none",
        grad_output=np.full(6, 0.25, np.float32),
        backend="cython",
        **options,
    )
    # sums are added up in float64 here: what is left is the kernel's own error, and rounding
    np.testing.assert_allclose(loss, expected, rtol=2 * EPS, atol=0)
    np.testing.assert_allclose(
        np.asarray(grad, np.float64),
        np.asarray(grads, np.float64),
        rtol=2 * max(float(jnp.finfo(dtype).eps), 8 * EPS),
        atol=2 * EPS,
    )


def test_vmap_numbers_the_calls():
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.standard_normal((3, 4, CLASSES)), np.float32)
    target = jnp.asarray(rng.integers(0, CLASSES, (3, 4)), jnp.int32)
    weight = jnp.asarray(rng.random((3, CLASSES)), np.float32)

    def one(x, t, own):
        return over_shards(x, t, SMOOTHED, own)

    with float64():
        loss, grad = jax.jit(jax.vmap(one))(logits, target, weight)
        one = jax.jit(one)
        calls = [one(logits[i], target[i], weight[i]) for i in range(3)]
    for i, (expected, grads) in enumerate(calls):
        np.testing.assert_array_equal(loss[i], expected)
        np.testing.assert_array_equal(grad[i], grads)


@pytest.mark.parametrize(
    ("target", "offset", "words"),
    [
        ([0, CLASSES], 0, ["row 1 is 2500", "[0, 2500)", "ignored label -100"]),
        ([0, -1], 0, ["row 1 is -1"]),
        ([0, 1], 1801, ["class_offset is 1801", "700 classes", "2500"]),
        ([0, 1], -1, ["class_offset is -1"]),
    ],
)
def test_errors_say_what_is_wrong(target, offset, words):
    logits = jnp.zeros((2, 700), np.float32)
    with pytest.raises(Exception, match="fastxent") as caught:
        jax.block_until_ready(
            partial(logits, jnp.asarray(target, jnp.int32), jnp.int32(offset), {}, None)["max"]
        )
    assert all(word in str(caught.value) for word in words)


def test_skipped_and_masked_rows():
    logits = jnp.full((2, 700), -np.inf, np.float32)
    parts = partial(logits, jnp.asarray([-100, 5], jnp.int32), jnp.int32(700), {}, None)
    assert parts["max"].tolist() == [0, -np.inf]
    assert parts["sum"].tolist() == [1, 0]
    assert parts["label_logit"].tolist() == [0, 0]
