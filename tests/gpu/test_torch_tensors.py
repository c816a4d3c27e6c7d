"""fastxent.torch on tensors of a GPU, without one: CPU tensors lie in the memory of a stand-in.

Two stand-ins: one whose arithmetic is NumPy's, for every option, and the simulated GPU, on which
the kernels themselves run.
"""

import itertools
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent as fx  # noqa: E402
import fastxent.torch as fxt  # noqa: E402
from fastxent.backends import load  # noqa: E402
from fastxent.precision import narrow, widen  # noqa: E402
from gpu.host_device import NUMPY, HostDevice, each_seen, real, seen  # noqa: E402
from gpu.simulation.memory import MEMORY  # noqa: E402
from gpu.simulation.tensors import STREAM, Tensors  # noqa: E402

functional = torch.nn.functional
# forward mode loads decompositions that PyTorch still scripts
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DOUBLE = {"dtype": torch.float64}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _NoPlans(dict):
    """Whatever is looked for, there is no plan of it."""

    def get(self, key, default=None):
        return None


class Host(HostDevice):
    """With what a backward pass needs; every call is computed anew."""

    def __init__(self):
        super().__init__()
        self.plans = _NoPlans()

    def backward(self, problem, row_max, row_sum, grad):
        host = each_seen(problem)
        if problem.denominator_at is not None:
            below = seen(problem.denominator_at)[0]
            host.row_scale = host.row_scale / below if below else 0.0
        if problem.target is not None:
            bad = (host.target < 0) | (host.target >= problem.classes)
            host.target = np.where(bad & (host.target != problem.skip), 0, host.target)
            host.row_scale = np.broadcast_to(host.row_scale, problem.rows) * ~bad
        host.background_total = float(np.asarray(host.background_total).reshape(()))
        NUMPY.backward(host, seen(row_max), seen(row_sum), seen(grad))

    def scale(self, grad, kind, upstream, out):
        source = seen(grad).view(np.uint16) if grad.itemsize == 2 else seen(grad)
        wide = widen(source, kind)
        factors = real(upstream)
        if factors.size > 1:
            factors = factors.reshape(*grad.shape[:-1], 1)
        result = narrow((wide * factors).astype(wide.dtype), kind)
        seen(out)[...] = result.view(seen(out).dtype)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tensors(monkeypatch):
    known = Tensors(monkeypatch)
    yield known
    known.forget()


@pytest.fixture
def host(tensors, monkeypatch):
    """Take CPU tensors for those of a GPU whose arithmetic is NumPy's."""
    device, ordinary = Host(), load
    for module in ("fastxent.backends", "fastxent.torch.devices"):
        monkeypatch.setattr(
            sys.modules[module], "load", lambda name: device if name == "cuda" else ordinary(name)
        )
    return tensors.on_gpu


@pytest.fixture
def simulation(simulated, tensors):
    """Take CPU tensors for those of the simulated GPU."""
    simulated.seed = 1
    return tensors.on_gpu


