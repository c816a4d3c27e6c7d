"""fastxent.torch on a real card: values, derivatives, compilers, streams, graphs, no waiting."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent as fx  # noqa: E402
import fastxent.torch as fxt  # noqa: E402

functional = torch.nn.functional
REASON = fx.backends().get("cuda", "there is no such backend")
if not torch.cuda.is_available():
    REASON = "this PyTorch sees no card"
if REASON is not None:
    pytest.skip(f"no card: {REASON}", allow_module_level=True)
pytestmark = [
    # of PyTorch's tracers, which look at what they trace
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DOUBLE = {"dtype": torch.float64, "device": "cuda"}
PAIRS = [(fxt.softmax, functional.softmax), (fxt.log_softmax, functional.log_softmax)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def no_waiting():
    """Anything of PyTorch's that waits for the card is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def results(loss, logits, target, upstream=1.0, **options):
    """Loss and gradients: of the logits, and of probabilities."""
    inputs = [logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()]
    if target.is_floating_point():
        inputs.append(target.detach().clone().requires_grad_())
    value = loss(inputs[0], inputs[1] if len(inputs) == 2 else target, **options)
    value.backward(torch.as_tensor(upstream).to(value).expand(value.shape))
    return [value.detach(), *(one.grad for one in inputs)]


def drawn(rows=37, classes=1000, dtype=torch.float32):
    logits = (4 * torch.randn(rows, classes, device="cuda")).to(dtype)
    return logits, torch.randint(classes, (rows,), device="cuda")


