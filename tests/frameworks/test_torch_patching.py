"""`patched()`: PyTorch's own function for code that knows nothing of fastxent."""

import threading
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
import fastxent.torch  # noqa: E402
from fastxent.torch import patch, patched, unpatch  # noqa: E402

functional = torch.nn.functional
ORIGINAL = functional.cross_entropy
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_stays_patched():
    torch.manual_seed(0)
    yield
    assert functional.cross_entropy is ORIGINAL


@pytest.fixture
def ours(monkeypatch):
    """Count of the calls that fastxent computed."""
    calls = []
    whole = fastxent.torch.patching.cross_entropy

    def counted(*args, **kwargs):
        loss = whole(*args, **kwargs)
        calls.append(loss)
        return loss

    monkeypatch.setattr(fastxent.torch.patching, "cross_entropy", counted)
    return calls


class LeNet5(torch.nn.Module):
    """LeNet-5 with padding, for images of 8 x 8."""

    def __init__(self, dtype):
        super().__init__()
        given = {"dtype": dtype}
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 5, padding=2, **given),
            torch.nn.Tanh(),
            torch.nn.AvgPool2d(2),
            torch.nn.Conv2d(6, 16, 5, padding=2, **given),
            torch.nn.Tanh(),
            torch.nn.AvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 120, **given),
            torch.nn.Tanh(),
            torch.nn.Linear(120, 84, **given),
            torch.nn.Tanh(),
            torch.nn.Linear(84, 10, **given),
        )

    def forward(self, images):
        return self.layers(images)


@pytest.fixture
def one_thread_of_torch():
    """The images are small: more threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def curve(dtype):
    """Losses of the steps of training on the digits; existing code, to the letter."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    digits = datasets.load_digits()
    images = (torch.tensor(digits.images[:512] / 16, dtype=dtype).unsqueeze(1) - 0.3) / 0.37
    labels = torch.tensor(digits.target[:512])
    torch.manual_seed(0)
    model, criterion = LeNet5(dtype), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(5):
        for batch in torch.randperm(512).split(32):
            optimizer.zero_grad()
            loss = criterion(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # rounding of one step, grown over 80 steps: 2e-15 and 7e-7 were measured
    [(torch.float64, 1e-12), (torch.float32, 2e-5)],
    ids=["float64", "float32"],
)
@pytest.mark.usefixtures("one_thread_of_torch")
def test_lenet_has_the_same_curve(dtype, tolerance, ours):
    expected = curve(dtype)
    assert ours == []
    with patched():
        found = curve(dtype)
    assert len(ours) == len(found)
    assert found[-8:].mean() < 0.2 * found[:8].mean()  # it learns
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_same_dtypes_and_values(dtype, ours):
    logits = torch.randn(6, 5).to(dtype)
    targets = torch.tensor([0, 1, 2, 3, -100, 4]), torch.rand(6, 5).to(dtype)
    count = 0
    for target in targets:
        for autocast in (False, True):
            pairs = []
            for context in (torch.enable_grad, patched):
                leaf = logits.clone().requires_grad_()
                with context(), torch.autocast("cpu", enabled=autocast):
                    loss = functional.cross_entropy(leaf, target, label_smoothing=0.1)
                loss.backward()
                pairs.append((loss.detach(), leaf.grad))
            count += 1
            assert len(ours) == count
            # in half precision an epsilon of PyTorch's intermediates is in its gradient, below 0.25
            epsilon = torch.finfo(dtype).eps
            atol = epsilon / 4 if dtype.itemsize == 2 else 4 * epsilon
            torch.testing.assert_close(*pairs, rtol=4 * epsilon, atol=atol)


class Counted(torch.Tensor):
    """A subclass that sees which function it is given to."""

    seen: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def left_alone():
    logits, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    return {
        "meta": (torch.empty(3, 5, device="meta"), torch.empty(3, 5, device="meta"), {}),
        "subclass": (logits.as_subclass(Counted), labels, {}),
        "negative smoothing": (logits, labels, {"label_smoothing": -0.5}),
        "negative weight": (logits, labels, {"weight": torch.tensor([1.0, -1, 1, 1, 1])}),
        "weight with a gradient": (
            logits,
            torch.rand(3, 5),
            {"weight": torch.rand(5, requires_grad=True)},
        ),
        "probabilities of another dtype": (logits, torch.rand(3, 5).double(), {}),
        "no classes": (torch.empty(3, 0), torch.empty(3, 0), {"reduction": "sum"}),
    }


