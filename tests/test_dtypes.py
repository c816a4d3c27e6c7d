"""Half precision: stored in 16 bits, computed in float32; probabilities of any dtype beside it."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import fastxent as fx
from fastxent import precision, reference
from fastxent.problem import Problem

RNG = np.random.default_rng(31)
BF16 = np.dtype(ml_dtypes.bfloat16)
HALF = [np.dtype(np.float16), BF16]
FLOATS = [*HALF, np.dtype(np.float32), np.dtype(np.float64)]
# Half a step between neighbours, as a share of the number.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def assert_rounded(stored, truth, smallest=1e-7):
    """Within one rounding of storage, and float32's error."""
    rounding = ROUNDING[stored.dtype.name]
    wide = stored.astype(np.float64)
    assert np.all(np.abs(wide - truth) <= rounding * np.abs(truth) * 1.001 + smallest)


@pytest.mark.parametrize("classes", [3, 10, 100, 130, 1100])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_loss_and_grad(dtype, classes, backend):
    logits = (4 * RNG.standard_normal((9, classes))).astype(dtype)
    labels = RNG.integers(0, classes, 9)
    loss, grad = fx.cross_entropy_and_grad(logits, labels, backend=backend)
    wide = logits.astype(np.float64)
    truth, grad_truth = reference.cross_entropy_and_grad(wide, labels)
    assert loss.dtype == np.float32
    assert np.isclose(loss, truth, rtol=1e-6)
    assert grad.dtype == dtype
    assert_rounded(grad, grad_truth)
    assert loss == fx.cross_entropy(logits, labels, backend=backend)
    assert_rounded(fx.softmax(logits, backend=backend), reference.softmax(wide))
    assert_rounded(fx.log_softmax(logits, backend=backend), reference.log_softmax(wide), 1e-5)
    lse = fx.logsumexp(logits, backend=backend)
    assert lse.dtype == np.float32
    assert np.allclose(lse, reference.logsumexp(wide), rtol=1e-6)
    assert fx.cross_entropy(logits, labels, reduction="none", backend=backend).dtype == np.float32


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_special_rows(dtype, backend):
    inf, nan = np.inf, np.nan
    logits = np.array([[inf, 0], [nan, 0], [-inf, -inf], [-inf, 0], [6e4, -6e4]]).astype(dtype)
    losses, grad = fx.cross_entropy_and_grad(logits, [1] * 5, reduction="none", backend=backend)
    assert np.isnan(losses[:3]).all()
    assert np.isnan(grad[:3].astype(float)).all()
    assert losses[3] == 0
    assert losses[4] == logits[4].astype(float) @ [1, -1]
    assert np.array_equal(fx.logsumexp(logits, backend=backend)[:3], [inf, nan, -inf], True)


