"""The gradient of fastxent.torch: where it is computed, whose memory it is, and every misuse."""

import gc

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from fastxent.backends import load  # noqa: E402
from fastxent.torch import cross_entropy  # noqa: E402

functional = torch.nn.functional
# forward mode loads decompositions that PyTorch still scripts
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def written(monkeypatch):
    """Addresses of the gradients that kernels write, in order."""
    addresses = []
    backend = load("cython")
    forward, mean_loss = type(backend).forward, type(backend).mean_loss

    def spied_forward(self, problem, out):
        forward(self, problem, out)
        if out.grad is not None:
            addresses.append(out.grad.ctypes.data)

    def spied_mean_loss(self, logits, target, skip, grad, num_threads):
        if grad is not None:
            addresses.append(grad.ctypes.data)
        return mean_loss(self, logits, target, skip, grad, num_threads)

    monkeypatch.setattr(type(backend), "forward", spied_forward)
    monkeypatch.setattr(type(backend), "mean_loss", spied_mean_loss)
    return addresses


def case(rows=64, classes=300, dtype=None):
    logits = torch.randn(rows, classes, dtype=dtype, requires_grad=True)
    return logits, torch.randint(classes, (rows,))


def expected_grad(logits, target, upstream=1.0, **options):
    twin = logits.detach().double().requires_grad_()
    functional.cross_entropy(twin, target, **options).backward(torch.as_tensor(upstream).double())
    return twin.grad.to(logits.dtype)


def close(grad, expected):
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-8)


# Derivatives ------------------------------------------------------------------------------------

