"""The operators behind fastxent.torch: what traces, transforms or fakes a call."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, vmap  # noqa: E402

import fastxent  # noqa: E402
from fastxent.torch import (  # noqa: E402
    CrossEntropyLoss,
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
    softmax,
)
from fastxent.torch.settings import Settings  # noqa: E402

functional = torch.nn.functional
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


# The operators themselves -----------------------------------------------------------------------


def loss_arguments(name):
    labels = torch.randint(5, (7,))
    weight, rows = torch.rand(5), torch.rand(7)
    logits = torch.randn(7, 5, requires_grad=True)
    return {
        "mean": ((logits, labels, weight, rows, None), {}),
        "upstream": ((logits, labels, None, None, torch.tensor(2.0, requires_grad=True)), {}),
        "probabilities, rows": (
            (logits, torch.rand(7, 5, requires_grad=True), weight, None, torch.rand(7)),
            {"reduction": "none", "wants_target_grad": True, "z_loss": 0.1, "softcap": 3.0},
        ),
        "no gradient yet": ((logits, labels, None, None, None), {"wants_grad": False}),
        "bfloat16": ((logits.detach().bfloat16().requires_grad_(), labels, *(None,) * 3), {}),
        "channels last": (
            (
                torch.randn(2, 3, 4, 5).permute(0, 3, 1, 2).requires_grad_(),
                torch.randint(5, (2, 3, 4)),
                *(None,) * 3,
            ),
            {},
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["mean", "upstream", "probabilities, rows", "no gradient yet", "bfloat16", "channels last"],
)
def test_opcheck_of_the_loss(name):
    arguments, given = loss_arguments(name)
    options = {"wants_grad": True, "wants_target_grad": False, **Settings()._asdict(), **given}
    torch.library.opcheck(torch.ops.fastxent.cross_entropy.default, arguments, options)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck_of_the_binary_loss(reduction):
    for logits in (torch.randn(3, 4), torch.randn(4, 3).t(), torch.randn(3, 4).bfloat16()):
        logits.requires_grad_()
        target, factors = torch.rand(3, 4, requires_grad=True), (torch.rand(4), torch.rand(3, 1))
        torch.library.opcheck(
            torch.ops.fastxent.binary_cross_entropy_with_logits.default,
            (logits, target, *factors, None),
            {
                "wants_grad": True,
                "reduction": reduction,
                "label_smoothing": 0.1,
                "backend": None,
                "num_threads": None,
            },
        )


@pytest.mark.parametrize("is_log", [False, True])
def test_opcheck_of_the_softmax(is_log):
    x = torch.randn(3, 4, 2).transpose(0, 1).requires_grad_()
    rest = (1, is_log, None, None)
    torch.library.opcheck(torch.ops.fastxent.softmax.default, (x, *rest))
    p = torch.rand(4, 3, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.fastxent.softmax_backward.default, (x, p, *rest))


# torch.func -------------------------------------------------------------------------------------


def one_by_one(function, *batches):
    return torch.stack([function(*one) for one in zip(*batches, strict=True)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)], ids=len)
def test_vmap_and_vmap_over_grad(shape, kind, reduction):
    double = {"dtype": torch.float64}
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    batch = torch.randn(3, *shape, **double)
    if kind == "labels":
        targets = torch.randint(4, (3, *rows))
        targets[1] = -100  # a mean over nothing is this sample's alone
        targets[2].view(-1)[0] = -100
    else:
        targets = torch.rand(3, *shape, **double)
    for weight in (None, torch.rand(4, **double)):

        def loss(x, y, function=cross_entropy, weight=weight):
            return function(x, y, weight, reduction=reduction, label_smoothing=0.1)

        def theirs(x, y, loss=loss):
            return loss(x, y, functional.cross_entropy)

        close = {"equal_nan": True}
        torch.testing.assert_close(
            vmap(loss)(batch, targets), one_by_one(theirs, batch, targets), **close
        )

        def total(x, y, loss=loss):
            return loss(x, y).sum()

        def their_total(x, y, theirs=theirs):
            return theirs(x, y).sum()

        expected = one_by_one(grad(their_total), batch, targets)
        torch.testing.assert_close(vmap(grad(total))(batch, targets), expected)
        outside = grad(lambda x: vmap(total)(x, targets).nan_to_num().sum())(batch)  # noqa: B023
        torch.testing.assert_close(outside, expected)


def test_vmap_over_weights_targets_and_the_second_axis():
    logits, target = torch.randn(6, 4), torch.randint(4, (6,))
    weights, rows = torch.rand(3, 4), torch.rand(6, 3)
    found = vmap(lambda w: cross_entropy(logits, target, w))(weights)
    expected = one_by_one(lambda w: functional.cross_entropy(logits, target, w), weights)
    torch.testing.assert_close(found, expected)
    found = vmap(lambda s: cross_entropy(logits, target, sample_weight=s), in_dims=1)(rows)
    expected = one_by_one(lambda s: cross_entropy(logits, target, sample_weight=s), rows.t())
    torch.testing.assert_close(found, expected)
    side = torch.randn(6, 3, 4)
    found = vmap(cross_entropy, in_dims=(1, None))(side, target)
    expected = one_by_one(lambda x: functional.cross_entropy(x, target), side.transpose(0, 1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_jacobians_and_hessians(kind, reduction):
    logits = torch.randn(3, 4, dtype=torch.float64)
    target = torch.randint(4, (3,)) if kind == "labels" else torch.rand(3, 4, dtype=torch.float64)

    def loss(x, function=cross_entropy):
        return function(x, target, reduction=reduction)

    def theirs(x):
        return loss(x, functional.cross_entropy)

    torch.testing.assert_close(jacrev(loss)(logits), jacrev(theirs)(logits))
    torch.testing.assert_close(jacfwd(loss)(logits), jacrev(theirs)(logits))
    expected = hessian(theirs)(logits)
    torch.testing.assert_close(hessian(loss)(logits), expected)
    torch.testing.assert_close(jacrev(jacrev(loss))(logits), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_transforms_of_the_binary_loss(reduction):
    double = {"dtype": torch.float64}
    batch, targets = torch.randn(5, 4, 3, **double), torch.rand(5, 4, 3, **double)
    for factors in ({}, {"weight": torch.rand(3, **double), "pos_weight": torch.rand(4, 1)}):

        def loss(x, y, function=binary_cross_entropy_with_logits, factors=factors):
            return function(x, y, reduction=reduction, **factors).sum()

        def theirs(x, y, loss=loss):
            return loss(x, y, functional.binary_cross_entropy_with_logits)

        for transform in (lambda f: f, grad, lambda f: grad(f, argnums=1)):
            expected = one_by_one(transform(theirs), batch, targets)
            torch.testing.assert_close(vmap(transform(loss))(batch, targets), expected)
        expected = hessian(theirs)(batch[0], targets[0])
        torch.testing.assert_close(hessian(loss)(batch[0], targets[0]), expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(softmax, functional.softmax), (log_softmax, functional.log_softmax)],
    ids=["softmax", "log_softmax"],
)
def test_transforms_of_the_softmax(ours, theirs):
    batch = torch.randn(3, 2, 4, dtype=torch.float64)
    for dim in (0, -1):

        def squares(x, function=ours, dim=dim):
            return function(x, dim).pow(2).sum()

        def their_squares(x, squares=squares):
            return squares(x, theirs)

        for transform in (lambda f: f, grad, hessian, lambda f: jacrev(jacrev(f))):
            expected = vmap(transform(their_squares))(batch)
            torch.testing.assert_close(vmap(transform(squares))(batch), expected)


# Compilation, export, fakes -----------------------------------------------------------------------


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


def test_another_device_is_a_clear_error():
    with FakeTensorMode():
        logits, target = torch.empty(6, 5, device="cuda"), torch.empty(6, 5, device="cuda")
        for function in (cross_entropy, binary_cross_entropy_with_logits):
            with pytest.raises(fastxent.BackendError, match=r"device 'cuda'.*input\.cpu\(\)"):
                function(logits, target)
        for function in (softmax, log_softmax):
            with pytest.raises(fastxent.BackendError, match="device 'cuda'"):
                function(logits, 1)
        with pytest.raises(fastxent.BackendError, match="target is on device 'cuda'"):
            cross_entropy(torch.empty(6, 5), target)


def test_eager_options_are_refused_where_a_call_is_transformed():
    logits, target = torch.randn(2, 6, 4), torch.randint(4, (2, 6))
    with pytest.raises(fastxent.OptionError, match="aux works on plain tensors only"):
        vmap(lambda x, y: cross_entropy(x, y, aux=("lse",)))(logits, target)
    with pytest.raises(fastxent.OptionError, match="in_place works on plain tensors only"):
        grad(lambda x: cross_entropy(x * 1, target[0], in_place=True))(logits[0])
