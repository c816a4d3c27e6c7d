"""in_place=True: the gradient over the logits, and an error for every misuse."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import cross_entropy  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def case(rows=64, classes=300):
    logits = torch.randn(rows, classes, requires_grad=True)
    return logits, torch.randint(classes, (rows,))


def expected_grad(logits, target, upstream=1.0, **options):
    twin = logits.detach().double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(twin, target, **options)
    loss.backward(torch.as_tensor(upstream).double())
    return twin.grad.to(logits.dtype)


def close(grad, expected):
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-8)


def test_in_place_writes_over_the_logits():
    weights, target = case()
    for upstream in (1.0, 2.0):
        weights.grad = None
        logits = weights * 1.0
        version = logits._version
        loss = cross_entropy(logits, target, in_place=True)
        assert logits._version > version
        close(logits.detach(), expected_grad(weights, target))
        loss.backward(torch.tensor(upstream))
        close(weights.grad, expected_grad(weights, target, upstream))


def test_in_place_through_a_view_and_without_reduction():
    weights = torch.randn(2, 3, 5, requires_grad=True)
    target = torch.randint(5, (6,))
    logits = (weights * 1.0).view(6, 5)
    upstream = torch.rand(6)
    cross_entropy(logits, target, reduction="none", in_place=True).backward(upstream)
    expected = expected_grad(weights.detach().view(6, 5), target, upstream, reduction="none")
    close(weights.grad.view(6, 5), expected)


def test_in_place_without_a_gradient_leaves_the_logits():
    logits, target = case()
    before = logits.detach().clone()
    with torch.no_grad():
        cross_entropy(logits, target, in_place=True)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("shape", [(4, 5), (64, 100), (512, 512)], ids=str)
def test_in_place_memory_that_is_free_again_is_not_taken_for_the_gradient(shape):
    weights, target = case(*shape)

    def forward():
        logits = weights * 1.0
        return cross_entropy(logits, target, in_place=True), logits.exp().sum()

    loss, extra = forward()
    loss.backward(retain_graph=True)
    with pytest.raises(fastxent.CallOrderError, match="in_place=True wrote the gradient over"):
        extra.backward()


@pytest.mark.parametrize("order", ["earlier", "later", "later, of the base", "alone"])
def test_in_place_logits_that_something_else_uses_are_an_error(order):
    weights, target = case(6, 5)
    base = weights * 1.0
    logits = base.view(6, 5) if "base" in order else base
    other = logits.sum() if order == "earlier" else 0.0
    loss = cross_entropy(logits, target, in_place=True)
    if order.startswith("later"):
        other = (base if "base" in order else logits).pow(2).sum()
    total = logits.pow(2).sum() if order == "alone" else loss + other
    with pytest.raises(fastxent.CallOrderError, match="in_place=True wrote the gradient over"):
        total.backward()
    assert weights.grad is None


def test_in_place_logits_that_were_saved_are_an_error():
    weights, target = case(6, 5)
    logits = weights.exp()  # saves its result
    loss = cross_entropy(logits, target, in_place=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_in_place_refuses_leaves_parts_and_second_passes():
    weights, target = case(6, 5)
    for leaf in (weights, weights.view(6, 5)):
        with pytest.raises(fastxent.OutputError, match="leaf"):
            cross_entropy(leaf, target, in_place=True)
    with pytest.raises(fastxent.OutputError, match="part of a larger"):
        cross_entropy((weights * 1.0)[:, :4], target.clamp(max=3), in_place=True)
    with pytest.raises(fastxent.OutputError, match="part of a larger"):
        cross_entropy(weights.sum(0).expand(6, 5), target, in_place=True)
    with pytest.raises(fastxent.OptionError, match="memory='low'"):
        cross_entropy(weights * 1.0, target, in_place=True, memory="low")
    loss = cross_entropy(weights * 1.0, target, in_place=True)
    loss.backward(retain_graph=True)
    with pytest.raises(fastxent.CallOrderError, match="once"):
        loss.backward()
    loss = cross_entropy(weights * 1.0, target, in_place=True)
    with pytest.raises(fastxent.CallOrderError, match="second derivatives"):
        loss.backward(create_graph=True)


def test_nothing_is_written_when_a_label_is_bad():
    weights, target = case(6, 5)
    target[3] = 5
    logits = weights * 1.0
    with pytest.raises(fastxent.LabelError, match=r"target\[3\] is 5"):
        cross_entropy(logits, target, in_place=True)
    assert torch.equal(logits, weights)
    assert logits._version == 0
