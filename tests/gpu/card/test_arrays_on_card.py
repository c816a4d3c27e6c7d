"""Arrays of every library that has them on a card: values, kinds, streams, no waiting, graphs."""

import numpy as np
import pytest

import fastxent as fx

REASON = fx.backends().get("cuda", "there is no such backend")
if REASON is not None:
    pytest.skip(f"no card: {REASON}", allow_module_level=True)

CLASSES = (3, 10, 32, 33, 129, 1000, 1001, 5000, 50257, 128256, 262144)
DTYPES = ("float16", "bfloat16", "float32", "float64")
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-20, "float64": 2.0**-45}


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


class ShownByDLPack:
    """A tensor of which no library is known."""

    def __init__(self, tensor):
        self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__


def drawn(torch, rows, classes, dtype="float32"):
    random = torch.Generator("cuda").manual_seed(classes)
    logits = torch.randn(rows, classes, device="cuda", generator=random)
    labels = torch.randint(0, classes, (rows,), device="cuda", generator=random)
    return (4 * logits).to(getattr(torch, dtype)), labels


def truth_of(torch, logits, labels, **options):
    leaf = logits.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(leaf, labels, **options)
    loss.backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_loss_and_gradient(torch, classes, dtype):
    logits, labels = drawn(torch, 37, classes, dtype)
    loss, grad = fx.cross_entropy_and_grad(logits, labels)
    true_loss, true_grad = truth_of(torch, logits, labels)
    assert grad.dtype == logits.dtype
    assert grad.device == loss.device == logits.device
    assert float(loss) == pytest.approx(float(true_loss), rel=1e-6)
    off = (grad.double() - true_grad).abs().max() / true_grad.abs().max()
    assert float(off) <= EPSILON[dtype]


@pytest.mark.parametrize("classes", [10, 1000, 50257, 128256])
def test_in_place_and_out_have_the_same_bits(torch, classes):
    logits, labels = drawn(torch, 65, classes)
    _, grad = fx.cross_entropy_and_grad(logits, labels)
    out = torch.empty_like(logits)
    _, given = fx.cross_entropy_and_grad(logits, labels, out=out)
    assert given is out
    assert torch.equal(out, grad)
    _, again = fx.cross_entropy_and_grad(logits, labels, out=logits)
    assert again is logits
    assert torch.equal(logits, grad)


def test_nothing_waits_for_the_card(torch):
    """The card sleeps while calls are made: after them it must be asleep still."""
    logits, labels = drawn(torch, 64, 1000)
    weight = torch.rand(1000, device="cuda")
    of_host, wide = np.random.default_rng(0).random(1000), torch.rand(64, 2000, device="cuda")
    shown = ShownByDLPack(logits), ShownByDLPack(labels)

    def calls(classes):
        return (
            fx.cross_entropy_and_grad(logits, labels, weight=weight),
            fx.cross_entropy_and_grad(logits, labels, weight=of_host),
            fx.softmax(logits),
            fx.softmax(wide[:, : 2 * classes : 2]),  # with a table of its own
            fx.cross_entropy_and_grad(*shown, weight=of_host),  # in memory of the backend's own
        )

    kept = calls(900)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)
        kept += calls(901)
        end = torch.cuda.Event()
        end.record()
        assert not end.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(kept) == 10


def test_memory_of_the_backend_comes_back(torch):
    """Thousands of calls on what only shows its memory need no more of it than a few."""
    logits, labels = drawn(torch, 4096, 1000)
    shown = ShownByDLPack(logits), ShownByDLPack(labels)
    weight = np.random.default_rng(0).random(1000)
    free = []
    for count in (10, 1000):
        for _ in range(count):
            fx.cross_entropy_and_grad(*shown, weight=weight, sample_weight=np.ones(4096))
        torch.cuda.synchronize()
        free.append(torch.cuda.mem_get_info()[0])
    assert free[1] >= free[0] - (64 << 20)


def test_the_current_stream_is_used(torch):
    logits, labels = drawn(torch, 4096, 32000)
    truth = fx.cross_entropy_and_grad(logits, labels)[1]
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    source = torch.zeros_like(logits)
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        source.copy_(logits)
        grad = fx.cross_entropy_and_grad(source, labels)[1]
    side.synchronize()
    assert torch.equal(grad, truth)


