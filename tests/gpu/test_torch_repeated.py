"""Calls that are launched as another one was: other numbers, other addresses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")
pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import fastxent as fx  # noqa: E402
import fastxent.torch as fxt  # noqa: E402
from fastxent.backends import load  # noqa: E402
from gpu.simulation.tensors import Tensors  # noqa: E402

functional = torch.nn.functional


@pytest.fixture
def on_gpu(simulated, monkeypatch):
    """Take CPU tensors for those of the simulated GPU; gives how many calls are kept."""
    torch.manual_seed(0)
    tensors = Tensors(monkeypatch)
    with tensors.on_gpu():
        yield lambda: sum(plan is not None for plan in load("cuda").plans.values())
    tensors.forget()


def drawn(rows=4, classes=35, dtype=torch.float32):
    logits = torch.randn(rows, classes).to(dtype)
    return logits.requires_grad_(), torch.randint(classes, (rows,))


def expected_of(logits, labels, upstream=1.0, **options):
    twin = logits.detach().double().requires_grad_()
    loss = functional.cross_entropy(twin, labels, **options)
    loss.backward(torch.as_tensor(upstream).double().expand(loss.shape))
    return loss.detach(), twin.grad


def check(logits, labels, upstream=1.0, memory="fast", **options):
    logits.grad = None
    loss = fxt.cross_entropy(logits, labels, memory=memory, **options)
    loss.backward(torch.as_tensor(upstream).expand(loss.shape))
    expected = expected_of(logits, labels, upstream, **options)
    torch.testing.assert_close(loss.detach().double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad.double(), expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_repeated_call_sees_the_new_numbers(on_gpu, simulated, reduction, memory):
    counts = []
    for step in range(3):
        before = len(simulated.launches)
        check(*drawn(), 1.0 + step, memory=memory, reduction=reduction)
        counts.append([launch.spec for launch in simulated.launches[before:]])
    assert counts[0] == counts[1] == counts[2]
    assert on_gpu() == 2  # forward; scaling, or backward


def test_what_differs_in_anything_is_another_call(on_gpu):
    logits, labels = drawn()
    check(logits, labels)
    known = on_gpu()
    others = [
        ((logits, labels), {"label_smoothing": 0.1}),
        ((logits, labels), {"ignore_index": 3}),
        ((logits, labels.int()), {}),
        (drawn(5), {}),
        ((logits.detach()[:, 1:].requires_grad_(), labels.clamp(max=30)), {}),
        ((logits.detach().t().contiguous().t().requires_grad_(), labels), {}),
    ]
    for arguments, options in others:
        if arguments[1].dtype is torch.int32:
            fxt.cross_entropy(*arguments)
        else:
            check(*arguments, **options)
        assert on_gpu() > known
        known = on_gpu()
    # equal to what was recorded, and no option
    with pytest.raises(fx.DTypeError, match="ignore_index must be an integer"):
        fxt.cross_entropy(logits, labels, ignore_index=3.0)


def test_tensors_that_share_memory_are_not_taken_for_each_other(on_gpu):
    weights = torch.rand(6)
    labels = torch.randint(6, (6,))
    for sample_weight in (weights, weights.clone(), torch.rand(6)):
        logits, _ = drawn(6, 6)
        loss = fxt.cross_entropy(logits, labels, weights, sample_weight=sample_weight)
        expected = fx.cross_entropy(
            logits.detach().numpy(),
            labels.numpy(),
            weight=weights.numpy(),
            sample_weight=sample_weight.numpy(),
            backend="numpy",
        )
        assert loss.item() == pytest.approx(float(expected), rel=1e-6)


def test_what_was_copied_from_the_host_is_not_repeated(on_gpu):
    for _ in range(2):
        logits, labels = drawn()
        # that the denominator is 0 is told to the kernel by a number in memory
        assert fxt.cross_entropy(logits.detach(), labels, normalizer=0.0).isnan()
    assert on_gpu() == 0


def test_labels_and_factors_with_gaps(on_gpu):
    for _ in range(2):
        logits, labels = drawn()
        spread = torch.stack([labels, labels - 1], 1)[:, 0]
        weight = torch.rand(35, 2)[:, 0]
        assert not spread.is_contiguous()
        assert not weight.is_contiguous()
        loss = fxt.cross_entropy(logits.detach(), spread, weight)
        expected = expected_of(logits, labels, weight=weight.double())[0]
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert on_gpu() == 1


def test_side_outputs_and_shapes_of_a_repeated_call(on_gpu):
    names = ("lse", "argmax", "correct", "target_grad")
    for _ in range(2):
        logits, target = torch.randn(2, 35, 3), torch.rand(2, 35, 3)
        loss, aux = fxt.cross_entropy(logits, target, aux=names, reduction="none")
        truth = fx.cross_entropy(
            logits.numpy(), target.numpy(), axis=1, aux=names, reduction="none", backend="numpy"
        )
        np.testing.assert_allclose(loss.numpy(), truth[0], rtol=1e-5)
        assert aux.correct.dtype == torch.bool
        for one, expected in zip(aux, truth[1], strict=True):
            if expected is not None:
                np.testing.assert_allclose(one.numpy(), expected, rtol=1e-5, atol=1e-6)
        loss *= 2  # no view
    assert on_gpu() == 1


def test_integers_that_look_like_addresses(on_gpu):
    for ignore_index in (1 << 60, -(1 << 60)):
        logits, labels = drawn()
        for _ in range(2):
            check(logits, labels, ignore_index=ignore_index)


def test_shapes_that_keep_changing_do_not_pile_up(on_gpu, monkeypatch):
    monkeypatch.setattr("fastxent.on_device.recorded._MOST_KEPT", 3)
    for rows in range(1, 6):
        logits, labels = drawn(rows)
        fxt.cross_entropy(logits.detach(), labels)
        assert on_gpu() <= 3


def test_another_driver_starts_anew(on_gpu, simulated):
    fxt.cross_entropy(*drawn())
    assert on_gpu() == 1
    load("cuda").driver = simulated
    assert on_gpu() == 0
