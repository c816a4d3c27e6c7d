"""Gradients of fastxent.torch: whose memory they are, and their digits at large logits."""

import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.func import hessian, jvp  # noqa: E402

from fastxent.torch import binary_cross_entropy_with_logits, cross_entropy  # noqa: E402
from fastxent.torch.settings import Settings  # noqa: E402

functional = torch.nn.functional
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    # of PyTorch's tracer, which looks at what it traces
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


# Whose memory it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("names", [("target_grad",), ("lse", "target_grad")], ids=len)
def test_the_gradient_of_the_target_in_aux_is_not_that_of_backward(names, dtype):
    logits = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    target = torch.rand(4, 5, dtype=dtype, requires_grad=True)
    loss, aux = cross_entropy(logits, target, aux=iter(names))
    before = aux.target_grad.clone()
    (3 * loss).backward()
    assert torch.equal(aux.target_grad, before)
    torch.testing.assert_close(target.grad, 3 * before)
    target.grad = None
    loss, aux = cross_entropy(logits, target, aux=names)
    aux.target_grad.zero_()
    loss.backward()
    assert torch.equal(target.grad, before)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_low_memory_leaves_the_logits_to_hooks_of_saved_tensors(reduction):
    memory = np.random.default_rng(0).standard_normal((6, 5), np.float32)
    kept, target = weakref.ref(memory), torch.tensor([0, 4, -100, 1, 2, 3])
    shift = torch.zeros(1, requires_grad=True)
    expected = torch.autograd.grad(
        functional.cross_entropy(torch.from_numpy(memory.copy()) + shift * torch.arange(5), target),
        shift,
    )
    logits = torch.from_numpy(memory).add_(shift * torch.arange(5))
    del memory
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda packed: packed):
        loss = cross_entropy(logits, target, memory="low", reduction=reduction)
    del logits
    gc.collect()
    assert kept() is None
    if reduction == "none":
        loss = loss.sum() / 5
    torch.testing.assert_close(torch.autograd.grad(loss, shift), expected)


def binary_case():
    return torch.randn(40, 30, requires_grad=True), torch.rand(40, 30)


def binary_truth(logits, target, upstream):
    twin = logits.detach().double().requires_grad_()
    loss = functional.binary_cross_entropy_with_logits(twin, target.double())
    (upstream * loss).backward()
    return twin.grad.float()


@pytest.mark.parametrize("upstream", [1.0, 3.0])
def test_the_gradient_of_the_binary_loss_is_handed_over(upstream):
    logits, target = binary_case()
    loss = binary_cross_entropy_with_logits(logits, target)
    address = loss.grad_fn.grad.data_ptr()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward(torch.tensor(upstream))
    names = {event.key for event in profile.key_averages()}
    assert logits.grad.data_ptr() == address
    assert "aten::mul" not in names
    assert ("aten::mul_" in names) is (upstream != 1.0)
    close = {"rtol": 1e-5, "atol": 1e-8}
    torch.testing.assert_close(logits.grad, binary_truth(logits, target, upstream), **close)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_kept_graph_of_the_binary_loss_keeps_its_gradient():
    logits, target = binary_case()
    loss = binary_cross_entropy_with_logits(logits, target)
    for upstream in (1.0, 2.0):
        (grad,) = torch.autograd.grad(loss, logits, torch.tensor(upstream), retain_graph=True)
        expected = binary_truth(logits, target, upstream)
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-8)
        grad.fill_(torch.nan)
    found = torch.autograd.grad(loss, logits, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    expected = torch.stack([binary_truth(logits, target, one) for one in (1.0, 2.0)])
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-8)


def test_forward_mode_of_the_binary_loss_at_infinity_and_at_its_last_digits():
    inf = torch.inf
    x = torch.tensor([inf, -inf, -1e30, 30.0, -30.0], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    for options in ({}, {"pos_weight": torch.tensor(3.0, dtype=torch.float64)}):

        def loss(x, options=options):
            return binary_cross_entropy_with_logits(x, y, reduction="none", **options)

        found, slope = jvp(loss, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(found, loss(x), rtol=1e-15, atol=0)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        torch.testing.assert_close(slope, expected, rtol=1e-15, atol=0)


# Digits at large logits -------------------------------------------------------------------------


def at_offset(offset):
    """Logits whose shift loses no digit, and the same without it in float64."""
    logits = (8 * torch.randn(4, 5)).round() / 8
    return logits + offset, logits.double() + offset


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_second_derivatives_keep_their_digits(offset):
    logits, truth = at_offset(offset)
    target, soft = torch.arange(4), torch.rand(4, 5)
    for goal, label_smoothing in ((target, 0.1), (soft, 0.0)):

        def loss(x, function=cross_entropy, goal=goal, label_smoothing=label_smoothing):
            goal = goal.to(x.dtype) if goal.is_floating_point() else goal
            return function(x, goal, label_smoothing=label_smoothing)

        expected = hessian(lambda x, loss=loss: loss(x, functional.cross_entropy))(truth)
        found = hessian(loss)(logits)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_forward_mode_and_the_slope_of_the_target_keep_their_digits(offset):
    logits, truth = at_offset(offset)
    target, tangent = torch.arange(4), torch.randn(4, 5)
    found = jvp(lambda x: cross_entropy(x, target), (logits,), (tangent,))
    expected = jvp(lambda x: functional.cross_entropy(x, target), (truth,), (tangent.double(),))
    for one, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=1e-6)
    # the derivative of the target's gradient by the upstream gradient is its slope
    soft = torch.rand(4, 5)

    def slope(x, function):
        goal = soft.to(x.dtype).requires_grad_()
        upstream = torch.ones((), dtype=x.dtype, requires_grad=True)
        loss = function(x, goal)
        (grad,) = torch.autograd.grad(loss, goal, upstream, create_graph=True)
        return torch.autograd.grad(grad[0, 0], upstream)[0]

    found = slope(logits.requires_grad_(), cross_entropy)
    expected = slope(truth.requires_grad_(), functional.cross_entropy)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


# Layouts ----------------------------------------------------------------------------------------


LAYOUTS = {
    "transposed": lambda: (torch.randn(6, 5), torch.rand(5, 6).t()),
    "every second, transposed": lambda: (torch.randn(6, 5), torch.rand(5, 12).t()[::2]),
    "channels last": lambda: (torch.randn(2, 5, 3, 4), torch.rand(2, 3, 4, 5).permute(0, 3, 1, 2)),
    "both": lambda: (torch.randn(2, 3, 5).transpose(1, 2), torch.rand(5, 2, 3).permute(1, 0, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_of_strided_probabilities_is_laid_out_as_compilers_expect(layout):
    logits, target = (one.requires_grad_() for one in LAYOUTS[layout]())
    options = {**Settings()._asdict(), "wants_grad": True, "wants_target_grad": True}
    torch.library.opcheck(
        torch.ops.fastxent.cross_entropy.default, (logits, target, *(None,) * 3), options
    )

    def gradients(function):
        return torch.autograd.grad(function(logits, target), (logits, target))

    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(cross_entropy))
