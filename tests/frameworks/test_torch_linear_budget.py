"""The budget of the linear loss of tensors: the least that errors name, backward, threads."""

import re

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import linear_chunks, linear_cross_entropy  # noqa: E402


def problem(rows, features, classes, dtype=torch.float32, soft=False):
    torch.manual_seed(0)
    hidden = torch.randn(rows, features).to(dtype).requires_grad_()
    weights = (torch.randn(classes, features) / 2).to(dtype).requires_grad_()
    if soft:
        return hidden, weights, torch.rand(rows, classes).requires_grad_()
    return hidden, weights, torch.randint(classes, (rows,))


def least_budget(loss, *given, **options):
    """Bytes that the error names."""
    with pytest.raises(fastxent.OptionError, match="at least") as refused:
        loss(*given, memory_budget=1, **options)
    return int(re.search(r"at least (\d+) bytes", str(refused.value))[1])


@pytest.mark.parametrize(
    ("sizes", "dtype", "reduction"),
    [
        ((400, 1, 100), torch.bfloat16, "mean"),
        ((40, 30, 400), torch.float32, "none"),
        ((40, 30, 400), torch.float16, "mean"),
    ],
    ids=str,
)
def test_the_least_that_is_named_is_enough_for_backward(sizes, dtype, reduction):
    given = problem(*sizes, dtype)
    loss = linear_cross_entropy
    least = least_budget(linear_cross_entropy, *given, reduction=reduction)
    with pytest.raises(fastxent.OptionError, match="at least"):
        loss(*given, reduction=reduction, memory_budget=least - 1)
    loss(*given, reduction=reduction, memory_budget=least).sum().backward()
    assert all(one.grad is not None for one in given[:2])


@pytest.mark.parametrize("is_leaf", [False, True])
@pytest.mark.parametrize("aux", [(), ("target_grad",)], ids=len)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("has_factors", [False, True])
def test_a_filter_leaves_the_gradient_of_targets_as_it_is(has_factors, reduction, aux, is_leaf):
    hidden, weights, target = problem(9, 4, 7, torch.float64, True)
    options = {"reduction": reduction, "aux": aux}
    if has_factors:
        options["sample_weight"] = torch.rand(9) + 0.5
    found = []
    for size in (None, 1e-30):
        given = hidden.detach().requires_grad_(is_leaf), weights.detach(), target
        loss = linear_cross_entropy(*given, grad_filter=size, **options)
        loss, asides = loss if aux else (loss, None)
        (grad,) = torch.autograd.grad(loss.sum(), target)
        found.append((grad, asides.target_grad if aux else grad))
    torch.testing.assert_close(found[1], found[0])


def test_a_budget_without_scratch_memory_takes_fewer_threads(monkeypatch):
    teams, forward = [], linear_chunks._Call._settings_of

    def noting(*given):
        settings = forward(*given)
        teams.append(settings.num_threads)
        return settings

    monkeypatch.setattr(linear_chunks._Call, "_settings_of", noting)
    given = problem(64, 8, 5000)
    least = least_budget(linear_cross_entropy, *given, softcap=3.0)
    for budget in (least, None):
        linear_cross_entropy(*given, softcap=3.0, num_threads=2, memory_budget=budget)
    assert set(teams[:-1]) == {1}
    if fastxent.threads.most_threads() > 1:
        assert teams[-1] == 2


@pytest.mark.parametrize("step", [3, 1000])
def test_products_by_blocks_of_classes_give_the_same(monkeypatch, step):
    from fastxent.torch import linear_products

    given = problem(9, 4, 7, torch.float64)
    whole = linear_cross_entropy(*given)
    monkeypatch.setattr(linear_products, "_CLASSES_OF_PRODUCT", step)
    torch.testing.assert_close(linear_cross_entropy(*given), whole)
