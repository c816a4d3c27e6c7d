"""fastxent.torch.linear_cross_entropy on tensors of a GPU, without one: CPU tensors stand for them.

The products are PyTorch's own on both; what is looked at is the path of a GPU through the loop, and
that nothing in it waits for a number.
"""

import re

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastxent  # noqa: E402
import fastxent.torch as fxt  # noqa: E402
from fastxent.torch import linear_chunks  # noqa: E402
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants  # noqa: E402
from fastxent.torch.settings import Settings  # noqa: E402
from gpu.test_torch_tensors import close, host, simulation, tensors  # noqa: E402, F401

DOUBLE = {"dtype": torch.float64}
# Operators whose result the host has to know.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def problem(rows=7, features=4, classes=9, positions=(), dtype=torch.float64):
    hidden = torch.randn(rows, features, **DOUBLE).to(dtype)
    weights = torch.randn(classes, *positions, features, **DOUBLE).to(dtype)
    bias = torch.randn(classes, *positions, **DOUBLE).to(dtype)
    target = torch.randint(classes, (rows, *positions))
    target[0] = -100
    return hidden, weights, bias, target


def results(hidden, weights, bias, target, **options):
    """Loss and gradients."""
    given = [one.detach().clone().requires_grad_() for one in (hidden, weights, bias)]
    if target.is_floating_point():
        target = target.detach().clone().requires_grad_()
    loss = fxt.linear_cross_entropy(given[0], given[1], target, linear_bias=given[2], **options)
    loss.sum().backward()
    grads = [one.grad for one in given]
    return [loss.detach(), *grads, *([target.grad] if target.is_floating_point() else [])]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("positions", [(), (3,)], ids=len)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_as_on_the_cpu(host, positions, reduction, soft):  # noqa: F811
    given = problem(positions=positions)
    if soft:
        given = (*given[:3], torch.rand(7, 9, *positions, **DOUBLE))
    options = {"reduction": reduction, "z_loss": 0.1, "softcap": 5.0, "label_smoothing": 0.1}
    options |= {"sample_weight": torch.rand(7, *positions), "weight": torch.rand(9)}
    with pytest.raises(fastxent.OptionError, match="at least") as refused:
        results(*given, memory_budget=1, **options)
    least = int(re.search(r"at least (\d+) bytes", str(refused.value))[1])
    for budget in (None, least):
        expected = results(*given, memory_budget=budget, **options)
        with host():
            close(results(*given, memory_budget=budget, **options), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_by_blocks_of_classes(host, dtype):  # noqa: F811
    given = problem(64, 48, 700, dtype=dtype)
    expected = results(*given, memory_budget=200_000)
    with host():
        found = results(*given, memory_budget=200_000)
    close(found, [one.double() for one in expected])


def test_through_the_kernels_themselves(simulation):  # noqa: F811
    given = problem(3, 2, 5, dtype=torch.float32)
    expected = results(*given)
    with simulation():
        close(results(*given), [one.double() for one in expected])


def test_bad_labels_and_denominators_of_0(host):  # noqa: F811
    hidden, weights, bias, target = problem()
    clean = results(hidden, weights, bias, torch.where(target == target[1], -100, target))
    with host():
        bad = torch.where(target == target[1], 99, target)
        found = results(hidden, weights, bias, bad)
        assert found[0].isnan()
        assert not found[1][1].any()
        close(found[1:], clean[1:])
        ignored = torch.full_like(target, -100)
        for word, loss in (("nan", torch.nan), ("zero", 0.0)):
            found = results(hidden, weights, bias, ignored, all_ignored=word)
            torch.testing.assert_close(found[0].item(), loss, equal_nan=True)
            assert not any(one.any() for one in found[1:])
        nothing = {"all_ignored": "zero", "normalizer": 0.0}
        assert results(hidden, weights, bias, bad, **nothing)[0].isnan()
        number = torch.tensor(5.0)
        divided = results(hidden, weights, bias, target, normalizer=number)
    close(divided, results(hidden, weights, bias, target, normalizer=5.0))


class _Watch(TorchDispatchMode):
    """Notes what is called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_waits_for_a_number(host, dtype):  # noqa: F811
    hidden, weights, bias, target = problem(64, 48, 700, dtype=dtype)
    factor = torch.rand(700)
    arguments = LinearArguments(hidden, weights, target, bias, factor, torch.rand(64))
    wants = Wants(True, True, True, False)
    settings = Settings(label_smoothing=0.1, z_loss=0.1)
    for size, waits in ((0.0, False), (1e-2, True)):
        chunking = Chunking(memory_budget=300_000, grad_filter=size)
        with host(), _Watch() as watch:
            linear_chunks.compute(arguments, settings, chunking, wants)
        assert bool(set(watch.names) & set(WAITING)) is waits
        assert {"mm", "addmm"} & set(watch.names) or "addmm_" in watch.names
