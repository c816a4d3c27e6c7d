"""Every public function with every kind of array: NumPy's bits, in the caller's kind.

And the memory: the kernels see the caller's, and what comes back is what they wrote.
"""

import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import pick

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow")

NAMES = ("numpy", "memmap", "interface", "dlpack", "torch", "jax", "array_api_strict", "tensorflow")
WRITABLE = ("numpy", "memmap", "interface", "dlpack", "torch", "array_api_strict")
HARD = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")


class Interface:  # nothing but __array_interface__
    def __init__(self, array):
        self.memory = array
        self.__array_interface__ = array.__array_interface__


class DLPack:  # and nothing but DLPack
    def __init__(self, array):
        self.memory = array

    def __dlpack__(self, **options):
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


def kind_of_arrays(name, folder):
    """How to make an array, what its class is, what NumPy sees in it, and where it lies."""
    if name in ("numpy", "memmap", "interface", "dlpack"):

        def mapped(array):
            file = folder / f"{len(list(folder.iterdir()))}.bin"
            memory = np.memmap(file, array.dtype, "w+", shape=array.size).reshape(array.shape)
            memory[...] = array
            return memory

        make = {"numpy": np.copy, "memmap": mapped, "interface": Interface, "dlpack": DLPack}[name]
        return SimpleNamespace(
            make=lambda array: make(array.copy()),
            results=np.ndarray | np.generic,
            numpy=lambda given: getattr(given, "memory", given),
        )
    module = pytest.importorskip(name, reason="makes the arrays")
    if name == "torch":
        return SimpleNamespace(
            make=lambda array: module.from_numpy(array.copy()),
            results=module.Tensor,
            numpy=lambda given: given.numpy(),
        )
    if name == "jax":
        return SimpleNamespace(make=module.numpy.array, results=module.Array, numpy=np.asarray)
    if name == "tensorflow":
        return SimpleNamespace(
            make=module.constant,
            results=module.Tensor,
            numpy=lambda given: np.asarray(given if given.shape.rank else given.numpy()),
        )
    return SimpleNamespace(
        make=lambda array: module.asarray(array, copy=True),
        results=type(module.asarray([1.0])),
        numpy=np.from_dlpack,
    )


@pytest.fixture(params=NAMES)
def kind(request, tmp_path):
    made = kind_of_arrays(request.param, tmp_path)
    made.name = request.param
    return made


def arrays(rows=12, classes=7, dtype=np.float32):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, classes)).astype(dtype)
    return {
        "x": x,
        "labels": rng.integers(0, classes, rows).astype(np.int32),
        "soft": fx.softmax(rng.normal(size=(rows, classes)).astype(dtype)),
        "bits": rng.integers(0, 2, (rows, classes)).astype(np.int8),
        "weight": rng.random(classes).astype(np.float32),
        "per_row": rng.random(rows).astype(np.float32),
        "elements": rng.random((rows, classes)).astype(np.float32),
        "p": fx.softmax(x),
        "log_p": fx.log_softmax(x),
        "number": np.array(0.25, np.float32),
    }


def hard(function):
    return lambda a, **more: function(
        a["x"], a["labels"], weight=a["weight"], sample_weight=a["per_row"], aux=HARD, **more
    )


def soft(function):
    return lambda a, **more: function(
        a["x"],
        a["soft"],
        ignore_index=None,
        reduction="none",
        label_smoothing=a["number"],
        aux=("target_grad", "correct"),
        **more,
    )


def binary(function, target):
    return lambda a, **more: function(
        a["x"], a[target], weight=a["elements"], pos_weight=a["weight"], **more
    )


def object_of_loss(a):
    loss = fx.CrossEntropyLoss(weight=a["weight"], aux=("lse",))
    value, aux = loss(a["x"], a["labels"])
    assert loss.backward() is loss.backward()
    return value, aux.lse, loss.backward()


WITHOUT_OUT = {
    "cross_entropy": lambda a: fx.cross_entropy(a["x"], a["labels"]),
    "cross_entropy, hard": hard(fx.cross_entropy),
    "cross_entropy, soft": soft(fx.cross_entropy),
    "binary": binary(fx.binary_cross_entropy_with_logits, "bits"),
    "binary, each": lambda a: fx.binary_cross_entropy_with_logits(
        a["x"], a["soft"], reduction="none"
    ),
    "logsumexp": lambda a: fx.logsumexp(a["x"]),
    "logsumexp, all": lambda a: fx.logsumexp(a["x"], axis=None),
    "logsumexp, none": lambda a: fx.logsumexp(a["x"], axis=()),
    "CrossEntropyLoss": object_of_loss,
    "one row": lambda a: fx.cross_entropy(a["weight"], 3, aux=("argmax", "correct")),
    "a number": lambda a: fx.binary_cross_entropy_with_logits_and_grad(a["number"], 1),
}
WITH_OUT = {
    "cross_entropy_and_grad": lambda a, **more: fx.cross_entropy_and_grad(
        a["x"], a["labels"], grad_output=a["number"], **more
    ),
    "cross_entropy_and_grad, plain": lambda a, **more: fx.cross_entropy_and_grad(
        a["x"], a["labels"], **more
    ),
    "cross_entropy_and_grad, hard": hard(fx.cross_entropy_and_grad),
    "cross_entropy_and_grad, soft": lambda a, **more: soft(fx.cross_entropy_and_grad)(
        a, grad_output=a["per_row"], **more
    ),
    "binary_and_grad": lambda a, **more: binary(
        fx.binary_cross_entropy_with_logits_and_grad, "soft"
    )(a, grad_output=a["elements"], **more),
    "softmax": lambda a, **more: fx.softmax(a["x"], **more),
    "softmax, both axes": lambda a, **more: fx.softmax(a["x"], axis=(0, 1), **more),
    "log_softmax": lambda a, **more: fx.log_softmax(a["x"], axis=0, **more),
    "softmax_backward": lambda a, **more: fx.softmax_backward(a["p"], a["x"], **more),
    "log_softmax_backward": lambda a, **more: fx.log_softmax_backward(
        a["log_p"], a["x"], axis=None, **more
    ),
}
FIRST = {"softmax_backward": "p", "log_softmax_backward": "log_p"}


