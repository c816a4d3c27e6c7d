"""fastxent.torch.linear_cross_entropy against PyTorch's own: options, shapes, dtypes, chunks."""

import itertools
import re

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import (  # noqa: E402
    LinearCrossEntropyLoss,
    cross_entropy,
    linear_chunks,
    linear_cross_entropy,
)

functional = torch.nn.functional
DOUBLE = {"dtype": torch.float64}
# What a call takes whatever its sizes, and a few rows of a small problem.
SMALL_BUDGET = 205_000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def plans(monkeypatch):
    """The plans of the calls that are made."""
    made, plan = [], linear_chunks.planned

    def planned(*arguments):
        made.append(plan(*arguments))
        return made[-1]

    monkeypatch.setattr(linear_chunks, "planned", planned)
    return made


def plain(
    hidden, linear_weight, target, *, linear_bias=None, sample_weight=None, z_loss=0.0,
    softcap=None, logit_scale=1.0, **options,
):  # fmt: skip
    """The loss of logits that are whole, in PyTorch's operators but for the last step."""
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = functional.linear(hidden, linear_weight.flatten(0, -2), bias)
    logits = logits.reshape(*hidden.shape[:-1], *linear_weight.shape[:-1]) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits, target, sample_weight=sample_weight, z_loss=z_loss, **options)


def results(loss, hidden, linear_weight, linear_bias, target, upstream=0.7, **options):
    """Loss and gradients, that of probabilities too."""
    given = [one.detach().clone().requires_grad_() for one in (hidden, linear_weight, linear_bias)]
    if target.is_floating_point():
        target = target.detach().clone().requires_grad_()
    value = loss(given[0], given[1], target, linear_bias=given[2], **options)
    value.backward(torch.as_tensor(upstream).to(value).expand(value.shape))
    grads = [one.grad for one in given]
    return [value.detach(), *grads, *([target.grad] if target.is_floating_point() else [])]


def problem(rows, features, classes, positions=(), soft=False, dtype=torch.float64):
    hidden = torch.randn(rows, features, **DOUBLE).to(dtype)
    weights = (torch.randn(classes, *positions, features, **DOUBLE) / 2).to(dtype)
    bias = torch.randn(classes, *positions, **DOUBLE).to(dtype)
    if soft:
        return hidden, weights, bias, torch.rand(rows, classes, *positions, **DOUBLE).to(dtype)
    target = torch.randint(classes, (rows, *positions))
    target[0] = -100
    return hidden, weights, bias, target


def doubled(*tensors):
    return [one.double() if one.is_floating_point() else one for one in tensors]


def close(found, truth, times=1.0):
    """Within some roundings of the dtype that was found, of entries as large as the largest."""
    for one, expected in zip(found, truth, strict=True):
        epsilon = times * 16 * max(torch.finfo(one.dtype).eps / 8, torch.finfo(torch.float32).eps)
        if one.dtype is torch.float64:
            epsilon = times * 1e-13
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(
            one.double(), expected.double(), rtol=epsilon, atol=epsilon * scale
        )


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("positions", [(), (3,), (2, 2)], ids=len)
def test_as_pytorch_in_float64(positions, soft):
    given = problem(11, 5, 7, positions, soft)
    factors = torch.tensor([0.5, 2.0, 0.0, 3.0, 0.75, 1.0, 1.5], **DOUBLE)
    for (weight, smoothing), reduction in itertools.product(
        ((None, 0.0), (factors, 0.1)), ("mean", "sum", "none")
    ):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        upstream = torch.rand(11, *positions) if reduction == "none" else 1.7
        expected = results(functional.linear_cross_entropy, *given, upstream, **options)
        found = results(
            linear_cross_entropy, *given, upstream, memory_budget=SMALL_BUDGET, **options
        )
        close(found, expected, times=10)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_as_the_loss_of_logits_with_our_options(reduction, soft):
    given = problem(11, 5, 7, (3,), soft)
    options = {
        "reduction": reduction,
        "z_loss": 0.1,
        "softcap": 3.0,
        "logit_scale": 1.3,
        "label_smoothing": 0.1,
        "sample_weight": torch.rand(11, 3),
        "weight": torch.rand(7),
    }
    if reduction == "mean":
        options["normalizer"] = 5.5
    expected = results(plain, *given, **options)
    close(results(linear_cross_entropy, *given, memory_budget=SMALL_BUDGET, **options), expected)


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_way_through_the_rows(plans, dtype, kind):
    """All rows at once, in chunks, sums apart, blocks of classes, rows in the gradient's memory."""
    options = {"z_loss": 0.01, "softcap": 15.0, "label_smoothing": 0.1, "weight": torch.rand(900)}
    options |= {"sample_weight": torch.rand(64), "logit_scale": 1.2}
    for features, budget in ((48, None), (48, 310_000), (8, 350_000)):
        given = problem(64, features, 900, (), kind == "probabilities", dtype)
        truth = results(plain, *doubled(*given), **options)
        close(results(linear_cross_entropy, *given, memory_budget=budget, **options), truth)
    if dtype is not torch.float32:
        ways = [(one.has_weight_sums, one.by_class is not None) for one in plans]
        assert {(False, True), (True, False)} <= set(ways)
        return
    assert all(1 <= one.rows < 64 and not one.first_rows for one in plans[1:])
    hidden, weights, bias, target = problem(128, 128, 900, (), kind == "probabilities", dtype)
    if kind == "labels":
        target[0] = 1  # no row is skipped, so that no hidden vector is copied
    given = hidden, weights, bias, target
    options |= {"sample_weight": torch.rand(128), "softcap": None, "logit_scale": 1.0}
    truth = results(plain, *doubled(*given), **options)
    close(results(linear_cross_entropy, *given, memory_budget=320_000, **options), truth, times=2)
    assert plans[-1].first_rows == (128 if kind == "labels" else 0)


