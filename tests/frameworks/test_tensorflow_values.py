"""Values and gradients of fastxent.tensorflow beside those of tf.nn, eager and in a graph."""

import inspect

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
fxtf = pytest.importorskip("fastxent.tensorflow")

import fastxent  # noqa: E402

KINDS = ["float16", "bfloat16", "float32", "float64"]
SHAPES = [(5,), (4, 3), (2, 3, 7), (3, 2, 2, 130), (2, 1, 2, 2, 2, 3)]
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def logits_of(shape, kind="float32", seed=0, scale=3.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return tf.cast(tf.constant(values), kind)


def labels_of(shape, seed=1, dtype=np.int32):
    rows, classes = shape[:-1], shape[-1]
    return tf.constant(np.random.default_rng(seed).integers(0, classes, rows), dtype)


def probabilities_of(shape, axis=-1, kind="float32", seed=2):
    values = np.random.default_rng(seed).random(shape)
    return tf.cast(tf.constant(values / values.sum(axis, keepdims=True)), kind)


def loss_and_grads(function, upstream, *watched):
    """The losses, and the gradients of their weighted sum."""
    with tf.GradientTape() as tape:
        for tensor in watched:
            tape.watch(tensor)
        loss = function(*watched)
        total = tf.reduce_sum(loss * tf.cast(upstream, loss.dtype))
    return loss, tape.gradient(total, watched)


def exact(function, upstream, *watched):
    """The same by tf.nn in float64, from the same numbers."""
    wide = [tf.cast(tensor, tf.float64) for tensor in watched]
    return loss_and_grads(function, upstream, *wide)


def assert_close(actual, expected, kind, scale=8.0):
    """Within a few roundings of numbers of this size in this dtype."""
    assert actual.dtype == kind
    actual, expected = (tf.cast(tensor, tf.float64).numpy() for tensor in (actual, expected))
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=scale * EPS[kind], atol=EPS[kind] * largest)


def in_both_modes(function):
    return {"eager": function, "graph": tf.function(function)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparse(shape, kind):
    logits, labels = logits_of(shape, kind), labels_of(shape)
    upstream = np.random.default_rng(3).normal(size=shape[:-1])

    def ours(x):
        return fxtf.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)

    def theirs(x):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)

    rounded = tf.cast(tf.cast(upstream, kind), tf.float64)
    expected, (expected_grad,) = exact(theirs, rounded, logits)
    for run in in_both_modes(lambda x: loss_and_grads(ours, upstream, x)).values():
        loss, (grad,) = run(logits)
        assert_close(loss, expected, kind)
        assert_close(grad, expected_grad, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
def test_softmax(axis, kind):
    shape = (4, 6, 3)
    logits, labels = logits_of(shape, kind), probabilities_of(shape, axis, kind)
    upstream = np.random.default_rng(3).normal(size=np.delete(shape, axis))

    def theirs(x, y):
        # tf.nn's gradient takes it for granted that labels sum to 1; those of half precision do not
        return -tf.reduce_sum(y * tf.nn.log_softmax(x, axis), axis)

    def ours(x, y):
        return fxtf.softmax_cross_entropy_with_logits(labels=y, logits=x, axis=axis)

    rounded = tf.cast(tf.cast(upstream, kind), tf.float64)
    expected, expected_grads = exact(theirs, rounded, logits, labels)
    for run in in_both_modes(lambda x, y: loss_and_grads(ours, upstream, x, y)).values():
        loss, grads = run(logits, labels)
        assert_close(loss, expected, kind)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            assert_close(grad, expected_grad, kind)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_equals_that_of_tf_nn(axis, kind):
    shape = (4, 6, 3)
    logits, labels = logits_of(shape, kind), probabilities_of(shape, axis, kind)
    upstream = np.random.default_rng(3).normal(size=np.delete(shape, axis))
    results = [
        loss_and_grads(
            lambda x, y, f=function: f(labels=y, logits=x, axis=axis), upstream, logits, labels
        )
        for function in (
            fxtf.softmax_cross_entropy_with_logits,
            tf.nn.softmax_cross_entropy_with_logits,
        )
    ]
    (loss, grads), (expected, expected_grads) = results
    assert_close(loss, expected, kind)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad, kind, scale=16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 40)], ids=str)
def test_sigmoid(shape, kind):
    logits = logits_of(shape, kind, scale=6.0)
    labels = tf.cast(np.random.default_rng(2).random(shape), kind)
    upstream = np.random.default_rng(3).normal(size=shape)
    rounded = tf.cast(tf.cast(upstream, kind), tf.float64)

    def ours(x, y):
        return fxtf.sigmoid_cross_entropy_with_logits(labels=y, logits=x)

    def theirs(x, y):
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)

    expected, expected_grads = exact(theirs, rounded, logits, labels)
    for run in in_both_modes(lambda x, y: loss_and_grads(ours, upstream, x, y)).values():
        loss, grads = run(logits, labels)
        assert_close(loss, expected, kind)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            assert_close(grad, expected_grad, kind)


