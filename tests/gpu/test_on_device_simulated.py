"""Calls with arrays of a GPU through the backend on the simulated GPU; nothing is read back."""

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import fastxent as fx
from fastxent.backends import load
from gpu.arrays import STREAM, ByInterface, Putter, numbers

ROWS, CLASSES = 5, 37
DRAW = np.random.default_rng(0)
LOGITS = (DRAW.standard_normal((ROWS, CLASSES)) * 4).astype(np.float32)
LABELS = np.array([3, 36, -100, 0, 20])
SOFT = DRAW.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
WEIGHT = DRAW.uniform(0.5, 2, CLASSES).astype(np.float32)
OF_ROWS = DRAW.uniform(0.5, 2, ROWS).astype(np.float32)
ALL = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")


@pytest.fixture
def put(simulated, monkeypatch):
    """Copies arrays to the simulated GPU, which nothing may wait for."""
    for name in WAITING:
        monkeypatch.setattr(simulated, name, waits)
    return Putter(load("cuda"))


WAITING = ("download", "synchronize", "wait_on_host")


def waits(*_):
    raise AssertionError("the host waited for the GPU")


def close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    step = 2e-6 if expected.dtype == np.float32 else 0
    np.testing.assert_allclose(actual, expected, rtol=step, atol=step / 4)


