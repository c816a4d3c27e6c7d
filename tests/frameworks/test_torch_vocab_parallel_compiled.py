"""The loss over a group beside torch.compile: left out of the compiled part, as the page says."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import torch.distributed as dist  # noqa: E402

from fastxent.torch import vocab_parallel_cross_entropy  # noqa: E402

# the compiler loads decompositions that PyTorch still scripts
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_left_out_of_what_is_compiled():
    layer, x, target = torch.nn.Linear(4, 5), torch.randn(6, 4), torch.arange(6) % 5
    loss_of = torch.compiler.disable(vocab_parallel_cross_entropy)

    def step(x):
        return loss_of(2.0 * layer(x), target)

    loss = torch.compile(step, backend="aot_eager")(x)
    (found,) = torch.autograd.grad(loss, layer.weight)
    expected = torch.nn.functional.cross_entropy(2.0 * layer(x), target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, layer.weight)[0])