@pytest.mark.parametrize(
    "name",
    [
        "sparse_softmax_cross_entropy_with_logits",
        "softmax_cross_entropy_with_logits",
        "sigmoid_cross_entropy_with_logits",
    ],
)
def test_signatures_are_those_of_tf_nn(name):
    ours, theirs = (inspect.signature(getattr(place, name)) for place in (fxtf, tf.nn))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
def test_labels_of_any_integers(dtype):
    logits = logits_of((6, 4))
    labels = labels_of((6, 4), dtype=dtype)
    ours = fxtf.sparse_softmax_cross_entropy_with_logits(labels, logits)
    wide = tf.cast(labels, tf.int64)
    theirs = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=wide, logits=logits)
    assert_close(ours, theirs, "float32")


def test_lists_variables_and_one_hot_integers():
    rows = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[1, 0], logits=rows)
    assert_close(fxtf.sparse_softmax_cross_entropy_with_logits([1, 0], rows), expected, "float32")
    one_hot = [[0, 1, 0], [1, 0, 0]]
    assert_close(fxtf.softmax_cross_entropy_with_logits(one_hot, rows), expected, "float32")
    booleans = tf.constant(one_hot) == 1
    assert_close(fxtf.softmax_cross_entropy_with_logits(booleans, rows), expected, "float32")
    weights = tf.Variable(rows)
    with tf.GradientTape() as tape:
        loss = fxtf.sparse_softmax_cross_entropy_with_logits([1, 0], weights)
    expected = tf.nn.softmax(weights) - tf.constant(one_hot, tf.float32)
    assert_close(tape.gradient(loss, weights), expected, "float32")


def test_a_loss_scale_saves_gradients_that_half_precision_cannot_hold():
    """2**-26 is 0 in float16; times 2**15 it is not: the factor comes before the rounding."""
    logits = tf.constant([[0.0, -18.0]], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = fxtf.sparse_softmax_cross_entropy_with_logits([0], logits) * 2.0**15
    grad = tape.gradient(loss, logits).numpy()
    np.testing.assert_allclose(grad, [[-(2**15) * np.exp(-18.0), 2**15 * np.exp(-18.0)]], rtol=1e-3)


def test_unequal_masses_and_masked_classes():
    """What tf.nn gets wrong is right: T p - t for labels that sum to T, and 0 * inf = 0."""
    logits = tf.constant([[0.5, -1.0, -np.inf]])
    labels = tf.constant([[2.0, 1.0, 0.0]])
    loss, (grad,) = loss_and_grads(
        lambda x: fxtf.softmax_cross_entropy_with_logits(labels, x), [1.0], logits
    )
    p = np.array([1.0, np.exp(-1.5)]) / (1 + np.exp(-1.5))
    np.testing.assert_allclose(loss, [-(2 * np.log(p[0]) + np.log(p[1]))], rtol=1e-6)
    np.testing.assert_allclose(grad, [[3 * p[0] - 2, 3 * p[1] - 1, 0]], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("axis", [1, -1])
def test_cross_entropy_has_the_options_of_keras(axis, smoothing):
    shape = (3, 4, 4)
    logits = logits_of(shape)
    labels = labels_of((3, 4, 4), dtype=np.int64).numpy()
    labels[0, 1] = labels[2, 3] = -7
    counted = labels != -7
    mass = np.moveaxis(np.eye(4)[labels * counted] * (1 - smoothing) + smoothing / 4, -1, axis)
    mass = mass * np.expand_dims(counted, axis)
    poisoned = np.where(np.expand_dims(counted, axis), logits, np.nan).astype(np.float32)
    loss, (grad,) = loss_and_grads(
        lambda x: fxtf.cross_entropy(
            x, labels, axis=axis, ignore_index=-7, label_smoothing=smoothing
        ),
        np.ones((3, 4)),
        tf.constant(poisoned),
    )
    wide = tf.cast(logits, tf.float64)
    log_p = tf.nn.log_softmax(wide, axis).numpy()
    assert_close(loss, tf.constant(-(mass * log_p).sum(axis)), "float32")
    expected = np.exp(log_p) * mass.sum(axis, keepdims=True) - mass
    assert_close(grad, tf.constant(expected), "float32")
    soft, (soft_grad,) = loss_and_grads(
        lambda x: fxtf.cross_entropy(
            x, tf.one_hot(labels, 4, axis=axis), axis=axis, label_smoothing=smoothing
        ),
        counted,
        logits,
    )
    assert_close(soft * counted, loss, "float32")
    assert_close(soft_grad, grad, "float32")


@pytest.mark.parametrize("dtype", [tf.complex64, tf.string])
def test_labels_that_are_no_real_numbers_are_refused(dtype):
    labels = tf.zeros((2, 3), dtype)
    with pytest.raises(fastxent.DTypeError, match=f"labels have dtype {dtype.name}"):
        fxtf.softmax_cross_entropy_with_logits(labels=labels, logits=tf.zeros((2, 3)))
