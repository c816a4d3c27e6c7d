"""Arrays of other libraries that cannot be read or written, and what the library must be told."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.interchange import home_of

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def torch_module():
    return pytest.importorskip("torch", reason="makes the tensors")


def jax_module():
    return pytest.importorskip("jax", reason="makes the arrays")


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda t: t.clone().requires_grad_(), r"requires grad.*fastxent\.torch.*x\.detach\(\)"),
        (lambda t: t.to("meta"), "no numbers"),
        (lambda t: t.to_sparse(), r"torch\.sparse_coo.*x\.to_dense\(\)"),
        (lambda t: t.to_sparse_csr(), r"torch\.sparse_csr.*x\.to_dense\(\)"),
        (lambda t: t.to(sys.modules["torch"].complex64), "complex64: x must be real"),
        (lambda t: t.int(), r"int32.*astype"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_tensors_that_cannot_be_read(change, cure):
    tensor = change(torch_module().from_numpy(X))
    with pytest.raises(fx.DTypeError, match=cure):
        fx.softmax(tensor)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_tensor():
    torch = torch_module()
    quantise = torch.quantize_per_tensor
    tensor = quantise(torch.from_numpy(X), 0.1, 0, torch.qint8)
    with pytest.raises(fx.DTypeError, match=r"quantised.*logits\.dequantize\(\)"):
        fx.cross_entropy(tensor, [0, 1, 2])


def test_tensors_without_memory():
    torch = torch_module()
    with pytest.raises(fx.DTypeError, match="cannot be read"):
        torch.func.vmap(fx.softmax)(torch.from_numpy(X))
    with pytest.raises(fx.DTypeError, match=r"cannot be read.*fastxent\.torch"):
        torch.func.grad(lambda x: fx.softmax(x).sum())(torch.from_numpy(X))


def test_every_argument_is_named():
    torch = torch_module()
    grad = torch.ones(4, requires_grad=True)
    for name, call in {
        "target": lambda: fx.cross_entropy(X, torch.zeros(3, 4, requires_grad=True)),
        "weight": lambda: fx.cross_entropy(X, [0, 1, 2], weight=grad),
        "out": lambda: fx.softmax(X, out=torch.zeros(3, 4, requires_grad=True)),
    }.items():
        with pytest.raises(fx.DTypeError, match=f"{name} cannot be read.*{name}.detach"):
            call()


def test_strides_and_offsets_of_tensors():
    torch = torch_module()
    memory = torch.from_numpy(np.linspace(-3, 3, 240, dtype=np.float32)).reshape(2, 10, 12)
    for view in (
        memory[1, 2:8:2, ::3],
        memory[0].T,
        memory.permute(2, 0, 1)[:, 1],
        memory[0, :1].expand(5, 12),
    ):
        grad = fx.cross_entropy_and_grad(view, torch.arange(len(view)) % 3)[1]
        expected = fx.cross_entropy_and_grad(view.numpy().copy(), np.arange(len(view)) % 3)[1]
        assert np.array_equal(grad.numpy(), expected)
    place = torch.zeros(10, 12)
    assert fx.softmax(memory[0].T, out=place.T).data_ptr() == place.data_ptr()
    assert np.array_equal(place.T.numpy(), fx.softmax(memory[0].T.numpy()))


def test_out_that_overlaps_a_tensor():
    torch = torch_module()
    memory = torch.zeros(4, 4)
    with pytest.raises(fx.OutputError, match="overlaps x"):
        fx.softmax(memory[:3], out=memory[1:])
    with pytest.raises(fx.OutputError, match="one in memory"):
        fx.softmax(memory, out=torch.zeros(1, 4).expand(4, 4))
    with pytest.raises(fx.DTypeError, match="out needs dtype float32"):
        fx.softmax(memory, out=torch.zeros(4, 4, dtype=torch.float64))


def test_writing_over_what_autograd_keeps_is_an_error_of_backward():
    torch = torch_module()
    leaf = torch.ones(3, 4, requires_grad=True)
    kept = leaf * 2
    loss = (kept**2).sum()
    fx.softmax(X, out=kept.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_out_of_another_library_than_the_logits():
    torch = torch_module()
    place = torch.zeros(3, 4)
    assert fx.softmax(X, out=place) is place
    array = np.zeros_like(X)
    assert fx.softmax(torch.from_numpy(X), out=array) is array
    assert np.array_equal(array, place.numpy())
    assert np.array_equal(array, fx.softmax(X))


def test_out_that_does_not_show_its_memory():
    class Copies:
        def __array__(self, dtype=None, copy=None):
            return X.copy()

    for out in (Copies(), X.tolist(), memoryview(X.copy())):
        with pytest.raises(fx.DTypeError, match=f"shows its memory.*{type(out).__name__}"):
            fx.softmax(X, out=out)
    assert type(fx.softmax(Copies())) is np.ndarray


def test_read_only_memory():
    class Interface:
        def __init__(self, array):
            self.__array_interface__ = array.__array_interface__

    fixed = X.copy()
    fixed.flags.writeable = False
    assert np.array_equal(fx.softmax(Interface(fixed)), fx.softmax(X))
    with pytest.raises(fx.OutputError, match="read-only"):
        fx.softmax(X, out=Interface(fixed))


@pytest.mark.skipif(fx.backends()["cuda"] is None, reason="there is a card")
def test_a_device_that_only_dlpack_tells():
    class OnDevice:
        def __dlpack__(self, **options):
            raise AssertionError("nothing is to be asked of a device")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(fx.BackendError, match="GPU"):
        fx.cross_entropy(OnDevice(), [0, 1])
    with pytest.raises(fx.DTypeError, match=r"target.*GPU"):
        fx.cross_entropy(X, OnDevice())


def test_tracers_of_jax():
    jax = jax_module()
    for transform in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(fx.DTypeError, match=r"tracer.*fastxent\.jax"):
            transform(fx.logsumexp)(jax.numpy.asarray(X[0]))


def test_deleted_array_of_jax():
    x = jax_module().numpy.array(X)
    x.delete()
    with pytest.raises(fx.DTypeError, match="deleted"):
        fx.softmax(x)


def test_devices_of_jax():
    pytest.importorskip("jax", reason="makes the arrays")
    code = """