def close(found, expected):
    """Within the rounding of the dtype that was found, of entries as large as the largest."""
    for one, truth in zip(found, expected, strict=True):
        epsilon = max(torch.finfo(one.dtype).eps, 2.0**-44)
        scale = truth.abs().max().item() if truth.numel() else 0.0
        smallest = 6e-8 if one.dtype is torch.float16 else 0.0
        torch.testing.assert_close(
            one.double(), truth, rtol=8 * epsilon, atol=max(8 * epsilon * scale, smallest)
        )


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 5, 4), (2, 5, 3, 2)], ids=len)
def test_as_pytorch_in_float64(shape, kind):
    weights = (None, torch.tensor([0.5, 2.0, 0.0, 3.0, 0.75], **DOUBLE))
    product = itertools.product(weights, (0.0, 0.1), ("mean", "sum", "none"), ("fast", "low"))
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    for weight, smoothing, reduction, memory in product:
        logits = 4 * torch.randn(shape, **DOUBLE)
        target = torch.rand(shape, **DOUBLE)
        if kind == "labels":
            target = torch.randint(5, rows, device="cuda")
            target[(0,) * len(rows)] = 1  # a class that weighs something
            if len(rows) > 1:
                target[-1] = -100
        upstream = torch.rand(rows, **DOUBLE) if reduction == "none" else 1.7
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        expected = results(functional.cross_entropy, logits, target, upstream, **options)
        found = results(fxt.cross_entropy, logits, target, upstream, memory=memory, **options)
        assert all(one.device == logits.device for one in found)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("classes", [3, 10, 33, 1000, 1001, 50257, 128256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_pytorch_in_all_dtypes(dtype, classes):
    logits, labels = drawn(17, classes, dtype)
    for target, memory in itertools.product((labels, torch.rand_like(logits)), ("fast", "low")):
        soft = target.is_floating_point()
        expected = results(
            *(functional.cross_entropy, logits.double()), target.double() if soft else target, 0.5
        )
        found = results(fxt.cross_entropy, logits, target, 0.5, memory=memory)
        assert found[1].dtype == dtype
        # a sum over so many probabilities: the loss is as large as its largest terms
        close(found, expected)


def test_options_as_on_the_cpu():
    options = {
        **{"z_loss": 1e-2, "softcap": 5.0, "logit_scale": 0.5, "label_smoothing": 0.1},
        "aux": ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss"),
    }
    logits, labels = drawn(40, 300, torch.float64)
    labels[3] = -100
    factors = {"weight": torch.rand(300, **DOUBLE), "sample_weight": torch.rand(40, **DOUBLE)}
    for given in ({}, {"normalizer": 3.0}, {"normalizer": torch.tensor(3.0, device="cuda")}):
        leaf, twin = logits.clone().requires_grad_(), logits.cpu().requires_grad_()
        loss, aux = fxt.cross_entropy(leaf, labels, **options, **factors, **given)
        on_cpu = {name: one.cpu() for name, one in factors.items()}
        on_cpu |= {name: float(one) for name, one in given.items()}
        expected, sides = fxt.cross_entropy(twin, labels.cpu(), **options, **on_cpu)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss.cpu(), expected)
        torch.testing.assert_close(leaf.grad.cpu(), twin.grad)
        for one, side in zip(aux[:-1], sides[:-1], strict=True):
            torch.testing.assert_close(one.cpu(), side)


def test_in_place_and_low_memory_have_the_same_bits():
    for classes in (10, 1000, 50257):
        logits, labels = drawn(65, classes)
        (expected,) = results(fxt.cross_entropy, logits, labels)[1:]
        assert torch.equal(results(fxt.cross_entropy, logits, labels, memory="low")[1], expected)
        leaf = logits.clone().requires_grad_()
        hidden = leaf * 1.0
        fxt.cross_entropy(hidden, labels, in_place=True).backward()
        assert torch.equal(leaf.grad, expected)
        assert torch.equal(hidden.detach(), expected)


@pytest.mark.parametrize("classes", [10, 1000, 50257])
def test_bad_labels_give_nan_and_no_gradient(classes):
    logits, labels = drawn(12, classes)
    labels[3], labels[7] = classes, -1
    leaf = logits.requires_grad_()
    loss = fxt.cross_entropy(leaf, labels, reduction="none")
    loss.sum().backward()
    bad = torch.zeros(12, dtype=torch.bool, device="cuda")
    bad[3] = bad[7] = True
    assert torch.equal(loss.isnan(), bad)
    assert not leaf.grad[bad].any()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_binary_loss_as_pytorch(dtype, reduction):
    logits, target = (4 * torch.randn(50, 7, device="cuda")).to(dtype), torch.rand(50, 7).cuda()
    factors = {"weight": torch.rand(7).cuda(), "pos_weight": 3 * torch.rand(50, 1).cuda()}
    for given, memory in itertools.product(({}, factors), ("fast", "low")):
        options = {"reduction": reduction}
        truth = {name: one.double() for name, one in given.items()}
        expected = results(
            *(functional.binary_cross_entropy_with_logits, logits.double()),
            *(target.double(), 0.5),
            **options,
            **truth,
        )
        found = results(
            *(fxt.binary_cross_entropy_with_logits, logits, target, 0.5),
            memory=memory,
            **options,
            **given,
        )
        close(found, expected)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_as_pytorch(dtype, ours, theirs):
    for shape in ((), (4,), (37, 1001), (5, 30, 7), (3, 40000), (0, 3), (3, 0)):
        x = (3 * torch.randn(shape, device="cuda")).to(dtype)
        for dim in range(-1, max(len(shape), 1)):
            pairs = []
            for function, one in ((ours, x.clone()), (theirs, x.double())):
                leaf = one.requires_grad_()
                value = function(leaf, dim)
                value.backward(torch.linspace(-1, 1, x.numel()).reshape(shape).to(value))
                pairs.append((value.detach(), leaf.grad))
            close(*pairs)


def test_layouts_are_read_where_they_lie():
    last = torch.randn(2, 5, 3, 4, device="cuda").contiguous(memory_format=torch.channels_last)
    layouts = {
        "channels_last": last,
        "transposed": torch.randn(5, 7, device="cuda").t(),
        "square and transposed": torch.randn(5, 5, device="cuda").t(),
        "sliced": torch.randn(7, 12, device="cuda")[:, 1:11:2],
        "expanded": torch.randn(1, 5, device="cuda").expand(7, 5),
    }
    for logits, dtype in itertools.product(layouts.values(), (torch.float32, torch.bfloat16)):
        target = torch.randint(5, logits.shape[:1] + logits.shape[2:], device="cuda")
        leaf = logits.to(dtype)
        expected = results(functional.cross_entropy, leaf.double().contiguous(), target)
        found = results(fxt.cross_entropy, leaf, target)
        close(found, expected)
        assert found[1].stride() == torch.empty_like(leaf).stride()


# Derivatives and operators ------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_first_and_second_derivatives(kind, reduction, memory):
    inputs = [(2 * torch.randn(3, 4, 2, **DOUBLE)).requires_grad_()]
    options = {"z_loss": 0.01, "softcap": 4.0, "logit_scale": 0.7, "label_smoothing": 0.1}
    factors = {"weight": torch.rand(4, **DOUBLE), "sample_weight": torch.rand(3, 2, **DOUBLE)}
    target = torch.randint(4, (3, 2), device="cuda")
    if kind == "probabilities":
        target = torch.rand(3, 4, 2, **DOUBLE, requires_grad=True)
        inputs.append(target)

    def loss(logits, target=target):
        return fxt.cross_entropy(
            logits, target, reduction=reduction, memory=memory, **factors, **options
        )

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_derivatives_of_the_binary_loss_and_the_softmax():
    x, y = (torch.randn(3, 4, **DOUBLE, requires_grad=True) for _ in range(2))
    weight = torch.rand(4, **DOUBLE)

    def loss(x, y):
        return fxt.binary_cross_entropy_with_logits(x, y.sigmoid(), weight)

    for function, inputs in (
        (loss, (x, y)),
        (lambda x: fxt.softmax(x, 0), (x,)),
        (lambda x: fxt.log_softmax(x, 1), (x,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_upstream_one_is_neither_scaled_nor_copied_and_graphs_can_be_kept():
    logits, labels = drawn()
    leaf = logits.requires_grad_()
    loss = fxt.cross_entropy(leaf, labels)
    held = loss.grad_fn.call.grad.data_ptr()
    for factor in (1.0, 2.0):
        (grad,) = torch.autograd.grad(
            loss, leaf, torch.tensor(factor, device="cuda"), retain_graph=True
        )
        expected = results(fxt.cross_entropy, logits, labels, factor)[1]
        assert torch.equal(grad, expected)
    loss.backward()
    assert leaf.grad.data_ptr() == held


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_of_upstream_gradients(reduction):
    logits, labels = drawn(4, 5, torch.float64)
    leaf = logits.requires_grad_()

    def jacobian(loss, vectorize):
        return torch.autograd.functional.jacobian(
            lambda x: loss(x, labels, reduction=reduction), leaf, vectorize=vectorize
        )

    torch.testing.assert_close(
        jacobian(fxt.cross_entropy, True), jacobian(functional.cross_entropy, False)
    )


def test_transforms():
    logits, labels = torch.randn(3, 6, 5, **DOUBLE), torch.randint(5, (3, 6), device="cuda")
    found = torch.func.vmap(torch.func.grad(fxt.cross_entropy))(logits, labels)
    expected = torch.stack(
        [results(functional.cross_entropy, *one)[1] for one in zip(logits, labels, strict=True)]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wants", [False, True])
def test_operators_are_what_they_say(wants):
    operators = torch.ops.fastxent
    logits, labels = drawn(5, 7)
    settings = {
        **{"ignore_index": -100, "label_smoothing": 0.1, "reduction": "mean", "normalizer": None},
        **{"z_loss": 0.1, "softcap": None, "logit_scale": 1.0, "all_ignored": "nan"},
        **{"backend": None, "num_threads": None},
    }
    leaf = logits.clone().requires_grad_()
    calls = [
        (
            *(operators.cross_entropy.default, (leaf, labels, None, None, None)),
            {"wants_grad": wants, "wants_target_grad": False, **settings},
        ),
        (
            operators.binary_cross_entropy_with_logits.default,
            (leaf, torch.rand_like(logits), None, None, None),
            {
                **{"wants_grad": wants, "reduction": "none", "label_smoothing": 0.1},
                **{"backend": None, "num_threads": None},
            },
        ),
        (operators.softmax.default, (leaf, 1, wants, None, None), {}),
    ]
    for operator, arguments, options in calls:
        torch.library.opcheck(operator, arguments, options)


def test_compiled_whole_with_dynamic_shapes():
    def function(logits, target):
        loss = fxt.cross_entropy(logits * 2, target, label_smoothing=0.1)
        return loss + fxt.softmax(logits, 1).max()

    torch._dynamo.reset()
    for mode in ("default", "reduce-overhead"):
        compiled = torch.compile(function, fullgraph=True, dynamic=mode == "default", mode=mode)
        for rows in (7, 9):
            logits, target = drawn(rows, 33)
            leaf = logits.requires_grad_()
            for _ in range(3):  # warmed up, recorded, replayed
                (found,) = torch.autograd.grad(compiled(leaf, target), leaf)
            (expected,) = torch.autograd.grad(function(leaf, target), leaf)
            torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


def test_exported():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.loss = fxt.CrossEntropyLoss(label_smoothing=0.1)

        def forward(self, x, target):
            return self.loss(self.linear(x), target)

    model = Model().cuda()
    given = torch.randn(5, 4, device="cuda"), torch.randint(3, (5,), device="cuda")
    exported = torch.export.export(model, given).module()
    torch.testing.assert_close(exported(*given), model(*given))


# Streams, graphs, no waiting ----------------------------------------------------------------------


def step_of(**options):
    """A whole step on whatever memory it is given."""

    def step(logits, target):
        leaf = logits.detach().requires_grad_()
        loss = fxt.cross_entropy(leaf * 1.0, target, **options)
        (2.0 * loss.sum()).backward()
        return loss.detach(), leaf.grad

    return step


STEPS = {
    "fast": step_of(),
    "low": step_of(memory="low"),
    "in place": step_of(in_place=True),
    "none": step_of(reduction="none", label_smoothing=0.1),
    "all": step_of(z_loss=1e-3, softcap=20.0, aux=()),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.usefixtures("no_waiting")
def test_nothing_waits_for_the_card(name):
    logits = torch.randn(64, 1000, device="cuda")
    target = torch.zeros(64, dtype=torch.int64, device="cuda")
    STEPS[name](logits, target)


@pytest.mark.usefixtures("no_waiting")
def test_nothing_waits_with_factors_and_the_other_functions():
    logits = torch.randn(64, 1000, device="cuda", requires_grad=True)
    target = torch.zeros(64, dtype=torch.int64, device="cuda")
    weight, rows = torch.rand(1000, device="cuda"), torch.rand(64, device="cuda")
    count = rows.sum()
    loss, aux = fxt.cross_entropy(
        logits, target, weight, sample_weight=rows, normalizer=count, aux=("lse", "correct")
    )
    assert aux.correct.shape == (64,)
    (3 * loss + fxt.cross_entropy(logits, target, weight, sample_weight=rows)).backward()
    fxt.binary_cross_entropy_with_logits(logits, logits.detach().sigmoid(), weight).backward()
    fxt.softmax(logits, 1).square().sum().backward()
    with fxt.patched():
        functional.cross_entropy(logits, target, weight).backward()


@pytest.mark.parametrize("name", STEPS)
def test_the_current_stream_is_used(name):
    logits, target = drawn(4096, 10000)
    expected = STEPS[name](logits, target)
    side, source = torch.cuda.Stream(), torch.zeros_like(logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        source.copy_(logits)
        found = STEPS[name](source, target)
    side.synchronize()
    for one, truth in zip(found, expected, strict=True):
        assert torch.equal(one, truth)


@pytest.mark.parametrize("name", STEPS)
def test_a_graph_captures_a_step(name):
    step = STEPS[name]
    logits, target = drawn(128, 1000)
    static = logits.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch wants it: autograd has run on this stream before
        step(static, target)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(static, target)
    for factor in (1.0, 0.25):
        static.copy_(factor * logits)
        graph.replay()
        for one, truth in zip(found, step(factor * logits, target), strict=True):
            assert torch.equal(one, truth)


# What is around it --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_patched_lenet_learns_alike(dtype):
    def curve():
        torch.manual_seed(0)
        given = {"dtype": dtype, "device": "cuda"}
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 5, padding=2, **given),
            torch.nn.Tanh(),
            torch.nn.AvgPool2d(2),
            torch.nn.Conv2d(6, 16, 5, padding=2, **given),
            torch.nn.Tanh(),
            torch.nn.AvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 84, **given),
            torch.nn.Tanh(),
            torch.nn.Linear(84, 10, **given),
        )
        images = torch.randn(64, 1, 8, 8, **given)
        labels = torch.randint(10, (64,), device="cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        criterion, losses = torch.nn.CrossEntropyLoss(), []
        for _ in range(20):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    expected = curve()
    with fxt.patched(), torch.profiler.profile() as profile:
        found = curve()
    assert "nll_loss" not in " ".join(event.key for event in profile.key_averages())
    tolerance = 1e-10 if dtype is torch.float64 else 1e-3  # rounding of a step, grown over 20
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_gives_the_dtypes_of_pytorch(dtype):
    logits, labels = drawn(4, 5, dtype)
    pairs = (
        (fxt.cross_entropy, functional.cross_entropy, labels),
        (
            *(
                fxt.binary_cross_entropy_with_logits,
                functional.binary_cross_entropy_with_logits,
            ),
            torch.rand_like(logits),
        ),
        (fxt.softmax, functional.softmax, 1),
        (fxt.log_softmax, functional.log_softmax, 1),
    )
    for ours, theirs, other in pairs:
        grads, values = [], []
        for function in (ours, theirs):
            leaf = logits.clone().requires_grad_()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                values.append(function(leaf, other))
            values[-1].sum().backward()
            grads.append(leaf.grad)
        assert values[0].dtype == values[1].dtype
        assert grads[0].dtype == grads[1].dtype
        torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_patched_gives_the_dtypes_of_pytorch(dtype):
    logits, labels = drawn(6, 5, dtype)
    for enabled in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
            expected = functional.cross_entropy(logits, labels)
            with fxt.patched():
                found = functional.cross_entropy(logits, labels)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)


def test_tensors_of_two_devices_are_an_error():
    logits, labels = drawn(4, 5)
    for given in (
        {"target": labels.cpu()},
        {"target": labels, "weight": torch.rand(5)},
        {"target": labels, "sample_weight": torch.rand(4)},
    ):
        with pytest.raises(fx.BackendError, match=r"'cuda:0' and .* on 'cpu'"):
            fxt.cross_entropy(logits, **given)
    with pytest.raises(fx.BackendError, match="'cpu' and target on 'cuda:0'"):
        fxt.cross_entropy(logits.cpu(), labels)
    with pytest.raises(fx.BackendError, match="pos_weight on 'cpu'"):
        fxt.binary_cross_entropy_with_logits(logits, logits, pos_weight=torch.rand(5))
    with pytest.raises(fx.BackendError, match="cython"):
        fxt.cross_entropy(logits, labels, backend="cython")


def test_the_other_cards():
    if torch.cuda.device_count() < 2:
        pytest.skip("one card only")
    logits, labels = drawn()
    expected = results(fxt.cross_entropy, logits, labels)
    found = results(fxt.cross_entropy, logits.to("cuda:1"), labels.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for one, truth in zip(found, expected, strict=True):
        assert one.device == torch.device("cuda:1")
        assert torch.equal(one.to("cuda:0"), truth)
