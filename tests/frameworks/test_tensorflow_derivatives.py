"""Second derivatives, Jacobians, forward mode and vectorised maps of fastxent.tensorflow."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
fxtf = pytest.importorskip("fastxent.tensorflow")

SHAPE = (5, 4)
RNG = np.random.default_rng(0)
LOGITS = tf.constant(RNG.normal(scale=2.0, size=SHAPE))
LABELS = tf.constant(RNG.integers(0, 4, 5))
SOFT = tf.constant(RNG.random(SHAPE) + 0.1)  # rows need not sum to one
FACTORS = tf.constant(RNG.normal(size=SHAPE))


def in_formula(x, y, axis=-1):
    """The loss of probabilities in differentiable operations of TensorFlow."""
    return -tf.reduce_sum(y * tf.nn.log_softmax(x, axis), axis)


def sparse(x):
    return fxtf.sparse_softmax_cross_entropy_with_logits(labels=LABELS, logits=x)


def sparse_of_tf(x):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=LABELS, logits=x)


def softmax(x, y):
    return fxtf.softmax_cross_entropy_with_logits(labels=y, logits=x)


def columns(x, y):
    return fxtf.softmax_cross_entropy_with_logits(labels=y, logits=x, axis=0)


def smooth(x):
    labels = tf.where(LABELS == 1, tf.constant(-100, tf.int64), LABELS)
    return fxtf.cross_entropy(x, labels, ignore_index=-100, label_smoothing=0.2)


def smooth_in_formula(x):
    mass = (0.8 * tf.one_hot(LABELS, 4, dtype=x.dtype) + 0.05) * tf.cast(LABELS != 1, x.dtype)[
        :, None
    ]
    return in_formula(x, mass)


def smooth_soft(x, y):
    return fxtf.cross_entropy(x, y, label_smoothing=0.2)


def sigmoid(x, y):
    return fxtf.sigmoid_cross_entropy_with_logits(labels=y, logits=x)


def sigmoid_of_tf(x, y):
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)


def sigmoid_of_integers(x):
    return fxtf.sigmoid_cross_entropy_with_logits(labels=tf.cast(SOFT > 0.5, tf.int32), logits=x)


def sigmoid_of_integers_of_tf(x):
    return sigmoid_of_tf(x, tf.cast(SOFT > 0.5, x.dtype))


PAIRS = {
    "sparse": (sparse, sparse_of_tf, (LOGITS,)),
    "softmax": (softmax, in_formula, (LOGITS, SOFT)),
    "axis 0": (columns, lambda x, y: in_formula(x, y, 0), (LOGITS, SOFT)),
    "smooth": (smooth, smooth_in_formula, (LOGITS,)),
    "smooth soft": (smooth_soft, lambda x, y: in_formula(x, 0.8 * y + 0.05), (LOGITS, SOFT)),
    "sigmoid": (sigmoid, sigmoid_of_tf, (LOGITS, SOFT)),
    "sigmoid of integers": (sigmoid_of_integers, sigmoid_of_integers_of_tf, (LOGITS,)),
}
EACH = pytest.mark.parametrize("case", PAIRS)


def nested(function, order):
    """Gradients of this order, of sums that depend on every derivative in a way of its own."""

    def derived(*watched):
        with tf.GradientTape() as tape:
            for tensor in watched:
                tape.watch(tensor)
            values = derived_before(*watched)
            total = tf.add_n([tf.reduce_sum(tf.sin(value + 0.3)) for value in values])
        return tape.gradient(total, watched)

    derived_before = nested(function, order - 1) if order > 1 else lambda *x: [function(*x)]
    return derived


def assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@EACH
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_higher_order(case, order, mode):
    ours, theirs, watched = PAIRS[case]
    run = nested(ours, order)
    assert_close(
        (tf.function(run) if mode == "graph" else run)(*watched), nested(theirs, order)(*watched)
    )


@EACH
def test_first_order_by_finite_differences(case):
    ours, _, watched = PAIRS[case]
    theoretical, numerical = tf.test.compute_gradient(ours, list(watched), delta=1e-5)
    for one, other in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("case", ["sparse", "softmax", "sigmoid"])
def test_jacobian_and_hessian(case):
    ours, theirs, watched = PAIRS[case]

    def both(function):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(watched)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(watched)
                loss = function(*watched)
            jacobian = tape.jacobian(loss, watched[0])
            (grad,) = tape.gradient(loss, watched[:1], output_gradients=loss)
        return jacobian, outer.jacobian(grad, watched[0])

    assert_close(both(ours), both(theirs))


@EACH
def test_persistent_tape(case):
    """Two gradients from one tape, of different upstream gradients."""
    ours, theirs, watched = PAIRS[case]
    results = []
    for function in (ours, theirs):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(watched)
            loss = function(*watched)
            square = loss * loss
        results.append([*tape.gradient(loss, watched), *tape.gradient(square, watched)])
    assert_close(*results)


@EACH
def test_forward_mode(case):
    ours, theirs, watched = PAIRS[case]
    results = []
    for function in (ours, theirs):
        tangents = tuple(FACTORS * (1 + i) for i in range(len(watched)))
        with tf.autodiff.ForwardAccumulator(watched, tangents) as forward:
            with tf.GradientTape() as tape:
                tape.watch(watched)
                loss = function(*watched)
            grad = tape.gradient(loss, watched[0])
        results.append([forward.jvp(loss), forward.jvp(grad)])
    assert_close(*results)


def test_forward_mode_in_a_graph_is_refused():
    """TensorFlow would answer 0."""

    @tf.function
    def jvp(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as forward:
            loss = sparse(x)
        return forward.jvp(loss)

    with pytest.raises(ValueError, match=r"in eager mode, or with tf\.GradientTape"):
        jvp(LOGITS)


@pytest.mark.parametrize("case", ["sparse", "sigmoid of integers"])
def test_vectorized_map(case):
    ours, theirs, _ = PAIRS[case]
    batch = tf.stack([LOGITS, -LOGITS, FACTORS])

    def grad_of(function):
        def grad(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = function(x)
            return loss, tape.gradient(loss, x)

        return grad

    expected = [tf.stack(part) for part in zip(*map(grad_of(theirs), batch), strict=True)]
    assert_close(tf.vectorized_map(grad_of(ours), batch), expected)
    signature = (tf.TensorSpec(None, tf.float64), tf.TensorSpec(None, tf.float64))
    assert_close(tf.map_fn(grad_of(ours), batch, fn_output_signature=signature), expected)


def test_gradient_of_labels_is_computed_only_if_a_tape_watches_them(monkeypatch):
    calls = []
    log_softmax = tf.nn.log_softmax
    monkeypatch.setattr(tf.nn, "log_softmax", lambda *a: calls.append(1) or log_softmax(*a))
    for watched, expected in (((LOGITS,), 0), ((LOGITS, SOFT), 1), ((SOFT,), 1)):
        calls.clear()
        with tf.GradientTape() as tape:
            tape.watch(watched)
            loss = softmax(LOGITS, SOFT)
        grads = tape.gradient(loss, watched)
        assert len(calls) == expected
        assert all(grad is not None for grad in grads)


def test_no_gradient_for_integers_and_stopped_tensors():
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([LOGITS, SOFT])
        loss = softmax(tf.stop_gradient(LOGITS), SOFT)
        other = softmax(LOGITS, tf.stop_gradient(SOFT))
    assert tape.gradient(loss, LOGITS) is None
    assert tape.gradient(other, SOFT) is None
    assert tape.gradient(other, LOGITS) is not None


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_second_order_of_half_precision(kind):
    def run(function, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = function(x)
            grad = tape.gradient(loss, x)
            total = tf.reduce_sum(tf.cast(grad, tf.float64) * FACTORS)
        return outer.gradient(total, x)

    logits = tf.cast(LOGITS, kind)
    actual = run(sparse, logits)
    assert actual.dtype == kind
    expected = run(sparse_of_tf, tf.cast(logits, tf.float64))
    eps = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[kind]
    np.testing.assert_allclose(tf.cast(actual, tf.float64), expected, rtol=4 * eps, atol=2 * eps)


def test_an_ignored_label_that_the_dtype_cannot_hold():
    """-100 is 156 where it is forced into uint8, and label 156 counts."""
    logits = tf.constant(RNG.normal(size=(2, 200)))

    def second(dtype, ignored):
        labels = tf.constant([156, 3], dtype)
        run = nested(lambda x: fxtf.cross_entropy(x, labels, ignore_index=ignored), 2)
        return run(logits)

    assert_close(second(tf.uint8, -100), second(tf.int64, None))


@pytest.mark.parametrize("order", [1, 2])
def test_ignored_rows_may_hold_anything(order):
    labels = tf.constant([0, -1, 2, 3, -1])
    counted = (labels >= 0)[:, None]

    def ours(x):
        return fxtf.cross_entropy(x, labels, ignore_index=-1)

    poisoned = tf.where(counted, LOGITS, np.nan)
    assert_close(nested(ours, order)(poisoned), nested(ours, order)(LOGITS))


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivatives_of_a_bad_label(mode, bad):
    """A graph drops the first pass, which has the error: what is left must not look right."""
    labels = LABELS.numpy()

    def second(x, target):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                losses = fxtf.cross_entropy(x, target, ignore_index=-100)
            grad = inner.gradient(losses, x)
        return outer.gradient(grad, x, FACTORS)

    run = tf.function(second) if mode == "graph" else second
    labels[1] = -100
    assert np.isfinite(run(LOGITS, tf.constant(labels))).all()
    labels[2] = bad
    try:
        found = run(LOGITS, tf.constant(labels)).numpy()
    except (tf.errors.InvalidArgumentError, IndexError):
        return
    assert mode == "graph"
    assert np.isnan(found[[0, 2, 3, 4]]).all()
