"""The binary loss, the softmax functions and the modules against PyTorch's own."""

import copy
import io
import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import (  # noqa: E402
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    binary_cross_entropy_with_logits,
    log_softmax,
    softmax,
)

functional = torch.nn.functional
DOUBLE = {"dtype": torch.float64}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def results(loss, logits, target, **options):
    x, y = logits.detach().clone().requires_grad_(), target.detach().clone().requires_grad_()
    value = loss(x, y, **options)
    value.backward(torch.linspace(0.5, 2, value.numel()).reshape(value.shape).to(value.dtype))
    return value.detach(), x.grad, y.grad


# Binary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (6,), (4, 3), (2, 3, 5)], ids=len)
def test_binary_loss_as_pytorch(shape):
    logits, target = 4 * torch.randn(shape, **DOUBLE), torch.rand(shape, **DOUBLE)
    last = shape[-1:]
    factors = (None, torch.rand(last, **DOUBLE), torch.rand(shape, **DOUBLE) * 3)
    product = itertools.product(factors, factors, ("mean", "sum", "none"), ("fast", "low"))
    for weight, pos_weight, reduction, memory in product:
        options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
        expected = results(functional.binary_cross_entropy_with_logits, logits, target, **options)
        found = results(binary_cross_entropy_with_logits, logits, target, memory=memory, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_binary_loss_in_the_other_dtypes(dtype):
    logits, target = (4 * torch.randn(50, 7)).to(dtype), torch.rand(50, 7).to(dtype)
    truth = results(functional.binary_cross_entropy_with_logits, logits.double(), target.double())
    found = results(binary_cross_entropy_with_logits, logits, target)
    assert [one.dtype for one in found] == [torch.float32, dtype, dtype]
    for one, expected in zip(found, truth, strict=True):
        tolerance = 4 * torch.finfo(one.dtype).eps
        torch.testing.assert_close(one.double(), expected, rtol=tolerance, atol=6e-8)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_loss_has_all_derivatives(smoothing, reduction):
    logits = torch.randn(3, 4, **DOUBLE, requires_grad=True)
    target = torch.rand(3, 4, **DOUBLE, requires_grad=True)
    factors = {"weight": torch.rand(4, **DOUBLE), "pos_weight": 3 * torch.rand(3, 1, **DOUBLE)}

    def loss(x, y):
        return binary_cross_entropy_with_logits(
            x, y, **factors, reduction=reduction, label_smoothing=smoothing
        )

    assert torch.autograd.gradcheck(loss, (logits, target), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (logits, target))


def test_binary_loss_layouts_targets_and_gradients():
    logits = torch.randn(5, 4).t()
    for target in (torch.randint(2, (4, 5)), torch.rand(4, 5) > 0.5):
        leaf = logits.detach().requires_grad_()
        loss = binary_cross_entropy_with_logits(leaf, target, reduction="none")
        loss.sum().backward()
        expected = functional.binary_cross_entropy_with_logits(
            logits, target.float(), reduction="none"
        )
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(leaf.grad, torch.sigmoid(logits) - target.float())
        assert leaf.grad.stride() == logits.stride()
    empty = torch.randn(0, 3, requires_grad=True)
    assert binary_cross_entropy_with_logits(empty, empty.detach()).isnan()


def test_binary_loss_errors():
    logits = torch.randn(3)
    with pytest.raises(IndexError, match="0 or 1"):
        binary_cross_entropy_with_logits(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="target needs shape"):
        binary_cross_entropy_with_logits(logits, torch.rand(2))
    pos_weight = torch.rand(3, requires_grad=True)
    with pytest.raises(fastxent.OptionError, match=r"pos_weight\.detach"):
        binary_cross_entropy_with_logits(logits, torch.rand(3), pos_weight=pos_weight)
    with pytest.warns(UserWarning, match="will be deprecated"):
        found = binary_cross_entropy_with_logits(logits, logits.sigmoid(), size_average=False)
    torch.testing.assert_close(
        found, binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="sum")
    )


# Softmax ------------------------------------------------------------------------------------------

PAIRS = [(softmax, functional.softmax), (log_softmax, functional.log_softmax)]
both = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["softmax", "log_softmax"])


@both
def test_softmax_as_pytorch(ours, theirs):
    for shape in ((), (4,), (3, 4), (2, 3, 4), (0, 3), (3, 0)):
        x = 3 * torch.randn(shape, **DOUBLE)
        for dim in range(-max(len(shape), 1), max(len(shape), 1)):
            torch.testing.assert_close(ours(x, dim), theirs(x, dim), rtol=1e-13, atol=1e-15)
            one, other = (x.clone().requires_grad_() for _ in range(2))
            upstream = torch.randn(shape, **DOUBLE)
            ours(one, dim).backward(upstream)
            theirs(other, dim).backward(upstream)
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)
    x = torch.randn(3, 4, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x, 0), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: ours(x, 0), x)