def test_blocks_of_classes_with_several_losses_a_row(plans):
    given = problem(32, 24, 200, (3,), dtype=torch.bfloat16)
    given[3][1] = -100  # beside a row that is ignored, one of which a part is
    given[3][2, 1] = -100
    truth = results(plain, *doubled(*given), label_smoothing=0.1)
    for budget, is_by_class in ((None, False), (140_000, True)):
        found = results(linear_cross_entropy, *given, memory_budget=budget, label_smoothing=0.1)
        close(found, truth)
        assert (plans[-1].by_class is not None) is is_by_class


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_budget_of_one_row(plans, dtype):
    given = problem(20, 4, 300, dtype=dtype)
    with pytest.raises(fastxent.OptionError, match="at least") as refused:
        results(linear_cross_entropy, *given, memory_budget=1)
    least = int(re.search(r"at least (\d+) bytes", str(refused.value))[1])
    found = results(linear_cross_entropy, *given, memory_budget=least)
    assert plans[-1].rows <= 2
    close(found, results(plain, *doubled(*given)))


@pytest.mark.parametrize("dtypes", [(4, 8, 4), (8, 4, 2), (2, 4, 4), (4, 2, 8)], ids=str)
def test_each_tensor_has_a_dtype_of_its_own(dtypes):
    names = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
    *tensors, target = problem(20, 6, 50)
    given = [one.to(names[size]) for one, size in zip(tensors, dtypes, strict=True)]
    found = results(linear_cross_entropy, *given, target, memory_budget=220_000)
    computes = torch.float64 if 8 in dtypes else torch.float32
    assert [one.dtype for one in found] == [computes, *(one.dtype for one in given)]
    close(found, results(plain, *doubled(*given), target))


def test_weights_of_any_strides_and_ignored_rows_of_any_numbers():
    hidden, weights, bias, target = problem(9, 4, 30)
    truth = results(linear_cross_entropy, hidden, weights, bias, target)
    wide = torch.zeros(30, 8, **DOUBLE)
    wide[:, ::2] = weights
    for same in (weights.t().contiguous().t(), wide[:, ::2]):
        leaf = same.detach().requires_grad_()
        loss = linear_cross_entropy(hidden, leaf, target, linear_bias=bias)
        torch.testing.assert_close(loss, truth[0])
        torch.testing.assert_close(torch.autograd.grad(0.7 * loss, leaf)[0], truth[2])
    hidden[0] = torch.nan
    for budget in (None, 203_000):
        found = results(linear_cross_entropy, hidden, weights, bias, target, memory_budget=budget)
        torch.testing.assert_close(found[2:], truth[2:])
        assert (found[1][0] == 0).all()


