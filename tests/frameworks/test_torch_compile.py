"""fastxent.torch where a call is compiled, exported, traced or faked."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.func import grad, vmap  # noqa: E402

import fastxent  # noqa: E402
from fastxent.backends import load  # noqa: E402
from fastxent.torch import (  # noqa: E402
    CrossEntropyLoss,
    binary_cross_entropy_with_logits,
    cross_entropy,
    devices,
    log_softmax,
    operators,
    softmax,
)
from fastxent.torch.settings import Settings  # noqa: E402

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


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"memory": "low"}], ids=str)
def test_compiled_whole_with_dynamic_shapes(options):
    def function(logits, target):
        loss = cross_entropy(logits * 2, target, label_smoothing=0.1, **options)
        return loss.mean() + softmax(logits, 1).max()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (7, 9):
        logits, target = torch.randn(rows, 5, requires_grad=True), torch.randint(5, (rows,))
        expected = torch.autograd.grad(function(logits, target), logits)
        found = torch.autograd.grad(compiled(logits, target), logits)
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(logits, target), function(logits, target))
    with pytest.raises(IndexError, match="is 5"):
        compiled(logits, target.clone().fill_(5))


def test_compiled_by_inductor():
    layer = torch.nn.Linear(4, 3)
    hidden, target = torch.randn(6, 4), torch.randint(3, (6,))
    step = torch.compile(lambda h: cross_entropy(layer(h), target, z_loss=0.1), fullgraph=True)
    step(hidden).backward()
    found = layer.weight.grad.clone()
    layer.zero_grad()
    cross_entropy(layer(hidden), target, z_loss=0.1).backward()
    torch.testing.assert_close(found, layer.weight.grad)


def test_exported_with_a_dynamic_batch():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.loss = CrossEntropyLoss(label_smoothing=0.1)

        def forward(self, x, target):
            return self.loss(self.linear(x), target)

    model, batch = Model(), torch.export.Dim("batch")
    given = torch.randn(5, 4), torch.randint(3, (5,))
    program = torch.export.export(model, given, dynamic_shapes=({0: batch}, {0: batch}))
    names = [str(node.target) for node in program.graph.nodes]
    assert "fastxent.cross_entropy.default" in names
    other = torch.randn(8, 4), torch.randint(3, (8,))
    exported = program.module()
    loss = exported(*other)
    loss.backward()  # an exported loss computes its gradient when it is asked for
    expected = model(*other)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        dict(exported.named_parameters())["linear.weight"].grad, model.linear.weight.grad
    )


def test_traced_to_a_graph_of_scripts():
    logits, target = torch.randn(4, 3), torch.randint(3, (4,))
    traced = torch.jit.trace(lambda x, y: cross_entropy(x, y), (logits, target))
    other = torch.randn(4, 3)
    torch.testing.assert_close(traced(other, target), cross_entropy(other, target))


def test_meta_and_fake_tensors_have_shapes_only():
    for dtype, result in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        logits = torch.empty(6, 5, 4, device="meta", dtype=dtype, requires_grad=True)
        target = torch.empty(6, 4, device="meta", dtype=torch.int64)
        loss = cross_entropy(logits, target, reduction="none")
        assert (loss.device.type, loss.shape, loss.dtype) == ("meta", (6, 4), result)
        loss.sum().backward()
        assert logits.grad.shape == logits.shape
    with FakeTensorMode():
        logits = torch.empty(6, 5, requires_grad=True)
        cross_entropy(logits, torch.empty(6, dtype=torch.int64)).backward()
        assert logits.grad.shape == (6, 5)
        softmax(logits, 1).sum().backward()


@pytest.mark.parametrize(
    ("device", "reason"),
    [("xpu", "no backend computes there"), ("cuda", "cannot run: no driver")],
)
def test_another_device_is_a_clear_error(device, reason, monkeypatch):
    monkeypatch.setattr(type(load("cuda")), "why_not", lambda self, problem=None: "no driver")
    message = rf"device '{device}' and .*{reason}.*input\.cpu\(\)"
    with FakeTensorMode():
        logits, target = torch.empty(6, 5, device=device), torch.empty(6, 5, device=device)
        for function in (cross_entropy, binary_cross_entropy_with_logits):
            with pytest.raises(fastxent.BackendError, match=message):
                function(logits, target)
        for function in (softmax, log_softmax):
            with pytest.raises(fastxent.BackendError, match=message):
                function(logits, 1)
        with pytest.raises(fastxent.BackendError, match=f"target is on device '{device}'"):
            cross_entropy(torch.empty(6, 5), target)


@pytest.mark.parametrize("reason", [None, "no driver"])
def test_compilers_ask_once_whether_there_is_a_gpu(reason, monkeypatch):
    monkeypatch.setattr(type(load("cuda")), "why_not", lambda self, problem=None: reason)

    @torch.compile(fullgraph=True, backend="eager")
    def function(x):
        return x + 1 if devices.is_computed_on(torch.device("cuda")) else x - 1

    assert function(torch.zeros(())) == (1 if reason is None else -1)


def test_shapes_on_a_gpu_need_none(monkeypatch):
    """What a compiler asks the operators, and what two devices in one call are told."""
    monkeypatch.setattr(type(load("cuda")), "why_not", lambda self, problem=None: None)
    with FakeTensorMode():
        logits = torch.empty(6, 5, device="cuda", dtype=torch.bfloat16)
        labels = torch.empty(6, dtype=torch.int64, device="cuda")
        weight = torch.empty(5, device="cuda")
        for memory in ("fast", "low"):
            loss = cross_entropy(logits, labels, weight, memory=memory, reduction="sum")
            assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
        # a PyTorch without CUDA has no autograd for it, so its operator is asked for the gradient
        _, grad, _ = operators.cross_entropy(
            *(logits, labels, weight, None, None, Settings()),
            wants_grad=True,
            wants_target_grad=False,
        )
        assert (grad.device.type, grad.dtype, grad.shape) == ("cuda", torch.bfloat16, (6, 5))
        loss = binary_cross_entropy_with_logits(logits, torch.empty_like(logits), reduction="none")
        assert (loss.device.type, loss.shape) == ("cuda", (6, 5))
        assert softmax(logits, 1).device.type == "cuda"
        for other in ({"target": labels.cpu()}, {"target": labels, "weight": weight.cpu()}):
            with pytest.raises(fastxent.BackendError, match=r"'cuda:0' and .* on 'cpu': pass"):
                cross_entropy(logits, **other)
        with pytest.raises(fastxent.BackendError, match="backend 'numpy' computes on the host"):
            cross_entropy(logits, labels, backend="numpy")


def test_eager_options_are_refused_where_a_call_is_transformed():
    logits, target = torch.randn(2, 6, 4), torch.randint(4, (2, 6))
    with pytest.raises(fastxent.OptionError, match="aux works on plain tensors only"):
        vmap(lambda x, y: cross_entropy(x, y, aux=("lse",)))(logits, target)
    with pytest.raises(fastxent.OptionError, match="in_place works on plain tensors only"):
        grad(lambda x: cross_entropy(x * 1, target[0], in_place=True))(logits[0])
