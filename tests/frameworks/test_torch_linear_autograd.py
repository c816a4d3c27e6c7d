"""fastxent.torch.linear_cross_entropy in graphs: derivatives, compilers, transforms, autocast."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import grad, hessian, vmap  # noqa: E402

from fastxent.torch import (  # noqa: E402
    LinearCrossEntropyLoss,
    linear_chunks,
    linear_cross_entropy,
)
from fastxent.torch.linear_arguments import Chunking  # noqa: E402
from fastxent.torch.settings import Settings  # noqa: E402

functional = torch.nn.functional
DOUBLE = {"dtype": torch.float64}
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


@pytest.fixture
def computed(monkeypatch):
    """What gradients the calls of the loop were asked for."""
    asked, compute = [], linear_chunks._compute

    def spying(arguments, settings, chunking, wants, *rest):
        asked.append(tuple(wants))
        return compute(arguments, settings, chunking, wants, *rest)

    monkeypatch.setattr(linear_chunks, "_compute", spying)
    return asked


def problem(rows=6, features=3, classes=5, dtype=torch.float64):
    given = torch.randn(rows, features), torch.randn(classes, features), torch.randn(classes)
    return [one.to(dtype).requires_grad_() for one in given], torch.randint(classes, (rows,))


OPTIONS = {"z_loss": 0.1, "softcap": 3.0, "logit_scale": 1.3, "label_smoothing": 0.1}


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, OPTIONS], ids=len)
def test_derivatives_of_both_orders_and_forward(options, soft):
    given, target = problem(4, 2, 3)
    if soft:
        given.append(torch.rand(4, 3, **DOUBLE, requires_grad=True))

    def loss(hidden, weights, bias, probabilities=target):
        found = linear_cross_entropy(
            *(hidden, weights, probabilities), linear_bias=bias, memory_budget=203_000, **options
        )
        return found

    assert gradcheck(loss, given, check_forward_ad=True)
    assert gradgradcheck(loss, given)


def test_gradients_are_those_that_are_needed(computed):
    (hidden, weights, bias), target = problem()
    loss = linear_cross_entropy(hidden, weights.detach(), target, linear_bias=bias)
    assert computed.pop() == (True, False, True, False)
    loss.backward()
    assert not computed
    with torch.no_grad():
        linear_cross_entropy(hidden, weights, target)
    assert computed.pop() == (False,) * 4
    linear_cross_entropy(hidden, weights, target, reduction="none").sum().backward()
    assert computed == [(False,) * 4, (True, True, False, False)]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_graph_that_is_kept_gives_the_same_again(reduction):
    given, target = problem()
    loss = linear_cross_entropy(*given[:2], target, linear_bias=given[2], reduction=reduction)
    upstream = torch.full_like(loss, 2.0)
    first = torch.autograd.grad(loss, given, upstream, retain_graph=True)
    second = torch.autograd.grad(loss, given, upstream / 2, retain_graph=True)
    torch.testing.assert_close(first, tuple(2 * one for one in second))
    third = torch.autograd.grad(loss, given, upstream)
    torch.testing.assert_close(first, third)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, given, upstream)
    loss = linear_cross_entropy(*given[:2], target, reduction=reduction).sum()
    with torch.no_grad():
        given[1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_becomes_that_of_the_leaf_without_a_copy(monkeypatch):
    given, target = problem()
    addresses, compute = [], linear_chunks._compute

    def noting(*arguments):
        found = compute(*arguments)
        addresses.extend((found.input.data_ptr(), found.linear_weight.data_ptr()))
        return found

    monkeypatch.setattr(linear_chunks, "_compute", noting)
    linear_cross_entropy(*given[:2], target).backward()
    assert [one.grad.data_ptr() for one in given[:2]] == addresses


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_scaled_loss_lifts_small_gradients(dtype):
    given, target = problem(dtype=dtype)
    options = {"linear_bias": given[2], "normalizer": 1e9}
    loss = linear_cross_entropy(*given[:2], target, **options)
    assert loss.dtype == torch.float32
    (loss * 2.0**30).backward()
    wide = [one.detach().double().requires_grad_() for one in given]
    truth = linear_cross_entropy(*wide[:2], target, linear_bias=wide[2], normalizer=1e9)
    (truth * 2.0**30).backward()
    for one, expected in zip(given, wide, strict=True):
        epsilon = torch.finfo(dtype).eps
        torch.testing.assert_close(one.grad.double(), expected.grad, rtol=epsilon, atol=epsilon)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_what_it_casts_for_a_linear_layer(dtype):
    given, target = problem(40, 16, 30, torch.float32)
    same = [one.detach().clone().requires_grad_() for one in given]
    with torch.autocast("cpu", dtype=dtype):
        loss = linear_cross_entropy(*given[:2], target, linear_bias=given[2])
        plain = functional.cross_entropy(functional.linear(same[0], same[1], same[2]), target)
    assert loss.dtype == plain.dtype == torch.float32
    loss.backward()
    plain.backward()
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss, plain, rtol=rounding, atol=rounding)
    for one, expected in zip(given, same, strict=True):
        assert one.grad.dtype == torch.float32
        largest = expected.grad.abs().max().item()
        torch.testing.assert_close(one.grad, expected.grad, rtol=0, atol=rounding * largest)
    # what is cast is rounded, the logits are not
    rounded = [one.detach().to(dtype) for one in given]
    exact = linear_cross_entropy(*rounded[:2], target, linear_bias=rounded[2])
    assert torch.equal(loss.detach(), exact)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_operator_passes_the_checks_of_pytorch(reduction, soft):
    given, target = problem()
    if soft:
        target = torch.rand(6, 5, **DOUBLE, requires_grad=True)
    wants = dict.fromkeys(("wants_input", "wants_linear_weight", "wants_linear_bias"), not soft)
    options = {**Settings(reduction=reduction)._asdict(), **Chunking()._asdict(), **wants}
    torch.library.opcheck(
        torch.ops.fastxent.linear_cross_entropy.default,
        (given[0], given[1], target, given[2], torch.rand(5), torch.rand(6), None),
        {**options, "wants_target": False},
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_whole_with_dynamic_shapes(reduction):
    chunks = torch.nn.LinearCrossEntropyOptions(chunking_method="aspect_ratio:2")
    given, _ = problem()

    def function(hidden, target):
        loss = linear_cross_entropy(
            *(hidden * 2, given[1], target), linear_bias=given[2], reduction=reduction,
            label_smoothing=0.1, options=chunks,
        )  # fmt: skip
        return loss.mean()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (7, 9):
        hidden = torch.randn(rows, 3, **DOUBLE, requires_grad=True)
        target = torch.randint(5, (rows,))
        inputs = (hidden, *given[1:])
        expected = torch.autograd.grad(function(hidden, target), inputs)
        found = torch.autograd.grad(compiled(hidden, target), inputs)
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(hidden, target), function(hidden, target))
    with pytest.raises(IndexError, match="is 5"):
        compiled(hidden, target.clone().fill_(5))


def test_compiled_by_inductor():
    module = LinearCrossEntropyLoss(4, 6, bias=True, z_loss=0.1)
    hidden, target = torch.randn(5, 4, requires_grad=True), torch.randint(6, (5,))
    step = torch.compile(lambda hidden: module(2 * hidden, target), fullgraph=True)
    inputs = hidden, *module.parameters()
    found = torch.autograd.grad(step(hidden), inputs)
    expected = torch.autograd.grad(module(2 * hidden, target), inputs)
    torch.testing.assert_close(found, expected)


def test_transforms():
    (hidden, weights, _), target = problem()
    hidden, weights = hidden.detach(), weights.detach()
    leaf = weights.clone().requires_grad_()
    expected = torch.autograd.grad(linear_cross_entropy(hidden, leaf, target), leaf)[0]
    found = grad(lambda weights: linear_cross_entropy(hidden, weights, target))(weights)
    torch.testing.assert_close(found, expected)
    many, targets = torch.randn(4, 6, 3, **DOUBLE), torch.randint(5, (4, 6))
    each = vmap(grad(linear_cross_entropy, argnums=1), in_dims=(0, None, 0))(many, weights, targets)
    one_by_one = [
        grad(linear_cross_entropy, argnums=1)(one, weights, labels)
        for one, labels in zip(many, targets, strict=True)
    ]
    torch.testing.assert_close(each, torch.stack(one_by_one))
    plain = hessian(lambda one: functional.linear_cross_entropy(hidden, one, target))(weights)
    ours = hessian(lambda one: linear_cross_entropy(hidden, one, target))(weights)
    torch.testing.assert_close(ours, plain)


def test_a_batch_of_upstream_gradients():
    given, target = problem()
    loss = linear_cross_entropy(*given[:2], target)
    (once,) = torch.autograd.grad(loss, given[1], retain_graph=True)
    upstream = torch.tensor([1.0, 2.0], **DOUBLE)
    (batch,) = torch.autograd.grad(loss, given[1], upstream, is_grads_batched=True)
    torch.testing.assert_close(batch, torch.stack([once, 2 * once]))


def test_tensors_without_memory():
    hidden, weights = torch.empty(6, 3, device="meta"), torch.empty(5, 3, device="meta")
    labels = torch.empty(6, device="meta", dtype=torch.int64)
    loss = linear_cross_entropy(hidden, weights.requires_grad_(), labels)
    assert loss.shape == ()
    assert loss.device.type == "meta"
    loss.backward()
    assert weights.grad.shape == (5, 3)
    module = LinearCrossEntropyLoss(3, 5, device="meta", reduction="none")
    assert module(hidden, labels).shape == (6,)
