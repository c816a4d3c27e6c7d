"""Classes at minus infinity under softcap, where PyTorch's operators compute from our formula."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.func import hessian, jvp  # noqa: E402

from fastxent.torch import cross_entropy  # noqa: E402

# forward mode loads decompositions that PyTorch still scripts
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DOUBLE = {"dtype": torch.float64}
TARGETS = {
    "label": torch.tensor([0]),
    "smoothed away": torch.tensor([1]),
    "probabilities": torch.tensor([[0.2, 0.5, 0.3]], **DOUBLE),
}
BENT = {"softcap": 5.0, "logit_scale": 0.7, "z_loss": 0.1}
KEPT = torch.tensor([[1.0, 2.0, 0.5]], **DOUBLE)


def masked(kept):
    """The same logits before one more class, which is masked."""
    return torch.cat([torch.full_like(kept[:, :1], -torch.inf), kept], dim=1)


def pair(kind):
    """The loss of all classes, and that without the masked one."""
    target = TARGETS[kind]
    shifted = masked(target).nan_to_num(neginf=0.0) if target.is_floating_point() else target + 1
    return (
        lambda x: cross_entropy(x, shifted, **BENT),
        lambda x: cross_entropy(x, target, **BENT),
    )


def test_forward_mode_has_the_loss_of_the_kernels():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, 0.5]])
    target = torch.tensor([1])
    loss, _ = jvp(
        lambda x: cross_entropy(x, target, softcap=5.0), (logits,), (torch.ones_like(logits),)
    )
    torch.testing.assert_close(loss, cross_entropy(logits, target, softcap=5.0))
    torch.testing.assert_close(loss.item(), 1.4122013, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_masked_class_changes_no_derivative(kind):
    whole, without = pair(kind)
    tangent = torch.tensor([[0.3, -1.0, 2.0]], **DOUBLE)
    beside = torch.cat([torch.full((1, 1), 7.0, **DOUBLE), tangent], dim=1)
    found = jvp(whole, (masked(KEPT),), (beside,))
    torch.testing.assert_close(found, jvp(without, (KEPT,), (tangent,)), rtol=1e-12, atol=1e-14)

    second = torch.autograd.functional.hessian(whole, masked(KEPT))[0, :, 0]
    expected = torch.autograd.functional.hessian(without, KEPT)[0, :, 0]
    torch.testing.assert_close(second[1:, 1:], expected, rtol=1e-12, atol=1e-14)
    assert not second[0].any()
    assert not second[:, 0].any()
    by_forward_mode = hessian(whole)(masked(KEPT))[0, :, 0]
    torch.testing.assert_close(by_forward_mode, second, rtol=1e-12, atol=1e-14)


def test_third_derivative():
    whole, without = pair("label")

    def third(loss, x):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        (more,) = torch.autograd.grad(grad.square().sum(), x, create_graph=True)
        return torch.autograd.grad(more.square().sum(), x)[0]

    found = third(whole, masked(KEPT))
    torch.testing.assert_close(found[:, 1:], third(without, KEPT), rtol=1e-12, atol=1e-14)
    assert found[0, 0] == 0
