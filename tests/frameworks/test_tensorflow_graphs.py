"""fastxent.tensorflow in graphs: shapes, errors and memory, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
fxtf = pytest.importorskip("fastxent.tensorflow")

import fastxent as fx  # noqa: E402
from fastxent.checks import tensorflow as checks  # noqa: E402

RNG = np.random.default_rng(0)


def grad_of(function):
    def grad(*watched):
        with tf.GradientTape() as tape:
            tape.watch(watched[0])
            loss = function(*watched)
        return loss, tape.gradient(loss, watched[0])

    return grad


def sparse(logits, labels):
    return fxtf.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def sparse_of_tf(logits, labels):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


@pytest.mark.parametrize(
    ("static", "labels_static"),
    [((None, 7), (None,)), ((None, None), (None,)), ((None, None, 7), (None, None)), (None, None)],
    ids=str,
)
def test_unknown_sizes(static, labels_static):
    """One trace serves every batch, and what is known about shapes is passed on."""
    traces, rank = [], 2 if static is None else len(static)

    @tf.function(
        input_signature=[tf.TensorSpec(static), tf.TensorSpec(labels_static, tf.int64)],
        autograph=False,
    )
    def run(logits, labels):
        loss, grad = grad_of(sparse)(logits, labels)
        traces.append((loss.shape, grad.shape))
        return loss, grad

    for rows in (3, 0, 50):
        shape = (rows, 7) if rank == 2 else (rows, 2, 7)
        logits = tf.constant(RNG.normal(size=shape), tf.float32)
        labels = tf.constant(RNG.integers(0, 7, shape[:-1]))
        for actual, expected in zip(
            run(logits, labels), grad_of(sparse_of_tf)(logits, labels), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    ((loss_shape, grad_shape),) = traces
    assert str(loss_shape) == str(tf.TensorShape(labels_static))
    assert str(grad_shape) == str(tf.TensorShape(static))


def test_unknown_rank_of_probabilities():
    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def run(logits, labels):
        with tf.GradientTape() as tape:
            tape.watch([logits, labels])
            loss = fxtf.softmax_cross_entropy_with_logits(labels, logits)
        return tape.gradient(loss, [logits, labels])

    logits = tf.constant(RNG.normal(size=(2, 5, 3)), tf.float32)
    labels = tf.nn.softmax(tf.constant(RNG.normal(size=(2, 5, 3)), tf.float32))
    grads = run(logits, labels)
    np.testing.assert_allclose(grads[0], tf.nn.softmax(logits) - labels, atol=1e-6)
    np.testing.assert_allclose(grads[1], -tf.nn.log_softmax(logits), rtol=1e-5)

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def along_another_axis(logits, labels):
        return fxtf.softmax_cross_entropy_with_logits(labels, logits, axis=1)

    with pytest.raises(fx.ShapeError, match=r"tf\.ensure_shape"):
        along_another_axis(logits, labels)


def test_tape_around_a_function_and_static_shapes():
    run = tf.function(sparse)
    logits = tf.constant(RNG.normal(size=(4, 3)), tf.float32)
    loss, grad = grad_of(run)(logits, tf.constant([0, 1, 2, 0]))
    expected = grad_of(sparse_of_tf)(logits, tf.constant([0, 1, 2, 0]))
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grad, expected[1], atol=1e-7)
    concrete = run.get_concrete_function(logits, tf.constant([0, 1, 2, 0]))
    assert concrete.output_shapes == (4,)


def test_in_a_dataset():
    logits = RNG.normal(size=(6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    data = tf.data.Dataset.from_tensor_slices((logits, labels)).batch(4).map(sparse)
    losses = np.concatenate([loss.numpy() for loss in data])
    np.testing.assert_allclose(losses, sparse_of_tf(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rows", [3, 400, 401])
def test_memory_that_tensors_take_over(rows, kind):
    """Small and large results, aligned and not: TensorFlow aborts on a tensor that is not."""
    logits = tf.cast(RNG.normal(size=(rows, 33)), kind)
    labels = tf.constant(RNG.integers(0, 33, rows))
    for run in (grad_of(sparse), tf.function(grad_of(sparse))):
        _, grad = run(logits[1:], labels[1:])  # a slice begins anywhere
        first = tf.cast(grad, tf.float64)
        run(logits[1:], labels[1:])
        wide = tf.cast(logits[1:], tf.float64)
        expected = tf.nn.softmax(wide) - tf.one_hot(labels[1:], 33, dtype=tf.float64)
        eps = np.finfo(np.float16).eps if kind == "float16" else 2.0**-8
        np.testing.assert_allclose(first, expected, rtol=eps, atol=1e-6)
        np.testing.assert_array_equal(tf.cast(grad, tf.float64), first)  # the memory is its own


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_large_tensors_are_not_copied(kind, monkeypatch):
    """The arrays that the kernels see begin where the tensors do."""
    from fastxent.tensorflow import softmax

    seen = []
    build = softmax.Problem.build

    def spy(logits, target, **options):
        seen.append((logits.ctypes.data, target.ctypes.data))
        return build(logits, target, **options)

    monkeypatch.setattr(softmax.Problem, "build", spy)
    deliver = softmax.Problem.later_grad
    made = []

    def keep(*arguments):
        made.append(deliver(*arguments))
        return made[-1]

    monkeypatch.setattr(softmax.Problem, "later_grad", keep)
    logits = tf.cast(RNG.normal(size=(300, 200)), kind)
    labels = tf.constant(RNG.integers(0, 200, 300))
    for run in (grad_of(sparse), tf.function(grad_of(sparse))):
        seen.clear()
        _, grad = run(logits, labels)
        inputs = tuple(np.asarray(tensor).ctypes.data for tensor in (logits, labels))
        assert set(seen) == {inputs}
        assert np.asarray(grad).ctypes.data == made[-1].ctypes.data


@pytest.mark.parametrize("labels", [[0, 3, 1], [0, -1, 1]])
def test_bad_labels(labels):
    logits = tf.zeros((3, 3))
    with pytest.raises(fx.LabelError, match=rf"target\[1\] is {labels[1]}: .* C = 3"):
        sparse(logits, tf.constant(labels))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"target\[1\] is {labels[1]}"):
        tf.function(sparse)(logits, tf.constant(labels))
    with pytest.raises(fx.LabelError, match="is 2: integer targets are 0 or 1"):
        fxtf.sigmoid_cross_entropy_with_logits(tf.constant([0, 2]), tf.zeros(2))


LOGITS, PROBABILITIES = tf.zeros((3, 4)), tf.ones((3, 4))
WRONG = {
    "rows": (lambda: sparse(LOGITS, [0, 1]), ValueError, r"labels need shape \(3,\)"),
    "one hot": (lambda: sparse(LOGITS, tf.ones((3, 4), tf.int32)), ValueError, "one-hot rows go"),
    "floats": (lambda: sparse(LOGITS, [0.0, 1.0, 2.0]), TypeError, "must be integers"),
    "scalar": (lambda: sparse(tf.constant(1.0), 0), ValueError, "logits are a scalar"),
    "no class": (lambda: sparse(tf.zeros((3, 0)), [0, 0, 0]), ValueError, "no class"),
    "integers": (lambda: sparse(tf.zeros((3, 4), tf.int32), [0, 0, 0]), TypeError, "silently"),
    "indices": (
        lambda: fxtf.softmax_cross_entropy_with_logits([0, 1, 2], LOGITS),
        ValueError,
        "class indices go to sparse",
    ),
    "broadcast": (
        lambda: fxtf.softmax_cross_entropy_with_logits(tf.ones((1, 4)), LOGITS),
        ValueError,
        r"shape of the logits, \(3, 4\); they have shape \(1, 4\)",
    ),
    "axis": (
        lambda: fxtf.softmax_cross_entropy_with_logits(PROBABILITIES, LOGITS, axis=2),
        ValueError,
        "axis 2 is out of range",
    ),
    "axis 1.5": (
        lambda: fxtf.softmax_cross_entropy_with_logits(PROBABILITIES, LOGITS, axis=1.5),
        TypeError,
        "one integer",
    ),
    "elements": (
        lambda: fxtf.sigmoid_cross_entropy_with_logits(tf.ones((4, 3)), LOGITS),
        ValueError,
        "one for each",
    ),
    "nothing": (lambda: fxtf.sigmoid_cross_entropy_with_logits(LOGITS), ValueError, "pass both"),
    "smoothing": (
        lambda: fxtf.cross_entropy(LOGITS, PROBABILITIES, label_smoothing=2.0),
        ValueError,
        "label_smoothing",
    ),
    "ignored": (
        lambda: fxtf.cross_entropy(LOGITS, PROBABILITIES, ignore_index=0),
        ValueError,
        "ignore_index",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    """Errors of ours, in eager mode and while a graph is built, AutoGraph or not."""
    call, error, message = WRONG[case]
    for run in (call, tf.function(call), tf.function(call, autograph=False)):
        expected = (error, tf.errors.InvalidArgumentError) if case == "no class" else error
        with pytest.raises(expected, match=message) as caught:
            run()
        assert isinstance(caught.value, (fx.FastxentError, tf.errors.InvalidArgumentError))


@pytest.mark.parametrize("nested", [False, True])
def test_xla_is_refused(nested):
    inner = tf.function(sparse) if nested else sparse
    compiled = tf.function(lambda: inner(LOGITS, [0, 1, 2]), jit_compile=True)
    with pytest.raises(fx.BackendError, match="jit_compile=True"):
        compiled()


def test_tensors_of_other_devices_are_refused():
    """There is no GPU here: the check gets the name that TensorFlow gives one."""
    with pytest.raises(fx.DTypeError, match="GPU:0 and no backend"):
        checks.check_eager_device("/job:localhost/replica:0/task:0/device:GPU:0", "a tensor")
    assert "CPU" in LOGITS.backing_device
    checks.check_eager_device(LOGITS.backing_device, "a tensor")


def test_a_missing_framework_says_how_to_get_it():
    for framework in ("tensorflow", "keras"):
        code = (
            f"import sys; sys.modules['{framework}'] = None\n"
            f"try: import fastxent.{framework}\n"
            "except ImportError as error: print(error)\n"
        )
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert "pip install 'fastxent[tensorflow]'" in output
