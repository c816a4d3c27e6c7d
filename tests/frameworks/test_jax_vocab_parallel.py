"""fastxent.jax.vocab_parallel_cross_entropy on real devices of one process, against one call."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="JAX is not installed")

COMMON = """
import itertools, re, warnings
import jax, jax.numpy as jnp, numpy as np
import fastxent, fastxent.jax as fj
from jax.sharding import PartitionSpec as P

DEVICES = jax.device_count()
MESH = jax.make_mesh((DEVICES,), ("classes",), axis_types=(jax.sharding.AxisType.Auto,))
RNG = np.random.default_rng(5)
ROWS, LOCAL = 12, 7
CLASSES = LOCAL * DEVICES

def sharded(soft=False, out=P(), axis=-1, check=True, **options):
    def loss(logits, target):
        return fj.vocab_parallel_cross_entropy(logits, target, "classes", axis=axis, **options)
    of_logits = P(None, "classes") if axis == -1 else P("classes")
    specs = of_logits, of_logits if soft else P()
    return jax.shard_map(loss, mesh=MESH, in_specs=specs, out_specs=out, check_vma=check)

def same(found, expected, ulps, what=""):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found, expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=what)
    apart = np.abs(found - expected) / np.spacing(np.abs(expected))
    assert np.nanmax(apart, initial=0) <= ulps, (what, found, expected)

def compare(logits, target, soft=False, expect=None, **options):
    '''Loss within 4 ULP, gradient within the error of a float32 softmax.'''
    one = {k: v for k, v in options.items() if k != "merge"}
    expect = one if expect is None else expect
    loss, grad = fastxent.cross_entropy_and_grad(np.asarray(logits), np.asarray(target), **expect)
    function = sharded(soft, **options)
    both = lambda x: (lambda v: (v.sum(), v))(function(x, target))
    (_, value), found = jax.jit(jax.value_and_grad(both, has_aux=True))(logits)
    same(value, loss, 4, str(options))
    scale = np.abs(grad).max(initial=1e-30, where=np.isfinite(grad))
    np.testing.assert_allclose(found, grad, rtol=2e-6, atol=2e-7 * scale, err_msg=str(options))
"""

OPTIONS = """
weight = RNG.uniform(0.5, 2, CLASSES).astype(np.float32)
rows = RNG.uniform(0.1, 2, ROWS).astype(np.float32)
logits = jnp.asarray(3 * RNG.normal(size=(ROWS, CLASSES)), jnp.float32)
labels = RNG.integers(0, CLASSES, ROWS).astype(np.int32)
labels[::5] = -100
soft = RNG.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
every = [
    {}, {"label_smoothing": 0.1}, {"weight": weight, "label_smoothing": 0.3, "reduction": "sum"},
    {"weight": weight, "sample_weight": rows, "reduction": "none", "merge": "in_order"},
    {"weight": weight, "sample_weight": rows, "z_loss": 0.01, "merge": "in_order"},
    {"softcap": 3.0, "logit_scale": 1.5, "normalizer": 7.0, "label_smoothing": 0.1},
]
"""


def child(code, devices):
    """What a fresh process with so many devices prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMON + code],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_labels_on_each_shard_masked_shards_and_ignored_rows(devices):
    code = """
logits = 3 * RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)
logits[3] += 1e4
for shard in range(DEVICES):
    here = slice(shard * LOCAL, (shard + 1) * LOCAL)
    labels = RNG.integers(here.start, here.stop, ROWS).astype(np.int32)
    labels[4:6] = -100
    masked = logits.copy()
    if DEVICES > 1:
        masked[:, (here.start + LOCAL) % CLASSES:][:, :LOCAL] = -np.inf
    masked[4, 0] = np.nan  # of an ignored row
    compare(jnp.asarray(masked), labels, label_smoothing=0.0)
labels[0] = CLASSES
for bad in (labels, labels * 0 - 1):
    try:
        jax.block_until_ready(jax.jit(sharded())(jnp.asarray(logits), bad))
    except jax.errors.JaxRuntimeError as error:
        assert f"outside [0, {CLASSES})" in str(error), error
    else:
        raise AssertionError
print("done")
"""
    assert child(code, devices) == "done"


