"""fastxent.torch.cross_entropy against PyTorch's own, over options, ranks, dtypes and layouts."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import cross_entropy  # noqa: E402

functional = torch.nn.functional
CLASSES = 5
SHAPES = ((5,), (7, 5), (3, 5, 4), (2, 5, 3, 2), (2, 5, 1, 3, 2), (2, 5, 2, 1, 3, 2))
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def rows_of(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def results(loss, logits, target, upstream, **options):
    """Loss and gradients: of the logits, and of probabilities."""
    inputs = [logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()]
    soft = target.is_floating_point()
    if soft:
        inputs.append(target.detach().clone().requires_grad_())
    value = loss(inputs[0], inputs[1] if soft else target, **options)
    value.backward(upstream.to(value.dtype).expand(value.shape))
    return [value.detach(), *(one.grad for one in inputs)]


@pytest.mark.parametrize("kind", ["labels", "some ignored", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_as_pytorch_in_float64(shape, kind):
    generator = torch.Generator().manual_seed(len(shape))
    weights = (None, torch.tensor([0.5, 2.0, 0.0, 3.0, 0.75], dtype=torch.float64))
    product = itertools.product(weights, (0.0, 0.1, 1.0), ("mean", "sum", "none"), ("fast", "low"))
    for weight, smoothing, reduction, memory in product:
        logits = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = rows_of(shape)
        if kind == "probabilities":
            target = torch.rand(shape, generator=generator, dtype=torch.float64)
        else:
            target = torch.randint(CLASSES, rows, generator=generator)
            if kind == "some ignored" and rows:
                target[0] = -100
        upstream = torch.tensor(1.7, dtype=torch.float64)
        if reduction == "none":
            upstream = torch.rand(rows, generator=generator, dtype=torch.float64)
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        expected = results(functional.cross_entropy, logits, target, upstream, **options)
        if kind != "probabilities" and expected[0].isnan().any():
            continue  # all rows weigh 0: PyTorch's gradient is NaN, see the test of differences
        found = results(cross_entropy, logits, target, upstream, memory=memory, **options)
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_pytorch_in_the_other_dtypes(dtype, reduction):
    """Gradients differ from the float64 truth by no more than the rounding of their dtype."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(40, 300)).to(dtype)
    epsilon = torch.finfo(dtype).eps
    targets = (torch.randint(300, (40,)), torch.rand(40, 300).to(dtype))
    for target, smoothing in itertools.product(targets, (0.0, 0.1)):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        upstream = torch.tensor(0.5)
        soft = target.is_floating_point()
        truth = results(
            *(functional.cross_entropy, logits.double()),
            *(target.double() if soft else target, upstream),
            **options,
        )
        found = results(cross_entropy, logits, target, upstream, **options)
        assert found[0].dtype == torch.float32
        torch.testing.assert_close(found[0].double(), truth[0], rtol=1e-6, atol=1e-6)
        for grad, expected in zip(found[1:], truth[1:], strict=True):
            assert grad.dtype == dtype
            scale = expected.abs().amax().item()
            torch.testing.assert_close(
                grad.double(), expected, rtol=4 * epsilon, atol=max(scale * 1e-6, 6e-8)
            )


@pytest.mark.parametrize("logits_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target_dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_probabilities_of_another_dtype(logits_dtype, target_dtype):
    torch.manual_seed(1)
    logits, target = torch.randn(4, 6).to(logits_dtype), torch.rand(4, 6).to(target_dtype)
    found = results(cross_entropy, logits, target, torch.tensor(1.0))
    truth = results(functional.cross_entropy, logits.double(), target.double(), torch.tensor(1.0))
    assert [one.dtype for one in found[1:]] == [logits_dtype, target_dtype]
    computes = torch.float64 if logits_dtype is torch.float64 else torch.float32
    for one, expected in zip(found, truth, strict=True):
        tolerance = 4 * max(torch.finfo(dtype).eps for dtype in (one.dtype, computes))
        torch.testing.assert_close(one.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16], ids=str)
def test_labels_of_any_integer_dtype(dtype):
    logits = torch.randn(6, 5, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 1, 3, 3])
    for one in (logits, logits.to(torch.bfloat16)):
        same = cross_entropy(one, labels.to(dtype))
        assert torch.equal(same, cross_entropy(one, labels))
    booleans = functional.one_hot(labels, 5).bool()
    torch.testing.assert_close(cross_entropy(logits, booleans), cross_entropy(logits, labels))


def test_layouts_are_read_where_they_lie():
    torch.manual_seed(2)
    last = torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    layouts = {
        "channels_last": last,
        "transposed": torch.randn(5, 7).t(),
        "sliced": torch.randn(7, 12)[:, 1:11:2],
        "expanded": torch.randn(1, 5).expand(7, 5),
    }
    for name, logits in layouts.items():
        target = torch.randint(5, rows_of(tuple(logits.shape)))
        for dtype in (torch.float32, torch.bfloat16):
            leaf = logits.to(dtype).detach().requires_grad_()
            cross_entropy(leaf, target).backward()
            expected = results(
                functional.cross_entropy, leaf.double().contiguous(), target, torch.tensor(1.0)
            )[1]
            atol = 1e-7 if dtype is torch.float32 else 1e-3
            torch.testing.assert_close(leaf.grad.double(), expected, rtol=0, atol=atol, msg=name)
    leaf = last.requires_grad_()
    cross_entropy(leaf, torch.zeros(2, 3, 4, dtype=torch.int64)).backward()
    assert leaf.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0)])