@pytest.mark.parametrize("classes", [10, 1000, 50257])
def test_a_graph_captures_the_call(torch, classes):
    logits, labels = drawn(torch, 128, classes)
    static = logits.clone()
    fx.cross_entropy_and_grad(static, labels)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grad = fx.cross_entropy_and_grad(static, labels)
    for factor in (1.0, 0.25):
        static.copy_(factor * logits)
        graph.replay()
        expected = fx.cross_entropy_and_grad(factor * logits, labels)
        assert torch.equal(loss, expected[0])
        assert torch.equal(grad, expected[1])


@pytest.mark.parametrize("classes", [10, 100, 5000, 50257, 300000])
def test_bad_labels_are_told_by_nan(torch, classes):
    logits, labels = drawn(torch, 12, classes)
    good = fx.cross_entropy_and_grad(logits, labels, reduction="none")
    labels[3], labels[7] = classes, -1
    loss, grad = fx.cross_entropy_and_grad(logits, labels, reduction="none")
    bad = torch.zeros(12, dtype=torch.bool, device="cuda")
    bad[3] = bad[7] = True
    assert torch.equal(loss.isnan(), bad)
    assert not grad[bad].any()
    assert torch.equal(grad[~bad], good[1][~bad])
    with pytest.raises(fx.LabelError, match=r"target\[3\]"):
        fx.check_labels(labels, classes)


def test_arrays_of_cupy(cupy):
    logits = cupy.random.standard_normal((50, 1000), dtype=cupy.float32)
    labels = cupy.arange(50)
    loss, grad = fx.cross_entropy_and_grad(logits, labels)
    assert isinstance(grad, cupy.ndarray)
    expected = fx.cross_entropy_and_grad(logits.get(), labels.get(), backend="numpy")
    np.testing.assert_allclose(loss.get(), expected[0], rtol=1e-6)
    np.testing.assert_allclose(grad.get(), expected[1], rtol=1e-5, atol=1e-8)


def test_arrays_of_numba():
    pytest.importorskip("numba_cuda")
    from numba import cuda

    logits = np.random.default_rng(0).standard_normal((50, 1000), np.float32)
    labels = np.arange(50)
    loss, grad = fx.cross_entropy_and_grad(cuda.to_device(logits), cuda.to_device(labels))
    cuda.synchronize()
    assert cuda.is_cuda_array(grad)
    expected = fx.cross_entropy_and_grad(logits, labels, backend="numpy")
    np.testing.assert_allclose(grad.copy_to_host(), expected[1], rtol=1e-5, atol=1e-8)
    assert float(np.asarray(loss.copy_to_host())) == pytest.approx(float(expected[0]), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_of_jax(dtype):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no CUDA")
    logits = jax.random.normal(jax.random.key(0), (50, 1000)).astype(dtype)
    labels = jax.numpy.arange(50)
    loss, grad = fx.cross_entropy_and_grad(logits, labels)
    assert isinstance(grad, jax.Array)
    assert grad.devices() == logits.devices()
    expected = fx.cross_entropy_and_grad(
        np.asarray(logits, np.float32), np.asarray(labels), backend="numpy"
    )
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-5)
    np.testing.assert_allclose(np.asarray(grad, np.float32), expected[1], rtol=1e-2, atol=1e-6)


def test_more_elements_than_32_bits_count(torch):
    rows, classes = (1 << 31) // 32000 + 2, 32000
    logits = torch.zeros(rows, classes, device="cuda", dtype=torch.bfloat16)
    logits[-1, -1] = 3
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    grad = fx.cross_entropy_and_grad(logits, labels, reduction="sum", out=logits)[1]
    expected = np.exp(3) / (np.exp(3) + classes - 1)
    assert float(grad[-1, -1]) == pytest.approx(expected, rel=2.0**-7)
    assert float(grad[-1, 0]) == pytest.approx(-1, rel=2.0**-7)


def test_the_cluster_kernel_serves_long_rows(torch):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters came with capability 9.0")
    logits, labels = drawn(torch, 300, 128256, "bfloat16")
    once = fx.cross_entropy_and_grad(logits, labels)[1]
    for _ in range(20):
        assert torch.equal(fx.cross_entropy_and_grad(logits, labels)[1], once)