@pytest.mark.parametrize("target", [np.dtype(bool), *FLOATS], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_probabilities_of_any_dtype(dtype, target, backend):
    """Neither is copied or converted; the gradient of the target has the target's dtype."""
    logits = RNG.standard_normal((5, 37)).astype(dtype)
    soft = (RNG.random((5, 37)) * 2).astype(target)
    problem = Problem.build(logits, soft)
    assert np.may_share_memory(problem.logits, logits)
    assert np.may_share_memory(problem.soft, soft)
    options = {"label_smoothing": 0.1, "backend": backend}
    loss, grad, aux = fx.cross_entropy_and_grad(logits, soft, aux=("target_grad",), **options)
    wide = logits.astype(float), soft.astype(float)
    truth, grad_truth = reference.cross_entropy_and_grad(*wide, label_smoothing=0.1)
    slope = reference.cross_entropy_aux(*wide, label_smoothing=0.1)["target_grad"]
    assert np.isclose(loss, truth, rtol=1e-5)
    assert grad.dtype == dtype
    assert aux.target_grad.dtype == (dtype if target.kind == "b" else target)
    for result, expected in ((grad, grad_truth), (aux.target_grad, slope)):
        if result.dtype in HALF:
            assert_rounded(result, expected, 1e-6)
        else:
            assert np.allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_bits_of_half_precision(dtype, out, backend):
    """What adapters of frameworks pass whose arrays NumPy has no dtype for."""
    logits = RNG.standard_normal((5, 7)).astype(dtype)
    soft = RNG.random((5, 7)).astype(dtype)
    labels = RNG.integers(0, 7, 5).astype(np.uint16)
    for target in (labels, soft, soft.astype(np.float32), soft > 0.5):
        bits = target.view(np.uint16) if target is soft else target
        into = np.zeros((5, 7), np.uint16) if out else None
        problem = Problem.build(logits.view(np.uint16), bits, storage=dtype.name, out=into)
        typed = Problem.build(logits, target)
        assert problem.precision.kind == typed.precision.kind == dtype.name
        assert problem.soft_kind == typed.soft_kind
        assert problem.target_grad_kind == typed.target_grad_kind
        grad = problem.new_output(into)
        assert grad.array.dtype == np.uint16
        assert (grad.array is into) == out
        assert np.array_equal(problem.logits, typed.logits)
    problem = Problem.of_array(logits.view(np.uint16), -1, None, storage=dtype.name)
    assert np.may_share_memory(problem.logits, logits)
    assert problem.precision.loss == np.float32


def test_bits_that_are_wrong():
    bits = np.zeros((5, 7), np.uint16)
    with pytest.raises(fx.OptionError, match="storage must be one of 'float16', 'bfloat16'"):
        Problem.build(bits, np.zeros(5, int), storage="float32")
    with pytest.raises(fx.ShapeError, match=r"\(5, 7\)"):
        Problem.build(bits, np.zeros((5, 8), np.uint16), storage="bfloat16")
    with pytest.raises(fx.DTypeError, match="uint16"):
        Problem.build(bits, np.zeros(5, int))
    with pytest.raises(fx.DTypeError, match=r"'float16'.* uint16 .* float32: leave storage out"):
        Problem.build(np.zeros((5, 7), np.float32), np.zeros(5, int), storage="float16")
    with pytest.raises(fx.DTypeError, match="out needs dtype uint16"):
        Problem.build(bits, np.zeros(5, int), storage="bfloat16", out=np.zeros((5, 7), BF16))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_factors_of_half_precision(dtype, backend):
    logits, labels = RNG.standard_normal((5, 7)), RNG.integers(0, 7, 5)
    given = {
        "weight": RNG.random(7).astype(dtype),
        "sample_weight": RNG.random(5).astype(dtype),
        "label_smoothing": dtype.type(0.125),
        "z_loss": dtype.type(0.5),
    }
    wide = {name: value.astype(float) for name, value in given.items()}
    assert fx.cross_entropy(logits, labels, backend=backend, **given) == fx.cross_entropy(
        logits, labels, backend=backend, **wide
    )


def test_foreign_half_precision(backend):
    logits, labels = RNG.standard_normal((5, 7)).astype(">f2"), RNG.integers(0, 7, 5)
    expected = fx.cross_entropy_and_grad(logits.astype("f2"), labels, backend=backend)
    loss, grad = fx.cross_entropy_and_grad(logits, labels, backend=backend)
    assert loss == expected[0]
    assert grad.dtype == np.float16
    assert np.array_equal(grad, expected[1])


def test_a_count_beyond_half_precision(backend):
    """70,000 rows of loss log 2: in float16 the count would be infinite, the sum too."""
    logits = np.zeros((70_000, 2), np.float16)
    labels = np.zeros(70_000, int)
    assert np.isclose(fx.cross_entropy(logits, labels, backend=backend), np.log(2))
    total = fx.cross_entropy(logits, labels, reduction="sum", backend=backend)
    assert np.isclose(total, 70_000 * np.log(2))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_every_number_comes_back(dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    wide = precision.widen(bits, dtype.name)
    assert wide.dtype == np.float32
    assert np.array_equal(wide, bits.view(dtype).astype(np.float32), equal_nan=True)
    back = precision.narrow(wide, dtype.name)
    numbers = ~np.isnan(wide)
    assert np.array_equal(back[numbers], bits[numbers])
    assert np.isnan(back[~numbers].view(dtype).astype(np.float32)).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_rounding(dtype):
    """To nearest, ties to even, to infinity beyond the largest; a NaN of any bits stays one."""
    patterns = RNG.integers(0, 2**32, 200_000, dtype=np.uint32)
    high = np.arange(2**16, dtype=np.uint32) << 16
    ties = [high | low for low in (0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    values = np.concatenate([patterns, *ties]).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
        result = precision.narrow(values, dtype.name).view(dtype)
    same = result.view(np.uint16) == expected.view(np.uint16)
    assert np.all(same | np.isnan(values) & np.isnan(result.astype(np.float32)))


def test_what_has_no_precision():
    for name in ("i4", "u2", "c8", "g", "M8[s]", "O", "U3", "V2"):
        assert precision.precision_of(np.dtype(name)) is None
    for name, half in itertools.product(("f4", "f8"), ("float16", "bfloat16")):
        assert precision.kind_of(np.dtype(name), half) == np.dtype(name).name


@pytest.mark.parametrize(
    "name", [name for name in dir(ml_dtypes) if name.startswith(("float8", "float6", "float4"))]
)
def test_floats_of_fewer_bits_are_refused(name, backend):
    # NumPy takes float8_e5m2 for one of its own kind of numbers
    small = np.zeros((2, 3), getattr(ml_dtypes, name))
    assert precision.kind_of(small.dtype) is None
    for given in ((small, [0, 1]), (np.zeros((2, 3)), small)):
        with pytest.raises(fx.DTypeError, match=name):
            fx.cross_entropy(*given, backend=backend)
    with pytest.raises(fx.DTypeError, match=name):
        fx.softmax(small, backend=backend)