def test_one_row_and_none():
    hidden, weights, bias, target = problem(3, 4, 6)
    for reduction in ("mean", "none"):
        found = results(
            linear_cross_entropy, hidden[1], weights, bias, target[1], reduction=reduction
        )
        options = {"reduction": reduction}
        expected = results(
            functional.linear_cross_entropy, hidden[1], weights, bias, target[1], **options
        )
        torch.testing.assert_close(found, expected)
    soft = torch.rand(6, **DOUBLE)
    torch.testing.assert_close(
        results(linear_cross_entropy, hidden[1], weights, bias, soft),
        results(functional.linear_cross_entropy, hidden[1], weights, bias, soft),
    )
    none = torch.empty(0, dtype=torch.int64)
    found = results(linear_cross_entropy, hidden[:0], weights, bias, none)
    assert found[0].isnan()
    assert not any(one.any() for one in found[1:])
    ignored = torch.full((3,), -100)
    found = results(linear_cross_entropy, hidden, weights, bias, ignored, all_ignored="zero")
    assert not any(one.any() for one in found)


def test_side_outputs_are_those_of_the_logits():
    hidden, weights, bias, target = problem(25, 4, 30)
    names = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")
    expected = plain(hidden, weights, target, linear_bias=bias, aux=names, z_loss=0.1)
    hidden.requires_grad_()
    loss, aux = linear_cross_entropy(
        *(hidden, weights, target), linear_bias=bias, aux=names, z_loss=0.1, memory_budget=207_000
    )
    torch.testing.assert_close((loss.detach(), *aux[:6]), (expected[0], *expected[1][:6]))
    soft = torch.rand(25, 30, **DOUBLE)
    _, aux = linear_cross_entropy(
        hidden, weights, soft, aux=("target_grad",), memory_budget=220_000
    )
    _, expected = plain(hidden.detach(), weights, soft, aux=("target_grad",))
    torch.testing.assert_close(aux.target_grad, expected.target_grad)
    one, aux = linear_cross_entropy(hidden[1], weights, target[1], aux=("lse",))
    assert one.shape == aux.lse.shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_filter_errs_by_no_more_than_its_bound(plans, dtype):
    hidden, weights, bias, target = problem(40, 16, 600)
    weights *= 6  # peaked: most of the classes have next to no probability
    sample = 2 * torch.rand(40, **DOUBLE)
    narrow = [one.to(dtype) for one in (hidden, weights, bias)]
    size = 1e-3
    for budget in (None, 130_000):
        options = {"reduction": "sum", "sample_weight": sample, "memory_budget": budget}
        exact = results(linear_cross_entropy, *narrow, target, 1.0, **options)
        found = results(linear_cross_entropy, *narrow, target, 1.0, grad_filter=size, **options)
        assert torch.equal(found[0], exact[0])
        assert not torch.equal(found[2], exact[2])
        rounding = 4 * torch.finfo(dtype).eps
        bound = size * sample[:, None] * weights.abs().sum(0)
        error = (found[1].double() - exact[1].double()).abs()
        assert (error <= bound + rounding * exact[1].double().abs()).all()
        bound = size * (sample[:, None] * hidden.abs()).sum(0)
        error = (found[2].double() - exact[2].double()).abs()
        assert (error <= bound + rounding * exact[2].double().abs() + 1e-6).all()
    assert plans[-1].rows < 40
    assert (plans[-1].by_class is not None) is (dtype is torch.bfloat16)


def test_the_same_bits_each_time():
    given = problem(64, 32, 500, (), False, torch.float32)
    first = results(linear_cross_entropy, *given, memory_budget=200_000)
    for _ in range(2):
        again = results(linear_cross_entropy, *given, memory_budget=200_000)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("shape", [(), (4, 3)], ids=len)
@pytest.mark.parametrize("bias", [False, True])
def test_the_module_exchanges_its_state_with_that_of_pytorch(shape, bias):
    options = {"out_features": shape, "bias": bias, "weight": torch.rand(10)}
    theirs = torch.nn.LinearCrossEntropyLoss(5, 10, **options)
    ours = LinearCrossEntropyLoss(5, 10, z_loss=0.0, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    hidden, target = torch.randn(6, 5), torch.randint(10, (6, *shape))
    for module in (ours, theirs):
        module(hidden, target).backward()
    torch.testing.assert_close(
        [one.grad for one in ours.parameters()], [one.grad for one in theirs.parameters()]
    )
    weighted = ours(hidden, target, sample_weight=torch.ones(6, *shape))
    torch.testing.assert_close(weighted, theirs(hidden, target))
    assert isinstance(ours, torch.nn.LinearCrossEntropyLoss)
    assert "z_loss=0.5" in repr(LinearCrossEntropyLoss(2, 3, z_loss=0.5))
    assert fastxent.torch.LinearCrossEntropyLoss is LinearCrossEntropyLoss