@pytest.mark.parametrize("devices", [2, 3])
def test_options_are_over_all_classes(devices):
    code = """
for options in every:
    compare(logits, labels, **options)
    if devices_are_two:
        compare(logits, soft, soft=True, **options)
"""
    code = OPTIONS + code.replace("devices_are_two", str(devices == 2)) + "print('done')"
    assert child(code, devices) == "done"


def test_padding_counts_for_nothing():
    code = """
classes = CLASSES - 4
for name in ({}, {"label_smoothing": 0.2}, {"label_smoothing": 0.2, "weight": True}):
    given = dict(name)
    if "weight" in given:
        given["weight"] = RNG.uniform(0.5, 2, classes).astype(np.float32)
    plain = RNG.normal(size=(ROWS, classes)).astype(np.float32)
    padded = jnp.pad(plain, ((0, 0), (0, CLASSES - classes)), constant_values=-jnp.inf)
    labels = RNG.integers(0, classes, ROWS).astype(np.int32)
    labels[0] = classes - 1
    loss, grad = fastxent.cross_entropy_and_grad(plain, labels, **given)
    step = jax.jit(jax.value_and_grad(sharded(num_classes=classes, **given)))
    value, found = step(padded, labels)
    same(value, loss, 4)
    np.testing.assert_allclose(found[:, :classes], grad, rtol=2e-6, atol=1e-8)
    assert not found[:, classes:].any()
    try:
        jax.block_until_ready(step(padded, labels + (labels == classes - 1)))
    except jax.errors.JaxRuntimeError as error:
        assert f"outside [0, {classes})" in str(error), error
    else:
        raise AssertionError
for wrong, message in ((CLASSES + 1, "more than the"), (0, "at least 1")):
    try:
        sharded(num_classes=wrong)(padded, labels)
    except fastxent.OptionError as error:
        assert message in str(error)
    else:
        raise AssertionError
print("done")
"""
    assert child(code, 3) == "done"


def test_transformations_axes_and_what_has_no_derivative():
    code = (
        OPTIONS
        + """
expected = fastxent.cross_entropy_and_grad(np.asarray(logits), labels)
for check in (True, False):
    value, grad = jax.value_and_grad(sharded(check=check))(logits, labels)
    same(value, expected[0], 4)
    np.testing.assert_allclose(grad, expected[1], rtol=2e-6, atol=1e-8)
moved = sharded(axis=0)
value, grad = jax.jit(jax.value_and_grad(moved))(logits.T, labels)
same(value, expected[0], 4)
np.testing.assert_allclose(grad.T, expected[1], rtol=2e-6, atol=1e-8)
dot = jnp.cos(logits)
loss = lambda x: sharded()(x, labels)
value, tangent = jax.jit(lambda x, d: jax.jvp(loss, (x,), (d,)))(logits, dot)
np.testing.assert_allclose(tangent, (expected[1] * dot).sum(), rtol=1e-5)
pair, pairs = jnp.stack([logits, logits[::-1]]), jnp.stack([labels, labels[::-1]])
many = jax.jit(jax.vmap(jax.value_and_grad(sharded())))(pair, pairs)
np.testing.assert_allclose(many[0], [expected[0]] * 2, rtol=1e-6)
np.testing.assert_allclose(many[1][1][::-1], expected[1], rtol=2e-6, atol=1e-8)
half = logits.astype(jnp.bfloat16)
value, grad = jax.jit(jax.value_and_grad(sharded()))(half, labels)
wide = fastxent.cross_entropy_and_grad(np.asarray(half), labels)
same(value, wide[0], 4)
assert grad.dtype == jnp.bfloat16
np.testing.assert_allclose(np.float32(grad), np.float32(wide[1]), rtol=8e-3, atol=1e-8)
def of_weight(w):
    loss = lambda x, y, w: fj.vocab_parallel_cross_entropy(x, y, "classes", weight=w)
    specs = P(None, "classes"), P(), P()
    return jax.shard_map(loss, mesh=MESH, in_specs=specs, out_specs=P())(logits, labels, w)
try:
    jax.grad(of_weight)(jnp.asarray(weight))
except fastxent.OptionError as error:
    assert "with respect to weight" in str(error)
    print("done")
"""
    )
    assert child(code, 2) == "done"
