"""The operators behind fastxent.torch: what traces, transforms or fakes a call."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.func import grad, hessian, jacfwd, jacrev, vmap  # noqa: E402

from fastxent.torch import (  # noqa: E402
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
        outside = grad(lambda x: vmap(total)(x, targets).nan_to_num().sum())(batch)
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
