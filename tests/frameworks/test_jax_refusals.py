"""What fastxent.jax must refuse although nobody asks for the loss, or knows the sizes."""

import ml_dtypes
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

jnp = jax.numpy

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 2, -100, 1], np.int32)
SMALL_FLOATS = sorted(
    name for name in dir(ml_dtypes) if name.startswith("float8") and hasattr(jnp, name)
)
OURS = [jax.export.DisabledSafetyCheck.custom_call("fastxent_cross_entropy")]


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_floats_of_eight_bits_are_refused(name):
    small = jnp.zeros((2, 3), name)
    for given in ((small, jnp.array([0, 1])), (jnp.zeros((2, 3)), small)):
        with pytest.raises(fastxent.DTypeError, match=name):
            fj.cross_entropy(*given)
    with pytest.raises(fastxent.DTypeError, match=name):
        fj.softmax(small)


@pytest.mark.parametrize("target", ["float8_e5m2", "float32"])
@pytest.mark.parametrize("weight", [None, np.float16])
def test_the_handler_looks_at_dtypes_itself(target, weight):
    # as a program may call it that was exported by another version
    integers = np.array([2, 0, 2, 0, 0, 0, weight is not None, 0, 0, 0, 0, 0, 0], np.int64)
    numbers = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    given = [jnp.zeros((2, 3)), jnp.full((2, 3), 1 / 3, target)]
    if weight is not None:
        given.append(jnp.ones(3, weight))
    call = jax.ffi.ffi_call("fastxent_cross_entropy", [jax.ShapeDtypeStruct((), jnp.float32)])
    if target == "float32" and weight is None:
        np.testing.assert_allclose(
            call(*given, integers=integers, numbers=numbers)[0], np.log(3), rtol=1e-6
        )
        return
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"another (form|type) than"):
        jax.block_until_ready(call(*given, integers=integers, numbers=numbers))


@pytest.mark.parametrize("dtype", ["float8_e5m2", "int32"])
def test_the_softmax_handler_looks_at_the_dtype_itself(dtype):
    result = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    call = jax.ffi.ffi_call("fastxent_softmax", [result])
    with pytest.raises(jax.errors.JaxRuntimeError, match="another form than"):
        jax.block_until_ready(
            call(jnp.zeros((2, 3), dtype), integers=np.zeros(3, np.int64), numbers=np.zeros(1))
        )


@pytest.mark.parametrize("name", ["weight", "sample_weight", "target"])
def test_sizes_are_compared_when_an_exported_program_runs(name):
    rows, classes, other = jax.export.symbolic_shape("rows, classes, other")
    sizes = {"target": rows, "weight": classes, "sample_weight": rows}

    def loss(logits, target, weight, sample_weight):
        return fj.cross_entropy(logits, target, weight=weight, sample_weight=sample_weight)

    def exported(sizes):
        return jax.export.export(jax.jit(loss), disabled_checks=OURS)(
            jax.ShapeDtypeStruct((rows, classes), jnp.float32),
            *(
                jax.ShapeDtypeStruct((size,), jnp.int32 if key == "target" else jnp.float32)
                for key, size in sizes.items()
            ),
        )

    given = LOGITS, np.maximum(LABELS, 0), np.ones(3, np.float32), np.ones(4, np.float32)
    found = exported(sizes).call(*given)
    np.testing.assert_allclose(found, fastxent.cross_entropy(*given[:2]), rtol=1e-6)
    with pytest.raises(fastxent.ShapeError):
        exported(sizes | {name: other})


@pytest.mark.parametrize("at", [2, 3, 4])
def test_the_handler_compares_sizes(at):
    integers = np.array([2, 0, 2, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], np.int64)
    numbers = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    given = [LOGITS, np.maximum(LABELS, 0), *(jnp.ones(size) for size in (3, 4, 1))]
    call = jax.ffi.ffi_call("fastxent_cross_entropy", [jax.ShapeDtypeStruct((), jnp.float32)])
    jax.block_until_ready(call(*given, integers=integers, numbers=numbers))
    for size in (given[at].size - 1, given[at].size + 1):
        wrong = [*given[:at], jnp.ones(size), *given[at + 1 :]]
        with pytest.raises(jax.errors.JaxRuntimeError, match="another shape than the rows or"):
            jax.block_until_ready(call(*wrong, integers=integers, numbers=numbers))