@pytest.mark.parametrize("name", left_alone())
def test_what_fastxent_does_not_compute_alike_is_left_alone(name, ours):
    logits, target, options = left_alone()[name]
    expected = functional.cross_entropy(logits, target, **options)
    Counted.seen.clear()
    with patched():
        found = functional.cross_entropy(logits, target, **options)
    assert ours == []
    if name == "meta":
        assert found.device.type == "meta"
        return
    torch.testing.assert_close(found, expected)
    if name == "subclass":
        assert isinstance(found, Counted)
        assert Counted.seen[0] is ORIGINAL


@pytest.mark.parametrize(
    ("logits", "target", "options"),
    [
        (torch.randn(3, 5), torch.tensor([0, 1, 5]), {}),
        (torch.randn(3, 5, 2), torch.full((3, 2), -1), {}),
        (torch.randn(3, 5), torch.tensor([0, 1]), {}),
        (torch.randn(3, 5), torch.tensor([0, 1, 2], dtype=torch.int32), {}),
        (torch.randn(3, 5), torch.zeros(3, 5, dtype=torch.int64), {}),
        (torch.randn(3, 5), torch.rand(3, 5), {"ignore_index": 1}),
        (torch.randn(3, 5), torch.tensor([0, 1, 2]), {"label_smoothing": 1.5}),
        (torch.randn(3, 5), torch.tensor([0, 1, 2]), {"reduction": "mode"}),
        (torch.randn(3, 5), torch.tensor([0, 1, 2]), {"weight": torch.rand(4)}),
        (torch.randn(3, 5), torch.tensor([0, 1, 2]), {"weight": torch.rand(5).double()}),
        (torch.randint(5, (3, 5)), torch.tensor([0, 1, 2]), {}),
    ],
)
def test_errors_are_those_of_pytorch(logits, target, options):
    with pytest.raises(Exception, match=r".") as expected:
        functional.cross_entropy(logits, target, **options)
    with patched(), pytest.raises(type(expected.value)) as found:
        functional.cross_entropy(logits, target, **options)
    assert type(found.value) is type(expected.value)
    assert str(found.value) == str(expected.value)


def test_bad_labels_are_an_index_error():
    with patched(), pytest.raises(IndexError, match="Target 5 is out of bounds"):
        functional.cross_entropy(torch.randn(3, 5), torch.tensor([0, 1, 5]))


def test_nested_patches_and_one_unpatch_too_many():
    patch()
    inner = functional.cross_entropy
    with patched():
        patch()
        assert functional.cross_entropy is inner
        unpatch()
    assert functional.cross_entropy is inner
    unpatch()
    assert functional.cross_entropy is ORIGINAL
    with pytest.raises(fastxent.CallOrderError, match="without a patch"):
        unpatch()


def test_a_patch_of_somebody_else_on_top_stays(ours):
    logits, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
    patch()
    below = functional.cross_entropy

    def theirs(*args, **kwargs):
        return 2 * below(*args, **kwargs)

    functional.cross_entropy = theirs
    try:
        unpatch()
        assert functional.cross_entropy is theirs
        torch.testing.assert_close(theirs(logits, target), 2 * ORIGINAL(logits, target))
        assert ours == []
        with patched():  # on top of theirs, which is never called then
            torch.testing.assert_close(
                functional.cross_entropy(logits, target), ORIGINAL(logits, target)
            )
        assert functional.cross_entropy is theirs
    finally:
        functional.cross_entropy = ORIGINAL


def test_threads_share_the_patch():
    logits, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
    errors = []

    def work():
        try:
            for _ in range(50):
                with patched():
                    assert functional.cross_entropy is not ORIGINAL
                    functional.cross_entropy(logits, target)
        except BaseException as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_the_replacement_looks_like_the_original():
    with patched():
        assert functional.cross_entropy.__doc__ == ORIGINAL.__doc__
        assert functional.cross_entropy.__wrapped__ is ORIGINAL
        scripted = torch.jit.script(torch.nn.CrossEntropyLoss(label_smoothing=0.1))
        logits, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
        found = scripted(logits, target)
    torch.testing.assert_close(found, ORIGINAL(logits, target, label_smoothing=0.1))


def test_compiled_code_is_rerouted():
    torch._dynamo.reset()
    with patched():
        step = torch.compile(
            lambda x, y: torch.nn.CrossEntropyLoss()(x * 1.0, y), backend="aot_eager"
        )
        logits, target = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 1, 2])
        with torch.profiler.profile() as profile:
            step(logits, target).backward()
    torch._dynamo.reset()
    assert "fastxent::cross_entropy" in {event.key for event in profile.key_averages()}
    expected = torch.autograd.grad(ORIGINAL(logits, target), logits)
    torch.testing.assert_close(logits.grad, expected[0])