def rows_of(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def results(loss, logits, target, upstream=1.0, hidden=False, **options):
    """Loss and gradients: of the logits, and of probabilities."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    inputs = [leaf]
    if target.is_floating_point():
        inputs.append(target.detach().clone().requires_grad_())
    value = loss(
        leaf * 1.0 if hidden else leaf, inputs[1] if len(inputs) == 2 else target, **options
    )
    value.backward(torch.as_tensor(upstream).to(value).expand(value.shape))
    return [value.detach(), *(one.grad for one in inputs)]


def close(found, expected):
    """Within the rounding of the dtype that was found, of entries as large as the largest."""
    for one, truth in zip(found, expected, strict=True):
        epsilon = max(torch.finfo(one.dtype).eps, 2.0**-45)
        scale = truth.abs().max().item() if truth.numel() else 0.0
        smallest = 6e-8 if one.dtype is torch.float16 else 0.0
        torch.testing.assert_close(
            one.double(), truth, rtol=4 * epsilon, atol=max(4 * epsilon * scale, smallest)
        )


# Every option -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "some ignored", "probabilities"])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 5, 4), (2, 5, 3, 2)], ids=len)
def test_as_pytorch(host, shape, kind):
    weights = (None, torch.tensor([0.5, 2.0, 0.0, 3.0, 0.75], **DOUBLE))
    product = itertools.product(weights, (0.0, 0.1), ("mean", "sum", "none"), ("fast", "low"))
    for weight, smoothing, reduction, memory in product:
        logits, rows = 4 * torch.randn(shape, **DOUBLE), rows_of(shape)
        target = torch.rand(shape, **DOUBLE)
        if kind != "probabilities":
            target = torch.randint(5, rows)
            target[(0,) * len(rows)] = 1  # a class that weighs something
            if kind == "some ignored" and rows:
                target[-1] = -100
        upstream = torch.rand(rows, **DOUBLE) if reduction == "none" else 1.7
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        expected = results(functional.cross_entropy, logits, target, upstream, **options)
        with host():
            found = results(fxt.cross_entropy, logits, target, upstream, memory=memory, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


MORE = {"z_loss": 1e-2, "softcap": 5.0, "logit_scale": 0.5, "label_smoothing": 0.1}
SIDES = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_options_that_pytorch_has_not(host, kind):
    logits = torch.randn(6, 5, 2, **DOUBLE)
    target = torch.randint(5, (6, 2)) if kind == "labels" else torch.rand(6, 5, 2, **DOUBLE)
    factors = {"weight": torch.rand(5, **DOUBLE), "sample_weight": torch.rand(6, 2)}
    aux = SIDES if kind == "labels" else (*SIDES, "target_grad")
    for extra, upstream in itertools.product(
        ({}, {"normalizer": 3}, {"normalizer": torch.tensor([3.0])}, {"reduction": "sum"}),
        (1.0, 2.5),
    ):
        pairs = []
        for context in (torch.enable_grad, host):
            inputs = [logits.clone().requires_grad_(), target]
            if kind == "probabilities":
                inputs[1] = target.clone().requires_grad_()
            with context():
                loss, sides = fxt.cross_entropy(*inputs, **factors, **MORE, **extra, aux=aux)
                loss.backward(torch.tensor(upstream, **DOUBLE))
            grads = [one.grad for one in inputs if one.requires_grad]
            pairs.append([loss, *grads, *(side for side in sides if side is not None)])
        torch.testing.assert_close(*pairs, rtol=1e-12, atol=1e-13)


def test_nothing_counted(host):
    logits, nothing = torch.randn(4, 5), torch.full((4,), -100)
    for options in ({"target": nothing}, {"target": nothing + 101, "normalizer": torch.zeros(())}):
        for all_ignored, memory in itertools.product(("nan", "zero"), ("fast", "low")):
            with host():
                loss, grad = results(
                    *(fxt.cross_entropy, logits),
                    all_ignored=all_ignored,
                    memory=memory,
                    **options,
                )
            assert loss.isnan() if all_ignored == "nan" else loss == 0
            assert not grad.any()
    empty = torch.randn(0, 5)
    with host():
        loss, grad = results(fxt.cross_entropy, empty, nothing[:0])
        assert loss.isnan()
        assert grad.shape == (0, 5)
        assert fxt.cross_entropy(empty, nothing[:0], reduction="none").shape == (0,)
        assert fxt.binary_cross_entropy_with_logits(empty, empty).isnan()
        assert fxt.softmax(empty, 1).shape == (0, 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_dtypes(host, dtype):
    logits = (4 * torch.randn(20, 30)).to(dtype)
    targets = torch.randint(30, (20,)), torch.rand(20, 30).to(dtype), torch.rand(20, 30).half()
    for target, memory in itertools.product(targets, ("fast", "low")):
        soft = target.is_floating_point()
        expected = results(
            *(functional.cross_entropy, logits.double()), target.double() if soft else target, 0.5
        )
        with host():
            found = results(fxt.cross_entropy, logits, target, 0.5, memory=memory)
        assert found[0].dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        assert [one.dtype for one in found[1:]] == [dtype, target.dtype][: len(found) - 1]
        if dtype is torch.float64 and soft:
            found[0], expected[0] = found[0].float(), expected[0]
        close(found, expected)
    for kind in (torch.uint8, torch.int8, torch.int32, torch.uint16):
        with host():
            same = fxt.cross_entropy(logits, targets[0].to(kind))
            assert torch.equal(same, fxt.cross_entropy(logits, targets[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts_are_read_where_they_lie(host, dtype):
    last = torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    layouts = (
        *(last, torch.randn(5, 7).t(), torch.randn(5, 5).t(), torch.randn(7, 12)[:, 1:11:2]),
        *(torch.randn(1, 5).expand(7, 5), torch.complex(last, last).conj().imag),
    )
    for given in layouts:
        logits = given if given.is_neg() else given.to(dtype)
        target = torch.randint(5, rows_of(tuple(logits.shape)))
        soft = torch.rand(logits.shape, dtype=torch.float64).to(logits.dtype)
        for other, memory in itertools.product((target, soft), ("fast", "low")):
            truth = other.double() if other is soft else other
            expected = results(functional.cross_entropy, logits.double(), truth, 2.0)
            with host():
                found = results(fxt.cross_entropy, logits, other, 2.0, memory=memory)
            close(found, expected)
            assert found[1].stride() == torch.empty_like(logits).stride()
        truth = torch.softmax(logits.double(), 1)
        with host():
            close([fxt.softmax(logits, 1)], [truth])
            loss = fxt.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        assert loss.stride() == torch.empty_like(logits).stride()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(), (6,), (4, 3), (2, 3, 5)], ids=len)
def test_binary_loss_as_pytorch(host, shape, reduction):
    ours, theirs = fxt.binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits
    logits, target = 4 * torch.randn(shape, **DOUBLE), torch.rand(shape, **DOUBLE)
    factors = (None, torch.rand(shape[-1:]), 3 * torch.rand(shape, **DOUBLE))
    for weight, pos_weight, memory in itertools.product(factors, factors, ("fast", "low")):
        options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
        expected = results(theirs, logits, target, 1.7, **options)
        with host():
            found = results(ours, logits, target, 1.7, memory=memory, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_as_pytorch(host, name, dtype):
    for shape in ((), (4,), (3, 4), (2, 3, 4), (0, 3), (3, 0)):
        x = (3 * torch.randn(shape)).to(dtype)
        upstream = torch.randn(shape).to(dtype)
        for dim in range(-1, max(len(shape), 1)):
            leaf, twin = x.clone().requires_grad_(), x.to(torch.float64, copy=True).requires_grad_()
            truth = getattr(functional, name)(twin, dim)
            truth.backward(upstream.double())
            with host():
                found = getattr(fxt, name)(leaf, dim)
                found.backward(upstream)
            assert found.dtype == leaf.grad.dtype == dtype
            epsilon = torch.finfo(dtype).eps
            # backward starts from the rounded result
            atol = max(8 * epsilon * float(x.numel() and truth.detach().abs().max()), 6e-8)
            torch.testing.assert_close(found.double(), truth, rtol=4 * epsilon, atol=atol)
            torch.testing.assert_close(leaf.grad.double(), twin.grad, rtol=4 * epsilon, atol=atol)


# Derivatives, memory, transforms ------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_first_and_second_derivatives(host, kind, reduction, memory):
    inputs = [(2 * torch.randn(2, 3, 2, **DOUBLE)).requires_grad_()]
    factors = {"weight": torch.rand(3, **DOUBLE), "sample_weight": torch.rand(2, 2, **DOUBLE)}
    target = torch.randint(3, (2, 2))
    if kind == "probabilities":
        target = torch.rand(2, 3, 2, **DOUBLE, requires_grad=True)
        inputs.append(target)

    def loss(logits, target=target):
        return fxt.cross_entropy(
            logits, target, reduction=reduction, memory=memory, **factors, **MORE
        )

    with host():
        assert torch.autograd.gradcheck(loss, inputs)
        assert torch.autograd.gradgradcheck(loss, inputs)


def test_the_gradient_is_handed_over_and_scaled_where_it_lies(host):
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    expected = results(functional.cross_entropy, logits.double(), labels)[1].float()
    for upstream in (1.0, 3.0):
        leaf = logits.clone().requires_grad_()
        with host():
            loss = fxt.cross_entropy(leaf, labels)
            held = loss.grad_fn.call.grad.data_ptr()
            for kept in (2.0, 1.0):
                (grad,) = torch.autograd.grad(loss, leaf, torch.tensor(kept), retain_graph=True)
                torch.testing.assert_close(grad, kept * expected)
                assert grad.data_ptr() != held
            loss.backward(torch.tensor(upstream))
        assert leaf.grad.data_ptr() == held
        torch.testing.assert_close(leaf.grad, upstream * expected)


@pytest.mark.parametrize("upstream", [1.0, 2.0])
def test_in_place(host, upstream):
    logits, labels = torch.randn(6, 5, **DOUBLE), torch.randint(5, (6,))
    for options in ({}, {"reduction": "sum", "label_smoothing": 0.1}, {"aux": ("lse",)}):
        plain = {name: value for name, value in options.items() if name != "aux"}
        expected = results(functional.cross_entropy, logits, labels, upstream, **plain)
        leaf = logits.clone().requires_grad_()
        with host():
            hidden = leaf * 1.0
            loss = fxt.cross_entropy(hidden, labels, in_place=True, **options)
            loss = loss[0] if "aux" in options else loss
            assert hidden._version > 0
            loss.backward(torch.tensor(upstream, **DOUBLE))
        torch.testing.assert_close([loss.detach(), leaf.grad], expected)
        torch.testing.assert_close(hidden.detach(), expected[1])
        with host(), pytest.raises(fx.OutputError, match="part of a larger"):
            fxt.cross_entropy((leaf * 1.0)[:, :4], labels.clamp(max=3), in_place=True)


def test_losses_may_be_written_to(host):
    leaf, labels = torch.randn(6, 5, 2, requires_grad=True), torch.randint(5, (6, 2))
    with host():
        for reduction in ("mean", "none"):
            loss = fxt.cross_entropy(leaf, labels, reduction=reduction)
            loss /= 4
            loss.sum().backward()
        loss = fxt.binary_cross_entropy_with_logits(leaf, torch.rand(6, 5, 2))
        loss *= 2


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_of_upstream_gradients(host, reduction):
    logits, labels = torch.randn(4, 5, **DOUBLE, requires_grad=True), torch.randint(5, (4,))

    def jacobian(loss, vectorize):
        return torch.autograd.functional.jacobian(
            lambda x: loss(x, labels, reduction=reduction), logits, vectorize=vectorize
        )

    expected = jacobian(functional.cross_entropy, False)
    with host():
        torch.testing.assert_close(jacobian(fxt.cross_entropy, True), expected)


def test_transforms_and_compilers(host):
    logits, labels = torch.randn(3, 6, 5, **DOUBLE), torch.randint(5, (3, 6))
    pairs = zip(logits, labels, strict=True)
    expected = torch.stack([results(functional.cross_entropy, *pair)[1] for pair in pairs])
    with host():
        found = torch.func.vmap(torch.func.grad(fxt.cross_entropy))(logits, labels)
        torch.testing.assert_close(found, expected)
        step = torch.compile(
            lambda x, y: fxt.cross_entropy(x * 1.0, y), fullgraph=True, backend="aot_eager"
        )
        leaf = logits[0].clone().requires_grad_()
        step(leaf, labels[0]).backward()
    torch._dynamo.reset()
    torch.testing.assert_close(leaf.grad, expected[0])


# What is not looked at, and what is refused -------------------------------------------------------


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_bad_labels_give_nan_and_no_gradient(host, memory):
    logits, labels = torch.randn(5, 4), torch.tensor([0, 4, -1, -100, 3])
    good = torch.tensor([0, 1, 2, -100, 3])
    expected = results(functional.cross_entropy, logits, good, reduction="none")
    with host():
        loss, grad = results(fxt.cross_entropy, logits, labels, reduction="none", memory=memory)
        assert fxt.cross_entropy(logits, labels).isnan()
    assert loss.isnan().tolist() == [False, True, True, False, False]
    assert not grad[1:4].any()
    torch.testing.assert_close(loss[~loss.isnan()], expected[0][~loss.isnan()])
    torch.testing.assert_close(grad[[0, 4]], expected[1][[0, 4]])


def test_refusals(host):
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    wrong = (
        ({"backend": "cython"}, fx.BackendError, "computes on the host"),
        ({"weight": torch.ones(4)}, fx.ShapeError, r"weight needs shape \(5,\)"),
        ({"normalizer": torch.tensor(2.0), "reduction": "sum"}, fx.OptionError, "needs reduction="),
        ({"label_smoothing": 2.0}, fx.OptionError, "label_smoothing must lie"),
        ({"aux": ("nope",)}, fx.OptionError, r"aux\[0\] must be one of"),
    )
    with host():
        for options, error, message in wrong:
            with pytest.raises(error, match=message):
                fxt.cross_entropy(logits, labels, **options)
        with pytest.raises(fx.DTypeError, match="int64"):
            fxt.cross_entropy(labels.reshape(3, 2), labels[:3])
        with pytest.raises(fx.DTypeError, match="float8_e4m3fn"):
            fxt.cross_entropy(logits.to(torch.float8_e4m3fn), labels)
        with pytest.raises(fx.DTypeError, match="layout"):
            fxt.softmax(logits.to_sparse(), 1)


def test_patched_calls_follow(host):
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    expected = results(functional.cross_entropy, logits, labels)
    with host(), fxt.patched():
        found = results(functional.cross_entropy, logits, labels)
    torch.testing.assert_close(found, expected)


# The kernels themselves, simulated ----------------------------------------------------------------


@pytest.mark.parametrize("way", ["fast", "low", "in place"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_simulated_loss(simulation, simulated, dtype, way):
    how = {"fast": {}, "low": {"memory": "low"}, "in place": {"in_place": True}}[way]
    if way == "in place" and dtype is torch.float16:
        how = {}
    logits, labels = (4 * torch.randn(5, 37)).to(dtype), torch.tensor([0, 36, -100, 5, 7])
    for options in ({}, {"weight": torch.rand(37), "label_smoothing": 0.1, "reduction": "sum"}):
        double = {name: one.double() if name == "weight" else one for name, one in options.items()}
        expected = results(functional.cross_entropy, logits.double(), labels, 0.5, **double)
        with simulation():
            found = results(fxt.cross_entropy, logits, labels, 0.5, True, **how, **options)
        close(found, expected)
    assert {launch.stream for launch in simulated.launches} == {STREAM}


def test_simulated_upstream_one_moves_nothing(simulation, simulated):
    logits, labels = torch.randn(8, 33), torch.randint(33, (8,))
    for upstream, moves in ((1.0, False), (2.0, True)):
        with simulation():
            results(fxt.cross_entropy, logits, labels, upstream)
        scaling = [one for one in simulated.launches if one.spec.module == "scaling"][-1]
        assert (scaling.written > 0) == moves
        assert (scaling.read <= 4 * scaling.grid * scaling.spec.threads) or moves


def test_simulated_probabilities_and_side_outputs(simulation):
    logits, target = torch.randn(4, 9, 3), torch.rand(4, 9, 3)
    expected = results(functional.cross_entropy, logits.double(), target.double(), 2.0)
    for memory in ("fast", "low"):
        with simulation():
            found = results(fxt.cross_entropy, logits, target, 2.0, memory=memory)
        close(found, expected)
    _, sides = fxt.cross_entropy(logits, target, aux=(*SIDES, "target_grad"), **MORE)
    with simulation():
        _, found = fxt.cross_entropy(logits, target, aux=(*SIDES, "target_grad"), **MORE)
    torch.testing.assert_close(found, sides, rtol=1e-5, atol=1e-6)


def test_simulated_binary_loss_and_softmax(simulation):
    logits, target = torch.randn(5, 7), torch.rand(5, 7)
    ours, theirs = fxt.binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits
    factors = {"weight": torch.rand(7), "pos_weight": torch.rand(5, 1)}
    double = {name: one.double() for name, one in factors.items()}
    for memory in ("fast", "low"):
        expected = results(theirs, logits.double(), target.double(), 0.5, **double)
        with simulation():
            found = results(ours, logits, target, 0.5, memory=memory, **factors)
        close(found, expected)
    for name in ("softmax", "log_softmax"):
        leaf, twin = logits.clone().requires_grad_(), logits.double().requires_grad_()
        truth = getattr(functional, name)(twin, 1)
        truth.backward(target.double())
        with simulation():
            found = getattr(fxt, name)(leaf, 1)
            found.backward(target)
        close([found.detach(), leaf.grad], [truth.detach(), twin.grad])


def test_simulated_capture_needs_nothing_of_the_host(simulation, simulated):
    """While a stream is captured the driver refuses to copy; a second step copies nothing."""
    logits, labels = torch.randn(5, 37), torch.randint(37, (5,))
    weight, rows = torch.rand(37), torch.rand(5)
    options = {"weight": weight, "sample_weight": rows, "label_smoothing": 0.1}

    def step():
        for how in ({}, {"memory": "low"}, {"in_place": True}, {"reduction": "none"}):
            results(fxt.cross_entropy, logits, labels, 2.0, True, **how, **options)
        results(fxt.binary_cross_entropy_with_logits, logits, logits.sigmoid(), 2.0)

    with simulation():
        step()
        before = len(MEMORY.live)
        simulated.capturing = True
        allocated = simulated.allocate

        def refuse(*_):
            raise AssertionError("memory of the backend's own in a graph")

        simulated.allocate = simulated.upload = simulated.download = refuse
        step()
        simulated.allocate, simulated.capturing = allocated, False
    assert len(MEMORY.live) >= before