@both
def test_softmax_dtypes_and_the_implicit_dim(ours, theirs):
    x = torch.randn(5, 9)
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype).requires_grad_()
        found, truth = ours(half, 1), theirs(half.double(), 1)
        assert found.dtype == dtype
        tolerance = torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=6e-8)
        found.backward(torch.ones_like(found) * x.to(dtype))
        assert half.grad.dtype == dtype
    assert ours(half, 1, dtype=torch.float64).dtype == torch.float64
    torch.testing.assert_close(ours(x.int(), 1, dtype=torch.float32), theirs(x.int().float(), 1))
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        torch.testing.assert_close(ours(x), theirs(x, 1))
    with pytest.raises(TypeError, match="int64"):
        ours(x.long(), 1)
    with pytest.raises(fastxent.ShapeError, match="axis 2"):
        ours(x, 2)


@both
def test_softmax_special_rows(ours, theirs):
    x = torch.tensor([[1.0, -torch.inf, 2.0], [torch.inf, 0, 1], [torch.nan, 0, 1]])
    x = torch.cat([x, torch.full((1, 3), -torch.inf)])
    torch.testing.assert_close(ours(x, 1), theirs(x, 1), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_autocast_gives_the_dtypes_of_pytorch(dtype):
    logits, target = torch.randn(4, 5, dtype=dtype), torch.rand(4, 5, dtype=dtype)
    pairs = (
        (fastxent.torch.cross_entropy, functional.cross_entropy, target),
        (fastxent.torch.cross_entropy, functional.cross_entropy, torch.tensor([0, 1, 2, 3])),
        (
            binary_cross_entropy_with_logits,
            functional.binary_cross_entropy_with_logits,
            target,
        ),
        (softmax, functional.softmax, 1),
        (log_softmax, functional.log_softmax, 1),
    )
    for chosen in (torch.bfloat16, torch.float16):
        for ours, theirs, other in pairs:
            grads, values = [], []
            for function in (ours, theirs):
                leaf = logits.clone().requires_grad_()
                with torch.autocast("cpu", dtype=chosen):
                    values.append(function(leaf, other))
                values[-1].sum().backward()
                grads.append(leaf.grad)
            assert values[0].dtype == values[1].dtype
            assert grads[0].dtype == grads[1].dtype
            torch.testing.assert_close(values[0], values[1])


# Modules ------------------------------------------------------------------------------------------


def test_modules_are_those_of_pytorch():
    weight = torch.rand(5)
    ours, theirs = CrossEntropyLoss(weight), torch.nn.CrossEntropyLoss(weight)
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    theirs.load_state_dict(ours.state_dict())
    assert ours.double().weight.dtype == torch.float64
    binary = BCEWithLogitsLoss(pos_weight=torch.rand(5))
    assert isinstance(binary, torch.nn.BCEWithLogitsLoss)
    assert list(binary.state_dict()) == ["pos_weight"]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_modules_compute(reduction):
    logits, target, weight = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 1]), torch.rand(5)
    arguments = {"weight": weight, "ignore_index": 1, "reduction": reduction}
    ours = CrossEntropyLoss(**arguments, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(**arguments, label_smoothing=0.1)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for same in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert torch.equal(same(logits, target), ours(logits, target))
    labels = torch.rand(6, 5)
    arguments = {"weight": weight, "pos_weight": torch.rand(5), "reduction": reduction}
    torch.testing.assert_close(
        BCEWithLogitsLoss(**arguments)(logits, labels),
        torch.nn.BCEWithLogitsLoss(**arguments)(logits, labels),
    )


def test_modules_pass_fastxents_options_on():
    logits, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 1])
    options = {"z_loss": 0.1, "softcap": 3.0, "logit_scale": 0.5, "normalizer": 4.0}
    loss = CrossEntropyLoss(**options, aux=iter(["lse"]), num_threads=1, backend="numpy")
    rows = torch.rand(6)
    expected = fastxent.torch.cross_entropy(logits, target, sample_weight=rows, **options)
    for _ in range(2):
        found, aux = loss(logits, target, sample_weight=rows)
        torch.testing.assert_close(found, expected)
        assert aux.lse.shape == (6,)
    loss.options["normalizer"] = 8.0
    torch.testing.assert_close(loss(logits, target, sample_weight=rows)[0], expected / 2)
    smooth = BCEWithLogitsLoss(label_smoothing=0.2)(logits, torch.ones(6, 5))
    expected = functional.binary_cross_entropy_with_logits(logits, torch.full((6, 5), 0.9))
    torch.testing.assert_close(smooth, expected)