def test_an_exported_program_takes_any_number_of_classes():
    rows, classes = jax.export.symbolic_shape("rows, classes")

    def loss(logits, labels):
        return fj.cross_entropy(logits, labels, label_smoothing=0.1)

    step = jax.jit(jax.value_and_grad(loss))
    program = jax.export.export(step, disabled_checks=OURS)(
        jax.ShapeDtypeStruct((rows, classes), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    value, grad = program.call(LOGITS, LABELS)
    expected = fastxent.cross_entropy_and_grad(LOGITS, LABELS, label_smoothing=0.1)
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


GOOD = {
    "target": np.array([0, 2, 1, 1], np.int32),
    "weight": np.ones(3, np.float32),
    "sample_weight": np.ones(4, np.float32),
    "normalizer": np.float32(4.0),
}
BAD = {
    "label": {"target": np.array([0, 3, 1, 1], np.int32)},
    "negative label": {"target": np.array([0, 2, 1, -1], np.int32)},
    "weight": {"weight": np.array([1.0, -1.0, 1.0], np.float32)},
    "infinite weight": {"weight": np.array([1.0, np.inf, 1.0], np.float32)},
    "sample_weight": {"sample_weight": np.array([1.0, 1.0, -2.0, 1.0], np.float32)},
    "normalizer": {"normalizer": np.float32(-3.0)},
}


def derivatives_without_a_pass(reduction):
    def loss(factors, logits, target):
        rows = fj.cross_entropy(logits, target, reduction=reduction, **factors)
        return rows.sum()

    return jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss, 1))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_without_a_pass_are_nan_where_it_would_refuse(reduction):
    """XLA drops the pass, which has the error: nothing that looks like a result may stay."""

    def found(given):
        target, *factors = given.values()
        named = dict(zip(list(given)[1:], factors, strict=True))
        if reduction == "none":
            del named["normalizer"]
        for derivative in derivatives:
            yield from jax.tree.leaves(derivative(named, LOGITS, target))

    derivatives = derivatives_without_a_pass(reduction)
    assert all(np.isfinite(x).all() for x in found(GOOD))
    assert sum(np.abs(x).sum() > 1e-3 for x in found(GOOD)) >= 2
    for name, bad in BAD.items():
        if reduction == "none" and name == "normalizer":
            continue
        refused = []
        try:
            for x in found(GOOD | bad):
                refused.append(np.isnan(x).all())
        except jax.errors.JaxRuntimeError:  # XLA kept the pass
            refused.append(True)
        assert refused, name
        assert all(refused), name


def test_labels_of_a_dtype_shorter_than_the_classes():
    logits = RNG.normal(size=(2, 300)).astype(np.float32)
    labels = np.array([3, 120], np.int8)
    found = jax.hessian(lambda x: fj.cross_entropy(x, labels))(logits)
    expected = jax.hessian(lambda x: fj.cross_entropy(x, labels.astype(np.int32)))(logits)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("function", [fj.softmax, fj.log_softmax, fj.logsumexp])
def test_a_traced_axis_is_a_clear_error(function):
    with pytest.raises(fastxent.DTypeError, match="axis is a traced"):
        jax.jit(function)(LOGITS, 1)


def test_a_masked_label_has_the_derivative_of_the_kernel_under_a_softcap():
    logits = jnp.array([[-jnp.inf, 0.5, 1.0]])
    labels = jnp.array([0])

    def loss(x, w):
        return fj.cross_entropy(x, labels, softcap=4.0, weight=w, reduction="sum")

    kernel = jax.grad(loss)(logits, jnp.ones(3))
    plain = jax.jvp(lambda w: jax.grad(loss)(logits, w), (jnp.ones(3),), (jnp.ones(3),))[1]
    # the loss is linear in a factor that all weights share
    np.testing.assert_allclose(plain, kernel, atol=1e-6)
    assert kernel[0, 0] == 0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, list])
def test_labels_that_32_bits_do_not_hold_are_refused(dtype):
    labels = [0, 1, 2**32 + 1, 2]
    labels = labels if dtype is list else np.array(labels, dtype)
    message = "(u?)int32 of target's (u?)int64, which does not hold the label 4294967297 of row 2"
    with pytest.raises(fastxent.LabelError, match=message):
        fj.cross_entropy(LOGITS, labels)
    with jax.enable_x64(True), pytest.raises(jax.errors.JaxRuntimeError, match="4294967297"):
        jax.block_until_ready(fj.cross_entropy(LOGITS, labels))


def test_an_ignored_label_that_32_bits_do_not_hold_is_refused():
    labels = np.array([0, 1, 1, 2])
    with pytest.raises(fastxent.OptionError, match="hold ignore_index = -4294967296"):
        fj.cross_entropy(LOGITS, labels, ignore_index=-(2**32))
    # no label of such an array can be that one in the first place
    given = labels.astype(np.int32)
    assert fj.cross_entropy(LOGITS, given, ignore_index=-(2**32)) == fj.cross_entropy(LOGITS, given)
    assert fj.cross_entropy(LOGITS, labels) == fj.cross_entropy(LOGITS, labels.tolist())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_message_tells_the_row_of_a_call_under_vmap(reduction):
    labels = np.array([[0, 1, 2, 0], [0, 1, 7, 0]], np.int32)
    calls = jax.vmap(lambda x, y: fj.cross_entropy(x, y, reduction=reduction))
    message = r"the target of row 6 \(row 2 of call 1\) is 7: it lies"
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(calls(np.stack([LOGITS, LOGITS]), labels))