def test_no_rows(shape):
    logits = torch.randn(shape, requires_grad=True)
    target = torch.zeros(rows_of(shape), dtype=torch.int64)
    assert cross_entropy(logits, target).isnan()
    assert cross_entropy(logits, target, reduction="sum") == 0
    assert cross_entropy(logits, target, all_ignored="zero") == 0
    none = cross_entropy(logits, target, reduction="none")
    assert none.shape == rows_of(shape)
    none.sum().backward()
    assert logits.grad.shape == shape


def test_options_that_pytorch_has_not():
    torch.manual_seed(3)
    logits, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])
    weights = torch.rand(6)
    options = {"z_loss": 1e-2, "softcap": 5.0, "logit_scale": 0.5, "label_smoothing": 0.1}
    for extra in ({}, {"normalizer": 3}, {"normalizer": torch.tensor(3.0)}):
        found = cross_entropy(logits, target, sample_weight=weights, **options, **extra)
        expected = fastxent.cross_entropy(
            *(logits.numpy(), target.numpy()),
            sample_weight=weights.numpy(),
            **options,
            **{name: float(value) for name, value in extra.items()},
        )
        assert found.item() == expected
    assert cross_entropy(logits, target[:1].expand(6) * 0 - 100, all_ignored="zero") == 0
    for backend in ("cython", "numpy"):
        one = cross_entropy(logits, target, backend=backend, num_threads=2)
        torch.testing.assert_close(one, functional.cross_entropy(logits, target))
    with fastxent.use_backend("numpy"):
        torch.testing.assert_close(cross_entropy(logits, target), one)


def test_side_outputs_are_tensors_without_a_graph():
    torch.manual_seed(4)
    logits = torch.randn(2, 5, 3, requires_grad=True)
    target = torch.randint(5, (2, 3))
    names = ("lse", "log_prob", "argmax", "correct", "entropy")
    loss, aux = cross_entropy(logits, target, aux=names)
    loss.backward()
    torch.testing.assert_close(aux.lse, logits.detach().logsumexp(1))
    assert torch.equal(aux.argmax, logits.argmax(1))
    assert torch.equal(aux.correct, logits.argmax(1) == target)
    assert not aux.entropy.requires_grad
    assert aux.z_loss is None
    expected = results(functional.cross_entropy, logits.detach(), target, torch.tensor(1.0))
    torch.testing.assert_close(logits.grad, expected[1])


# Where fastxent differs from PyTorch ----------------------------------------------------------


def test_difference_ignored_rows_are_not_read():
    logits = torch.randn(3, 5)
    logits[1] = torch.nan
    target = torch.tensor([0, -100, 2])
    found = results(cross_entropy, logits, target, torch.tensor(1.0))
    theirs = results(functional.cross_entropy, logits, target, torch.tensor(1.0))
    assert not found[1][1].any()
    assert theirs[1][1].isnan().all()
    torch.testing.assert_close(found[1][::2], theirs[1][::2])


def test_difference_a_masked_class_without_mass_costs_nothing():
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    target = torch.tensor([[0.25, 0.0, 0.75]])
    assert functional.cross_entropy(logits, target).isnan()
    expected = functional.cross_entropy(logits[:, ::2], target[:, ::2])
    torch.testing.assert_close(cross_entropy(logits, target), expected)


def test_difference_rows_that_all_weigh_nothing():
    weight = torch.zeros(3)
    found = results(
        cross_entropy, torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor(1.0), weight=weight
    )
    assert found[0].isnan()
    assert not found[1].any()


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [float("nan"), float("inf"), -float("inf")])
def test_rows_without_a_softmax_are_nan(kind):
    logits = torch.randn(3, 5)
    logits[1] = kind
    found = results(cross_entropy, logits, torch.tensor([0, 1, 2]), torch.ones(3), reduction="none")
    assert found[0].isnan().tolist() == [False, True, False]
    assert found[1].isnan().all(1).tolist() == [False, True, False]


def test_errors():
    logits, target = torch.randn(3, 5), torch.tensor([0, 1, 5])
    with pytest.raises(IndexError, match=r"target\[2\] is 5"):
        cross_entropy(logits, target)
    target = target.clamp(max=4)
    with pytest.raises(fastxent.ShapeError, match="target"):
        cross_entropy(logits, target[:2])
    with pytest.raises(fastxent.OptionError, match=r"weight\.detach"):
        cross_entropy(logits, target, weight=torch.ones(5, requires_grad=True))
    with pytest.raises(fastxent.OptionError, match="label_smoothing"):
        cross_entropy(logits, target, label_smoothing=2.0)
    with pytest.raises(fastxent.OptionError, match="ignore_index"):
        cross_entropy(logits, torch.rand(3, 5), ignore_index=1)
    with pytest.raises(fastxent.OptionError, match="memory"):
        cross_entropy(logits, target, memory="none")
    with pytest.raises(fastxent.DTypeError, match="complex64"):
        cross_entropy(logits.to(torch.complex64), target)
    with pytest.raises(fastxent.DTypeError, match="input must be a tensor"):
        cross_entropy(np.zeros((3, 5)), target)
    with pytest.raises(ValueError, match="mode"):
        cross_entropy(logits, target, reduction="mode")


def test_deprecated_arguments_warn_as_pytorch_does():
    logits, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
    cases = ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True})
    for old in cases:
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            found = cross_entropy(logits, target, **old)
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            torch.testing.assert_close(found, functional.cross_entropy(logits, target, **old))
