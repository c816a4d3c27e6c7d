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

def step_of(soft=False, **options):
    function = sharded(soft, **options)
    both = lambda x, target: (lambda v: (v.sum(), v))(function(x, target))
    return jax.jit(jax.value_and_grad(both, has_aux=True))

def compare(logits, target, soft=False, step=None, **options):
    '''Loss within 4 ULP, gradient within the error of a float32 softmax.'''
    one = {k: v for k, v in options.items() if k != "merge"}
    loss, grad = fastxent.cross_entropy_and_grad(np.asarray(logits), np.asarray(target), **one)
    (_, value), found = (step or step_of(soft, **options))(logits, target)
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
    # what LLVM does not optimize is compiled sooner; the kernels are compiled already
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMON + code],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("devices", [1, 5])
def test_labels_on_each_shard_masked_shards_and_ignored_rows(devices):
    code = """
logits = 3 * RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)
logits[3] += 1e4
step = step_of()
for shard in range(DEVICES):
    here = slice(shard * LOCAL, (shard + 1) * LOCAL)
    labels = RNG.integers(here.start, here.stop, ROWS).astype(np.int32)
    labels[4:6] = -100
    masked = logits.copy()
    if DEVICES > 1:
        masked[:, (here.start + LOCAL) % CLASSES:][:, :LOCAL] = -np.inf
    masked[4, 0] = np.nan  # of an ignored row
    compare(jnp.asarray(masked), labels, step=step)
labels[0] = CLASSES
for bad in (labels, labels * 0 - 1):
    try:
        jax.block_until_ready(step(jnp.asarray(logits), bad))
    # the latter where a program of one device runs a second time
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        assert f"outside [0, {CLASSES})" in str(error), error
    else:
        raise AssertionError
print("done")
"""
    assert child(code, devices) == "done"


def test_options_are_over_all_classes():
    code = """
for options in every:
    compare(logits, labels, **options)
    compare(logits, soft, soft=True, **options)
print("done")
"""
    assert child(OPTIONS + code, 3) == "done"


def test_what_is_left_of_a_confident_row_and_a_nan_of_one_shard_are_kept():
    code = """
logits = np.zeros((3, 6), np.float32)
logits[:, 1] = 12, 15, 18
target, soft = np.full(3, 1, np.int32), np.eye(6, dtype=np.float32)[[1, 1, 1]]
exact = np.log1p(5 * np.exp(-np.float64([12, 15, 18]))).astype(np.float32)
grad = fastxent.cross_entropy_and_grad(logits.astype(float), target, reduction="sum")[1]
for merge in ("reduce", "in_order"):
    step = step_of(reduction="none", merge=merge)
    (_, value), found = step(logits, target)
    same(value, exact, 4, merge)
    # 1 - p of the label has lost nothing either
    np.testing.assert_allclose(found, grad, rtol=1e-6, atol=0)
(_, value), _ = step_of(True, reduction="none")(logits, soft)
same(value, exact, 4)
plain = RNG.normal(size=(2, 6)).astype(np.float32)
labels, soft = np.array([1, 0], np.int32), np.full((2, 6), 1 / 6, np.float32)
with np.errstate(all="ignore"):
    for target, options in (labels, {}), (labels, {"label_smoothing": 0.2}), (soft, {}):
        options = options | {"reduction": "none"}
        step = step_of(target.ndim == 2, **options)
        for begin, end in (3, 6), (0, 3), (0, 6):
            for values in np.nan, -np.inf, [np.nan, -np.inf, -np.inf] * ((end - begin) // 3):
                logits = plain.copy()
                logits[0, begin:end] = values
                one, grad = fastxent.cross_entropy_and_grad(logits, target, **options)
                (_, value), found = step(logits, target)
                np.testing.assert_allclose(value, one, rtol=5e-7, err_msg=str((options, logits)))
                np.testing.assert_allclose(found, grad, rtol=2e-6, atol=1e-7)
print("done")
"""
    assert child(code, 2) == "done"


def test_a_wrong_weight_of_one_shard_is_refused_by_all():
    code = """
def loss(logits, target, weight, rows):
    return fj.vocab_parallel_cross_entropy(
        logits, target, "classes", weight=weight, sample_weight=rows
    )
logits, soft = np.zeros((2, 6), np.float32), np.full((2, 6), 1 / 6, np.float32)
labels = np.array([0, 4], np.int32)
ones, rows = np.ones(6, np.float32), np.ones(2, np.float32)
bad, wrong = ones.copy(), rows.copy()
bad[4] = wrong[1] = -1
for target in soft, labels:
    specs = P(None, "classes"), P(None, "classes") if target is soft else P(), P(), P()
    step = jax.jit(jax.shard_map(loss, mesh=MESH, in_specs=specs, out_specs=P()))
    np.testing.assert_allclose(step(logits, target, ones, rows), np.log(6), rtol=1e-6)
    for given, name in ((bad, rows), "weight holds -1 at"), ((ones, wrong), "sample_weight holds"):
        try:
            jax.block_until_ready(step(logits, target, *given))
        except jax.errors.JaxRuntimeError as error:
            assert name in str(error), error
        else:
            raise AssertionError(name)
print("done")
"""
    assert child(code, 2) == "done"


def test_three_or_four_numbers_of_a_row_are_exchanged():
    code = """
def exchanged(soft=False, **options):
    target = jnp.zeros((ROWS, CLASSES), jnp.float32) if soft else jnp.zeros(ROWS, jnp.int32)
    lowered = step_of(soft, **options).lower(jnp.zeros((ROWS, CLASSES), jnp.float32), target)
    numbers = 0
    for line in lowered.compile().as_text().splitlines():
        found = re.search(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)", line)
        if found:
            shares = DEVICES if found[2] == "all-gather" else 1
            for shape in re.findall(r"\\w+\\[([0-9,]*)\\]", found[1]):
                numbers += np.prod([int(n) for n in shape.split(",") if n], dtype=int) // shares
    return numbers
for merge in ("reduce", "in_order"):
    assert exchanged(merge=merge) == 3 * ROWS
    assert exchanged(merge=merge, label_smoothing=0.1) == 4 * ROWS + 1
    assert exchanged(True, merge=merge) == 4 * ROWS
print("done")
"""
    assert child(code, 3) == "done"


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
    order = "reduce" if check else "in_order"
    value, grad = jax.jit(jax.value_and_grad(sharded(check=check, merge=order)))(logits, labels)
    same(value, expected[0], 4)
    np.testing.assert_allclose(grad, expected[1], rtol=2e-6, atol=1e-8)
    def grad(logits, labels):
        def loss(x):
            # as the Notes say: without the check a psum hands back the cotangents of all devices
            value = fj.vocab_parallel_cross_entropy(x, labels, "classes")
            return value if check else value / jax.lax.axis_size("classes")
        return jax.grad(loss)(logits)
    specs = P(None, "classes"), P()
    inside = jax.jit(
        jax.shard_map(grad, mesh=MESH, in_specs=specs, out_specs=specs[0], check_vma=check)
    )
    np.testing.assert_allclose(inside(logits, labels), expected[1], rtol=2e-6, atol=1e-8)
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
    jax.jit(jax.grad(of_weight))(jnp.asarray(weight))
except fastxent.OptionError as error:
    assert "with respect to weight" in str(error)
    print("done")
"""
    )
    assert child(code, 2) == "done"