def flat(results):
    """The arrays of a result, whatever tuples they are in."""
    if isinstance(results, tuple):
        return [one for part in results for one in flat(part)]
    return [] if results is None else [results]


def assert_same(kind, results, expected):
    results, expected = flat(results), flat(expected)
    assert len(results) == len(expected)
    for result, one in zip(results, expected, strict=True):
        assert isinstance(result, kind.results)
        if kind.results == np.ndarray | np.generic:
            assert type(result) is type(one)
        seen = np.asarray(kind.numpy(result))
        one = np.asarray(one)
        # JAX has no 64 bits unless it is told to
        dtype = np.int32 if kind.name == "jax" and one.dtype == np.int64 else one.dtype
        assert seen.dtype == dtype
        assert seen.shape == one.shape
        assert np.array_equal(seen, one)


@pytest.mark.parametrize("name", [*WITHOUT_OUT, *WITH_OUT])
def test_values_kind_and_dtype(kind, name):
    call = {**WITHOUT_OUT, **WITH_OUT}[name]
    given = arrays()
    assert_same(kind, call({k: kind.make(v) for k, v in given.items()}), call(given))


@pytest.mark.parametrize("name", WITH_OUT)
def test_out(kind, name):
    given = arrays()
    expected = flat(WITH_OUT[name](given))
    first = 0 if len(expected) == 1 else 1
    made = {k: kind.make(v) for k, v in given.items()}
    out = kind.make(np.zeros_like(given["x"]))
    if kind.name not in WRITABLE:
        with pytest.raises(fx.OutputError, match="out cannot be written to"):
            WITH_OUT[name](made, out=out)
        return
    results = flat(WITH_OUT[name](made, out=out))
    assert results[first] is out
    assert np.array_equal(kind.numpy(out), expected[first])
    # over the first input: an array of its own, whose numbers are replaced
    entry = FIRST.get(name, "x")
    results = flat(WITH_OUT[name](made, out=made[entry]))
    assert results[first] is made[entry]
    assert np.array_equal(kind.numpy(made[entry]), expected[first])


def test_check_labels(kind):
    fx.check_labels(kind.make(np.arange(5)), 5)
    with pytest.raises(fx.LabelError, match=r"target\[3\] is 3"):
        fx.check_labels(kind.make(np.arange(5)), 3)


def addresses(*things):
    """Where all the arrays in these lie, in what a verb of a backend gets."""
    found = set()
    for thing in things:
        if isinstance(thing, np.ndarray):
            found.add(thing.ctypes.data)
        elif hasattr(thing, "__dataclass_fields__"):
            found |= addresses(*(getattr(thing, name) for name in thing.__dataclass_fields__))
    return found


def peak(call, made):
    """Most bytes that Python and NumPy hold during a call, beyond those before it."""
    tracemalloc.start()
    call(made)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("name", WITH_OUT)
def test_kernels_see_the_callers_memory_and_the_caller_what_they_wrote(kind, name, monkeypatch):
    backend, seen = pick(None), set()

    def spy(verb, real):
        def spied(self, *given):
            seen.update(addresses(*given))
            return real(self, *given)

        monkeypatch.setattr(type(backend), verb, spied)

    for verb in ("forward", "softmax", "binary", "softmax_backward", "mean_loss"):
        spy(verb, getattr(type(backend), verb))
    given = arrays(1024, 1024)  # 4 MB
    made = {k: kind.make(v) for k, v in given.items()}
    results = flat(WITH_OUT[name](made))
    entry = FIRST.get(name, "x")
    large = [one for one in results if np.size(kind.numpy(one)) == given["x"].size]
    assert large
    for array in (made[entry], *large):
        assert np.asarray(kind.numpy(array)).ctypes.data in seen
    # NumPy's argmax copies what is read-only, 1 MB at a time
    assert peak(WITH_OUT[name], made) < peak(WITH_OUT[name], given) + given["x"].nbytes / 4


@pytest.mark.parametrize("named", ["torch", "torch without ml_dtypes", "jax", "tensorflow"])
def test_bfloat16(named, tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy's bfloat16")
    narrow, name = ml_dtypes.bfloat16, named.split()[0]
    kind, module = kind_of_arrays(name, tmp_path), sys.modules[name]
    given = arrays(64, 512, narrow)
    given |= {k: given[k].astype(narrow) for k in ("weight", "per_row", "number", "elements")}
    calls = {**WITHOUT_OUT, **WITH_OUT}
    expected = {entry: flat(call(given)) for entry, call in calls.items()}

    def make(array):
        if array.dtype != narrow or name != "torch":
            return kind.make(array)
        return module.from_numpy(array.view(np.uint16).copy()).view(module.bfloat16)

    made = {k: make(v) for k, v in given.items()}
    if named != name:
        monkeypatch.delitem(sys.modules, "ml_dtypes")
    for entry, call in calls.items():
        for result, one in zip(flat(call(made)), expected[entry], strict=True):
            assert isinstance(result, kind.results), entry
            assert ("bfloat16" in str(result.dtype)) == (one.dtype == narrow), entry
            if one.dtype == narrow and name == "torch":
                result, one = result.view(module.uint16), one.view(np.uint16)
            assert np.array_equal(kind.numpy(result), one), entry