MORE = {"z_loss": 0.01, "softcap": 4.0, "logit_scale": 0.7, "label_smoothing": 0.1}


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, MORE], ids=["plain", "all options"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_first_and_second_derivatives(kind, options, reduction, memory):
    shape = (3, 4, 2)
    logits = (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    factors = {
        "weight": torch.rand(4, dtype=torch.float64),
        "sample_weight": torch.rand(3, 2, dtype=torch.float64),
    }
    inputs = [logits]
    if kind == "labels":
        target = torch.randint(4, (3, 2))
        target[0, 1] = -100
    else:
        target = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        inputs.append(target)

    def loss(logits, target=target):
        return cross_entropy(
            logits, target, reduction=reduction, memory=memory, **factors, **options
        )

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_weights_that_changed_before_backward_are_an_error():
    logits, target = case(6, 5)
    rows = torch.rand(6, dtype=torch.float64)
    loss = cross_entropy(logits, target, sample_weight=rows, memory="low", normalizer=3)
    rows.zero_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_second_derivatives_with_a_normalizer_that_is_a_tensor():
    logits, target = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.arange(3)

    def loss(logits):
        return cross_entropy(logits, target, normalizer=torch.tensor(5), z_loss=1)

    assert torch.autograd.gradgradcheck(loss, logits)


def test_third_derivative():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([2, 0])

    def second(logits):
        loss = cross_entropy(logits, target, **MORE)
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        (more,) = torch.autograd.grad(grad.pow(2).sum(), logits, create_graph=True)
        return more

    assert torch.autograd.gradcheck(second, logits)


def test_rows_that_are_ignored_or_count_for_nothing_have_no_second_derivative():
    logits = torch.randn(3, 4, dtype=torch.float64)
    logits[1] = torch.nan
    logits.requires_grad_()
    for target in (torch.tensor([0, -100, 2]), torch.full((3,), -100)):
        loss = cross_entropy(logits, target)
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        (second,) = torch.autograd.grad(grad.pow(2).sum(), logits)
        assert not grad[1].any()
        assert not second[1].any()
        assert torch.isfinite(second).all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_of_upstream_gradients(reduction):
    logits, target = case(4, 5, torch.float64)

    def jacobian(loss, vectorize):
        return torch.autograd.functional.jacobian(
            lambda x: loss(x, target, reduction=reduction), logits, vectorize=vectorize
        )

    expected = jacobian(functional.cross_entropy, False)
    torch.testing.assert_close(jacobian(cross_entropy, True), expected)
    torch.testing.assert_close(jacobian(cross_entropy, False), expected)


# Where the gradient is computed, and whose memory it is -------------------------------------------


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["short way", "door"])
def test_upstream_one_is_neither_scaled_nor_copied(options, written):
    logits, target = case()
    cross_entropy(logits, target, **options).backward()
    assert written == [logits.grad.data_ptr()]
    close(logits.grad, expected_grad(logits, target, **options))


def test_another_upstream_scales_the_same_memory(written):
    logits, target = case()
    (3.0 * cross_entropy(logits, target)).backward()
    assert written == [logits.grad.data_ptr()]
    close(logits.grad, expected_grad(logits, target, 3.0))


def test_two_backwards_of_a_kept_graph(written):
    logits, target = case()
    loss = cross_entropy(logits, target)
    for upstream in (1.0, 2.0):
        (grad,) = torch.autograd.grad(loss, logits, torch.tensor(upstream), retain_graph=True)
        close(grad, expected_grad(logits, target, upstream))
        grad.fill_(torch.nan)  # what the caller does with it is no matter of the graph's
    loss.backward(retain_graph=True)
    close(logits.grad, expected_grad(logits, target))
    loss.backward()
    close(logits.grad, expected_grad(logits, target, 2.0))
    assert len(written) == 1
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("options", [{"memory": "low"}, {"reduction": "sum", "memory": "low"}])
def test_low_memory_keeps_no_gradient_and_notices_changed_logits(options, written):
    logits, target = case()
    hidden = logits * 1.0
    loss = cross_entropy(hidden, target, **options)
    assert written == []
    loss.backward(torch.tensor(2.0), retain_graph=True)
    options.pop("memory")
    close(logits.grad, expected_grad(logits, target, 2.0, **options))
    with torch.no_grad():
        hidden.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_logits_may_change_once_the_gradient_is_there():
    logits, target = case()
    hidden = logits * 1.0
    loss = cross_entropy(hidden, target)
    with torch.no_grad():
        hidden.zero_()
    loss.backward()
    close(logits.grad, expected_grad(logits, target))


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_upstream_of_a_row_each_and_of_stride_0(memory):
    logits, target = case()
    for upstream in (torch.rand(64), torch.ones(1).expand(64), torch.rand(128)[::2]):
        logits.grad = None
        loss = cross_entropy(logits, target, reduction="none", memory=memory)
        loss.backward(upstream)
        close(logits.grad, expected_grad(logits, target, upstream, reduction="none"))
    logits.grad = None
    cross_entropy(logits, target, reduction="none", memory=memory).mean().backward()
    close(logits.grad, expected_grad(logits, target))


def test_no_gradient_work_where_none_is_needed(written):
    logits, target = case()
    probabilities = torch.rand(64, 300)
    with torch.no_grad():
        cross_entropy(logits, target)
    with torch.inference_mode():
        loss = cross_entropy(logits, target)
        assert loss.is_inference()
    assert not cross_entropy(logits.detach(), target).requires_grad
    assert not cross_entropy(logits.detach(), probabilities).requires_grad
    assert written == []


def test_a_graph_that_is_dropped_frees_the_gradient():
    logits, target = case()
    loss = cross_entropy(logits, target)
    call = loss.grad_fn.call
    assert call.grad.shape == logits.shape
    loss.backward()
    assert call.grad is None
    del loss
    gc.collect()


def test_only_the_target_needs_a_gradient():
    target = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(5, 3, dtype=torch.float64)
    for options in ({}, {"memory": "low"}, {"reduction": "none"}):
        loss = cross_entropy(logits, target, **options).mean()
        expected = functional.cross_entropy(logits, target)
        torch.testing.assert_close(
            torch.autograd.grad(loss, target), torch.autograd.grad(expected, target)
        )


def test_float16_keeps_gradients_that_a_loss_scale_lifts():
    logits = torch.zeros(4096, 64, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(4096, dtype=torch.int64)
    (cross_entropy(logits, target) * 65536.0).backward()
    smallest = 65536.0 / 4096 / 64
    torch.testing.assert_close(logits.grad[0, 1].item(), smallest, rtol=1e-3, atol=0)


def test_checkpointing_recomputes():
    linear = torch.nn.Linear(6, 5)
    hidden, target = torch.randn(7, 6), torch.randint(5, (7,))
    again = torch.utils.checkpoint.checkpoint
    again(lambda h: cross_entropy(linear(h), target), hidden, use_reentrant=False).backward()
    grad = linear.weight.grad.clone()
    linear.zero_grad()
    functional.cross_entropy(linear(hidden), target).backward()
    torch.testing.assert_close(grad, linear.weight.grad)
