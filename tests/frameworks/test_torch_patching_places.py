"""`patched()` beside what else changes PyTorch's functions: pickle and default devices."""

import functools
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent.torch  # noqa: E402
from fastxent.torch import patched  # noqa: E402

functional = torch.nn.functional
ORIGINAL = functional.cross_entropy


@pytest.fixture
def ours(monkeypatch):
    """Losses that fastxent computed."""
    losses = []
    whole = fastxent.torch.patching.cross_entropy

    def kept(*args, **kwargs):
        losses.append(whole(*args, **kwargs))
        return losses[-1]

    monkeypatch.setattr(fastxent.torch.patching, "cross_entropy", kept)
    return losses


def test_the_replacement_is_pickled_as_the_function_of_that_name(ours):
    with patched():
        # compilers cache graphs by the names of PyTorch's own modules
        assert not functional.cross_entropy.__module__.startswith("torch")
        data = pickle.dumps(functional.cross_entropy)
        assert pickle.loads(data) is functional.cross_entropy
        pickle.loads(pickle.dumps(functools.partial(functional.cross_entropy, reduction="sum")))
    assert pickle.loads(data) is ORIGINAL


def test_a_default_device_is_no_reason_to_pass_calls_on(ours):
    logits, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 0])
    expected = torch.autograd.grad(functional.cross_entropy(logits, target), logits)
    for device in ("cpu", "meta"):
        with patched(), torch.device(device):
            found = torch.autograd.grad(functional.cross_entropy(logits, target), logits)
        torch.testing.assert_close(found, expected)
    assert len(ours) == 2
    with patched(), torch.overrides.BaseTorchFunctionMode():
        functional.cross_entropy(logits, target)
    assert len(ours) == 2


def test_an_ignored_label_that_is_a_boolean_is_pytorchs_error(ours):
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 0])
    with patched(), pytest.raises(TypeError, match=r"'ignore_index'.*must be int, not bool"):
        functional.cross_entropy(logits, target, ignore_index=True)
    assert ours == []