OPTIONS = (
    {},
    {"reduction": "none", "grad_output": OF_ROWS},
    {"weight": WEIGHT, "label_smoothing": 0.1, "sample_weight": OF_ROWS},
    {"sample_weight": OF_ROWS, "reduction": "sum", "z_loss": 1e-2, "grad_output": np.float32(-2)},
    {"normalizer": 7.5, "softcap": 6.0, "logit_scale": 0.7},
    {"normalizer": 0.0, "all_ignored": "zero"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_loss_and_gradient(put, simulated, options, soft):
    target = SOFT if soft else LABELS
    asked = (*ALL, "target_grad") if soft else ALL
    expected = fx.cross_entropy_and_grad(LOGITS, target, **options, aux=asked, backend="numpy")
    there = {
        name: put(value) if isinstance(value, np.ndarray | np.float32) else value
        for name, value in options.items()
    }
    logits = put(LOGITS)
    call = fx.cross_entropy_and_grad
    loss, grad, aux = call(logits, put(target), **there, aux=asked, out=logits)
    assert grad is logits
    close(numbers(loss), expected[0])
    close(numbers(grad), expected[1])
    for name in asked:
        close(numbers(getattr(aux, name)), getattr(expected[2], name))
    assert {launch.stream for launch in simulated.launches} == {STREAM}


def test_all_rows_ignored(put):
    labels = np.full(ROWS, -100)
    for all_ignored, loss in (("nan", np.nan), ("zero", 0.0)):
        call = fx.cross_entropy_and_grad
        found, grad = call(put(LOGITS), put(labels), all_ignored=all_ignored)
        close(numbers(found), np.float32(loss))
        assert not numbers(grad).any()


@pytest.mark.parametrize("bad", [[50] * 4, [-100, 50, -100, -100], [-1, 2, -100, 3]])
@pytest.mark.parametrize("normalizer", [None, 0.0])
def test_the_loss_of_bad_labels_is_not_that_of_none(put, bad, normalizer):
    """Nobody counts, in both cases."""
    for labels, expected in ((bad, np.nan), ([-100] * 4, 0.0)):
        there = put(LOGITS[:4, :10].copy()), put(np.array(labels))
        options = {"all_ignored": "zero", "normalizer": normalizer}
        for _ in range(2):
            loss, grad = fx.cross_entropy_and_grad(*there, **options)
            close(numbers(loss), np.float32(expected))
        assert np.isfinite(numbers(grad)).all()


def test_bad_labels(put, simulated, monkeypatch):
    labels = np.array([3, 37, -100, -1, 20], np.int32)
    loss, grad = fx.cross_entropy_and_grad(put(LOGITS), put(labels), reduction="none")
    good = np.where(np.isin(labels, (37, -1)), -100, labels)
    expected = fx.cross_entropy_and_grad(LOGITS, good, reduction="none", backend="numpy")
    expected[0][[1, 3]] = np.nan
    close(numbers(loss), expected[0])
    close(numbers(grad), expected[1])
    monkeypatch.undo()
    load("cuda").driver = simulated
    with pytest.raises(fx.LabelError, match=r"target\[1\] is 37: .* \[0, 37\)"):
        fx.check_labels(put(labels), CLASSES)
    fx.check_labels(put(good), CLASSES)


def test_rows_with_gaps_and_classes_first(put):
    for logits, axis in ((np.repeat(LOGITS, 2, axis=1)[:, ::2], 1), (LOGITS.T.copy(), 0)):
        expected = fx.cross_entropy_and_grad(logits, LABELS, axis=axis, backend="numpy")
        for _ in range(2):
            loss, grad = fx.cross_entropy_and_grad(put(logits), put(LABELS), axis=axis)
            close(numbers(loss), expected[0])
            close(numbers(grad), expected[1])


def test_softmax_and_its_product(put):
    x = LOGITS[:3]
    p, log_p = fx.softmax(x), fx.log_softmax(x)
    close(numbers(fx.softmax(put(x))), p)
    close(numbers(fx.log_softmax(put(x))), log_p)
    close(numbers(fx.logsumexp(put(x))), fx.logsumexp(x))
    close(numbers(fx.softmax_backward(put(p), put(x))), fx.softmax_backward(p, x))
    expected = fx.log_softmax_backward(log_p, x)
    close(numbers(fx.log_softmax_backward(put(log_p), put(x))), expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_binary_loss(put, reduction):
    x, target = LOGITS[:3, :9], SOFT[:3, :9]
    options = {"weight": WEIGHT[:9], "pos_weight": 2.0, "reduction": reduction}
    call = fx.binary_cross_entropy_with_logits_and_grad
    expected = call(x, target, **options, grad_output=x)
    there = options | {"weight": put(WEIGHT[:9])}
    loss, grad = call(put(x), put(target), **there, grad_output=put(x))
    close(numbers(loss), expected[0])
    close(numbers(grad), expected[1])


def test_a_place_that_is_not_told_is_asked_for(put):
    logits = put.array(LOGITS)
    assert numbers(fx.softmax(ByInterface(logits))).shape == LOGITS.shape


def calls(put):
    """Calls that need memory beside their results, with factors of the host and of the GPU."""
    logits, labels, soft = put(LOGITS), put(LABELS), put(SOFT)
    yield lambda: fx.cross_entropy_and_grad(
        logits, labels, weight=put(WEIGHT), sample_weight=OF_ROWS, label_smoothing=0.1, aux=ALL
    )
    yield lambda: fx.cross_entropy_and_grad(logits, labels, weight=WEIGHT, reduction="none")
    yield lambda: fx.cross_entropy_and_grad(
        *(logits, soft),
        sample_weight=put(OF_ROWS),
        grad_output=put(np.float32(2)),
        aux=("target_grad",),
    )
    yield lambda: fx.cross_entropy(put(LOGITS.T.copy()), labels, axis=0)
    yield lambda: fx.cross_entropy_and_grad(put(LOGITS[:, ::2]), put(LABELS % 18))
    yield lambda: fx.binary_cross_entropy_with_logits_and_grad(
        logits, soft, weight=WEIGHT, grad_output=put(np.float32(2))
    )
    yield lambda: fx.softmax(logits)
    yield lambda: fx.logsumexp(logits)
    yield lambda: fx.logsumexp(put(LOGITS[:, :0]))
    yield lambda: fx.softmax_backward(logits, logits)


def owners(result):
    """The memory of each array that a call gave."""
    for one in result if isinstance(result, tuple) else (result,):
        if isinstance(one, tuple):
            yield from owners(one)
        elif one is not None:
            yield one._array.owner


def test_a_call_gives_back_memory_in_the_order_of_the_stream_only(put, simulated, monkeypatch):
    """What is handed out is of no stream: others use it on theirs, and drop it when they like."""
    free = simulated.free
    given = []

    def note(address, device, stream):
        given.append(stream)
        free(address, device, stream)

    for call in calls(put):
        call()  # leaves its tables
        with monkeypatch.context() as patch:
            patch.setattr(Putter, "array", kept_by(Putter.array))
            patch.setattr(simulated, "free", note)
            result = call()
        assert all(owner.stream is None for owner in owners(result))
        del result
        assert set(given) <= {STREAM}
    assert len(given) > 10


def kept_by(put):
    """Keep what is put, so that it is not given back meanwhile."""
    kept = []

    def array(self, values):
        kept.append(put(self, values))
        return kept[-1]

    return array


def test_only_tensors_of_pytorch_are_captured(put, simulated):
    logits, labels = put(LOGITS), put(LABELS)
    fx.cross_entropy(logits, labels)
    simulated.capturing = True
    with pytest.raises(fx.BackendError, match="only PyTorch keeps memory for a graph"):
        fx.cross_entropy(logits, labels)


def test_batches_of_all_sizes_share_a_table(put, simulated):
    """Rows of few classes, and a number of the GPU as a factor of every element."""
    factor = put(np.float32(2))
    call = fx.binary_cross_entropy_with_logits_and_grad
    for classes in (10, 9):
        for rows in (2, 3, 5):
            x = put(LOGITS[:rows, :classes].copy())
            fx.softmax_backward(x, x)
            call(x, put(SOFT[:rows, :classes].copy()), grad_output=factor, reduction="none")
    tables = [launch.arguments["layout"] for launch in simulated.launches]
    # a softmax of 10 and of 9 classes; elements that lie side by side are one dimension
    assert len(set(tables)) == 3