import jax, numpy as np, fastxent as fx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
first, second = jax.devices()
x = np.zeros((4, 512), "float32")
for place in (second, NamedSharding(Mesh([second], "a"), PartitionSpec("a"))):
    loss, grad = fx.cross_entropy_and_grad(jax.device_put(x, place), [0, 1, 2, 3])
    assert loss.devices() == grad.devices() == {second}
    assert grad.committed and loss.committed
free = fx.softmax(jax.numpy.asarray(x))
assert free.devices() == {first} and not free.committed
for spec in ("a", None):
    spread = jax.device_put(x, NamedSharding(Mesh(jax.devices(), "a"), PartitionSpec(spec)))
    try:
        fx.softmax(spread)
    except fx.DTypeError as error:
        assert "spread over 2 devices" in str(error), error
    else:
        raise SystemExit("a spread array was taken")
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **flags})


def test_64_bits_of_jax():
    jax = jax_module()
    with jax.enable_x64(True):
        x = jax.numpy.asarray(X.astype(float))
        loss, aux = fx.cross_entropy(x, [0, 1, 2], aux=("argmax",))
        assert loss.dtype == np.float64
        assert aux.argmax.dtype == np.int64


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (1, 1)])
def test_empty_and_tiny_arrays(shape):
    torch, jax = torch_module(), jax_module()
    x = np.zeros(shape, np.float32)
    for kind, make in ((torch.Tensor, torch.from_numpy), (jax.Array, jax.numpy.asarray)):
        result = fx.softmax(make(x))
        assert isinstance(result, kind)
        assert np.array_equal(np.asarray(result), fx.softmax(x))


def test_home_is_numpys_for_what_has_no_library():
    for value in (X, X.tolist(), 1.0, np.float32(1), memoryview(X), X.view(np.memmap)):
        assert home_of(value).library is None


def test_nothing_is_imported():
    code = (
        "import sys, numpy as np, fastxent as fx\n"
        "fx.softmax(np.zeros(3)); fx.softmax([0.0, 1.0]); fx.softmax(memoryview(np.zeros(3)))\n"
        "names = {'torch', 'jax', 'tensorflow', 'ml_dtypes', 'array_api_strict'}\n"
        "assert not names & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
