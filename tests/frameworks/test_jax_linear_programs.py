"""Programs of fastxent.jax.linear_cross_entropy: memory, transformations, meshes, errors."""

import functools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

jnp = jax.numpy

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(24, 8)), jnp.float32)
MATRIX = jnp.asarray(RNG.normal(size=(17, 8)), jnp.float32)
TARGET = jnp.asarray(RNG.integers(0, 17, 24)).at[:5].set(-100)


def chunked(hidden, matrix, target=TARGET, **options):
    return fj.linear_cross_entropy(hidden, matrix, target, memory_budget=7500, **options)


def plain(hidden, matrix, target=TARGET, **options):
    return fj.cross_entropy(hidden @ matrix.T, target, **options)


def same(found, expected, tolerance=3e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("dtype", "soft", "places", "options"),
    [
        ("float32", False, (0, 1, 2), {}),
        ("float32", False, (0, 1, 2), {"grad_filter": 1e-4}),
        ("float32", True, (0, 1, 3), {}),
        ("float32", False, (), {}),
        ("float32", False, (0, 1, 2), {"reduction": "none"}),
        ("bfloat16", False, (0, 1, 2), {"label_smoothing": 0.1}),
        ("bfloat16", True, (0, 3), {}),
    ],
)
def test_temporaries_keep_to_the_budget(dtype, soft, places, options):
    rows, features, classes = 400, 64, 4000
    shapes = [(rows, features), (classes, features), (classes,)]
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    target = jax.ShapeDtypeStruct((rows, classes), dtype) if soft else None
    given.append(target or jax.ShapeDtypeStruct((rows,), "int32"))

    def temporaries(budget):
        def loss(hidden, matrix, bias, target):
            return fj.linear_cross_entropy(
                hidden, matrix, target, linear_bias=bias, memory_budget=budget, **options
            ).sum()

        step = jax.value_and_grad(loss, places) if places else loss
        return jax.jit(step).lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(1.5e6) <= 1.5e6
    with pytest.raises(fastxent.OptionError, match="need at least") as error:
        temporaries(20000)
    least = int(re.search(r"at least (\d+) bytes", str(error.value))[1])
    assert temporaries(least) <= least < 400000


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_budget_of_one_row_holds_losses_of_rows(rows, dtype):
    def temporaries(classes, features, budget):
        def loss(hidden, matrix):
            target = jnp.zeros(rows, "int32")
            options = {"reduction": "none", "memory_budget": budget}
            return fj.linear_cross_entropy(hidden, matrix, target, **options).sum()

        shapes = (rows, features), (classes, features)
        given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        return step.lower(*given).compile().memory_analysis().temp_size_in_bytes

    with pytest.raises(fastxent.OptionError, match="need at least") as error:
        temporaries(5000, 8, 1)
    least = int(re.search(r"at least (\d+) bytes", str(error.value))[1])
    for factor in (1, 1.5, 1.99, 2.5):
        assert temporaries(5000, 8, int(factor * least)) <= factor * least
    assert temporaries(5_000_000, 1, None) > 0  # one row takes more than half of the default


def test_the_loss_alone_computes_one_product():
    text = jax.jit(plain).lower(HIDDEN, MATRIX).compile().as_text()
    products = len(re.findall(r" dot\(", text))
    assert products == 1
    text = jax.jit(chunked).lower(HIDDEN, MATRIX).compile().as_text()
    assert len(re.findall(r" dot\(", text)) == products
    call = next(line for line in text.splitlines() if '"fastxent_cross_entropy"' in line)
    assert ",17]" not in call.split(" custom-call(")[0]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_are_those_of_the_plain_way(reduction):
    def squared(function):
        def value(hidden, matrix):
            return (function(hidden, matrix, reduction=reduction) ** 2).sum()

        return value

    ours, theirs = squared(chunked), squared(plain)
    given = HIDDEN, MATRIX
    same(*(jax.jit(jax.grad(one, (0, 1)))(*given) for one in (ours, theirs)))

    def second(function):
        return jax.jit(jax.grad(lambda x: (jax.grad(function, 1)(x, MATRIX) ** 2).sum()))(HIDDEN)

    same(second(ours), second(theirs), 1e-5)
    tangents = jnp.cos(HIDDEN), jnp.sin(MATRIX)
    if reduction == "mean":
        dots = (jax.jit(functools.partial(jax.jvp, one)) for one in (ours, theirs))
        same(*(dot(given, tangents) for dot in dots))
    else:
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(ours, given, tangents)


def test_weights_have_derivatives_too():
    weights = jnp.asarray(RNG.uniform(0.5, 1, 24), jnp.float32)

    def of(function):
        grads = jax.grad(lambda w, x: function(x, MATRIX, sample_weight=w), (0, 1))
        return jax.jit(grads)(weights, HIDDEN)

    same(of(chunked), of(plain))


def test_vmap_scan_and_checkpoint():
    pair, pairs = jnp.stack([HIDDEN, HIDDEN + 1]), jnp.stack([TARGET, TARGET])

    def step_of(function):
        batched = jax.vmap(jax.value_and_grad(function, (0, 1)), (0, None, 0))

        def step(matrix, given):
            loss, grad = jax.value_and_grad(jax.checkpoint(function), 1)(given[0], matrix, given[1])
            return matrix - grad, loss

        of_all = jax.grad(lambda m: jax.vmap(function, (0, None, 0))(pair, m, pairs).sum())
        scanned = jax.jit(lambda m: jax.lax.scan(step, m, (pair, pairs)))
        return jax.jit(batched)(pair, MATRIX, pairs), jax.jit(of_all)(MATRIX), scanned(MATRIX)

    same(step_of(chunked), step_of(plain))


def test_rows_on_the_devices_of_a_mesh():
    code = """
        import jax, jax.numpy as jnp, numpy as np, fastxent.jax as fj
        from jax.sharding import PartitionSpec as P
        rng = np.random.default_rng(0)
        hidden = jnp.asarray(rng.normal(size=(24, 8)), jnp.float32)
        matrix = jnp.asarray(rng.normal(size=(17, 8)), jnp.float32)
        target = jnp.asarray(rng.integers(0, 17, 24)).at[:5].set(-100)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        def local(hidden, matrix, target):
            count = jax.lax.psum((target >= 0).sum(), "data")
            loss = fj.linear_cross_entropy(
                hidden, matrix, target, normalizer=count, memory_budget=7500
            )
            return jax.lax.psum(loss, "data")
        specs = P("data"), P(), P("data")
        plain = jax.value_and_grad(lambda h, w: fj.cross_entropy(h @ w.T, target), (0, 1))
        expected = jax.tree.leaves(jax.jit(plain)(hidden, matrix))
        for check in CHECKS:
            loss = jax.shard_map(
                local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check
            )
            found = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, matrix, target)
            for one, other in zip(jax.tree.leaves(found), expected):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    lines = "\n".join(line[8:] for line in code.splitlines())
    for way, checks in ("1", "(True, False)"), ("0", "(True,)"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", lines.replace("CHECKS", checks)],
            env=os.environ | {"XLA_FLAGS": flags, "FASTXENT_JAX_FFI": way},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": TARGET.at[20].set(17)}, r"target of row 20 is 17: it lies outside \[0, 17\)"),
        ({"sample_weight": jnp.ones(24).at[20].set(-1)}, "sample_weight holds -1 at place 20"),
        ({"weight": jnp.ones(17).at[3].set(jnp.nan)}, "weight holds -?nan at place 3"),
        ({"normalizer": -1.0}, "normalizer must be finite and not negative"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_known_only_when_it_runs(options, message, reverse):
    def loss(hidden):
        return chunked(hidden, MATRIX, **options)

    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(jax.jit(jax.grad(loss) if reverse else loss)(HIDDEN))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((HIDDEN, MATRIX.T, TARGET), {}, "ShapeError", "pass linear_weight.T"),
        ((HIDDEN, MATRIX, TARGET[:3]), {}, "ShapeError", "class indices"),
        ((HIDDEN, MATRIX, TARGET), {"memory_budget": 100}, "OptionError", "need at least"),
        ((HIDDEN, MATRIX, TARGET), {"grad_filter": -1.0}, "OptionError", "grad_filter"),
        ((HIDDEN.astype(int), MATRIX, TARGET), {}, "DTypeError", "hidden has dtype"),
        ((HIDDEN, MATRIX, TARGET), {"linear_bias": jnp.ones(3)}, "ShapeError", "linear_bias"),
    ],
)
def test_what_is_known_when_it_is_traced(arguments, options, error, message):
    with pytest.raises(getattr(fastxent, error), match=message):
        jax.jit(lambda *given: fj.linear_cross_entropy(*given, **options))(*arguments)


def test_sizes_have_to_be_numbers():
    (rows,) = jax.export.symbolic_shape("rows")
    given = jax.ShapeDtypeStruct((rows, 8), "float32"), jax.ShapeDtypeStruct((rows,), "int32")
    with pytest.raises(fastxent.ShapeError, match="symbolic sizes"):
        jax.export.export(jax.jit(lambda x, y: chunked(x, MATRIX, y)))(*given)
