"""The binary loss: beside the reference, PyTorch and two classes; layouts, dtypes, bits, errors."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import fastxent as fx
from fastxent import reference
from fastxent.backends import load
from fastxent.binary import BinaryCall
from fastxent.cases.layouts import LAYOUTS
from fastxent.comparison import ROUNDINGS, compare, each, largest, same_bits

RNG = np.random.default_rng(31)
INF, NAN = np.inf, np.nan
FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
INTEGERS = tuple(np.dtype(kind) for kind in "?bBhHiIlLqQ")

loss_of = fx.binary_cross_entropy_with_logits
both_of = fx.binary_cross_entropy_with_logits_and_grad

# Shapes: a scalar, one element, tails of lanes, blocks and chunks, more dimensions, several chunks.
SHAPES = ((), (1,), (17,), (513,), (7, 33), (3, 4, 5), (16385,), (3, 40001))


def drawn(shape, dtype, spread=6.0):
    return np.asarray(RNG.standard_normal(shape) * spread).astype(dtype)


def all_options(shape):
    """Every weight with every smoothing and reduction."""
    last = shape[-1:]
    weights = (None, 0.5, RNG.random(shape), RNG.random(last))
    pos_weights = (None, 3.0, RNG.random(last) * 4)
    for weight, pos_weight, smoothing, reduction in itertools.product(
        weights, pos_weights, (0.0, 0.1, 1.0), ("none", "mean", "sum")
    ):
        given = {"weight": weight, "pos_weight": pos_weight}
        yield {
            **{name: value for name, value in given.items() if value is not None},
            "label_smoothing": smoothing,
            "reduction": reduction,
        }


def check(logits, target, options, backend, **runtime):
    """Loss and gradient against the reference; the loss alone has the same bits."""
    given = logits.copy()
    loss, grad = both_of(logits, target, **options, backend=backend, **runtime)
    forward = {name: value for name, value in options.items() if name != "grad_output"}
    assert same_bits(loss, loss_of(logits, target, **forward, backend=backend))
    assert same_bits(logits, given)
    assert grad.dtype == logits.dtype
    assert grad.shape == logits.shape
    assert loss.dtype == (np.float64 if logits.dtype == np.float64 else np.float32)

    def truth(x, dtype):
        return reference.binary_cross_entropy_with_logits_and_grad(
            x, target, **options, dtype=dtype
        )

    share = 1 / logits.size if options.get("reduction", "mean") == "mean" else 1.0
    comparisons = compare(
        ("loss", "gradient"),
        (loss, grad),
        truth,
        logits,
        # a soft target near sigma(x) cancels: against the gradient of an element of mass 1
        (each, lambda grads: max(largest(grads), share)),
        (ROUNDINGS,) * 2,
    )
    assert all(comparison.passed for comparison in comparisons), list(map(str, comparisons))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(shape, dtype, backend):
    logits = drawn(shape, dtype)
    for target in (RNG.random(shape).astype(dtype), (RNG.random(shape) < 0.3).astype(np.int64)):
        for options in all_options(shape) if logits.size < 1000 else ({}, {"reduction": "none"}):
            check(logits, target, options, backend)
        check(logits, target, {"grad_output": RNG.standard_normal(shape)}, backend)
        check(logits, target, {"grad_output": 3, "reduction": "sum"}, backend)


@pytest.mark.parametrize("target_dtype", [*FLOATS, *INTEGERS], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_pair_of_dtypes(dtype, target_dtype, backend):
    target = (RNG.random(700) < 0.5).astype(target_dtype)
    for swapped in (target, target.byteswap().view(target.dtype.newbyteorder())):
        check(drawn(700, dtype), swapped if target.dtype.kind != "V" else target, {}, backend)


def test_as_pytorch(backend):
    torch = pytest.importorskip("torch")
    function = torch.nn.functional.binary_cross_entropy_with_logits
    edges = [1e4, -1e4, 700.0, -700.0, 40.0, -40.0, 1e-300, 0.0, -0.0]
    logits = np.concatenate([np.array(edges), drawn(55, np.float64)]).reshape(16, 4)
    for options in all_options(logits.shape):
        target = RNG.random(logits.shape)
        eps = options.pop("label_smoothing")
        x = torch.tensor(logits, requires_grad=True)
        smooth = torch.tensor(target * (1 - eps) + eps / 2)
        theirs = {
            name: torch.tensor(value) if name != "reduction" else value
            for name, value in options.items()
        }
        expected = function(x, smooth, **theirs)
        expected.sum().backward()
        loss, grad = both_of(logits, target, label_smoothing=eps, backend=backend, **options)
        np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_infinities_and_nan_as_pytorch_where_it_has_a_number(backend):
    """PyTorch has 0 * inf = NaN in the loss where a side without mass is infinite; here it is 0."""
    torch = pytest.importorskip("torch")
    logits = np.repeat([INF, -INF, NAN], 3)
    target = np.tile([0.0, 0.5, 1.0], 3)
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        x, torch.tensor(target), reduction="none"
    )
    theirs.sum().backward()
    for dtype in FLOATS:
        loss, grad = both_of(
            logits.astype(dtype), target.astype(dtype), reduction="none", backend=backend
        )
        np.testing.assert_array_equal(grad.astype(float), x.grad.numpy())
        np.testing.assert_array_equal(loss, [INF, INF, 0, 0, INF, INF, NAN, NAN, NAN])
        known = ~np.isnan(theirs.detach().numpy())
        np.testing.assert_array_equal(loss[known], theirs.detach().numpy()[known])
        assert np.isnan(loss_of(logits.astype(dtype), target, backend=backend))
    assert loss_of([INF, 1.0], [0, 1], backend=backend) == INF


def test_no_cancellation_at_large_logits(backend):
    x = np.array([20.0, 50.0, 80.0], np.float32)
    loss, grad = both_of(x, [1, 1, 1], reduction="none", backend=backend)
    exact = np.exp(-x.astype(float))
    np.testing.assert_allclose(loss, exact, rtol=3e-7)
    np.testing.assert_allclose(grad, -exact, rtol=3e-7)
    _, grad = both_of(-x, [0, 0, 0], reduction="none", backend=backend)
    np.testing.assert_allclose(grad, exact, rtol=3e-7)
    loss, grad = both_of([0.0, -0.0], [1, 1], backend=backend)
    assert loss == np.log(2)
    np.testing.assert_array_equal(grad, [-0.25, -0.25])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_classes(dtype, backend):
    x, labels = drawn(999, dtype, 30), RNG.integers(0, 2, 999)
    two = np.stack([np.zeros_like(x), x], axis=1)
    loss, grad = both_of(x, labels, backend=backend)
    expected, expected_grad = fx.cross_entropy_and_grad(two, labels, backend=backend)
    epsilon = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected, rtol=2 * epsilon)
    # the softmax of two classes has p - 1, which cancels
    np.testing.assert_allclose(grad, expected_grad[:, 1], rtol=0, atol=2 * epsilon / 999)


def test_empty(backend):
    empty = np.zeros((0, 3), np.float32)
    loss, grad = both_of(empty, empty, backend=backend)
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert loss_of(empty, empty, reduction="sum", backend=backend) == 0
    assert loss_of(empty, empty, reduction="none", backend=backend).shape == (0, 3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_without_a_copy(name, dtype, backend):
    layout = LAYOUTS[name]
    shape = (6, 5, 7)
    logits, target = drawn(shape, dtype), RNG.random(shape).astype(np.float32)
    options = {"pos_weight": RNG.random(7), "weight": RNG.random((6, 1, 1))}
    given, given_target = layout(logits, 1), layout(target, 1)
    # a broadcast view repeats some of the numbers
    logits, target = given.astype(dtype, order="C"), given_target.astype(np.float32, order="C")
    call = BinaryCall.build(
        *(given, given_target),
        **(options | {"label_smoothing": 0.1, "reduction": "mean", "num_threads": 1}),
    )
    problem, _ = call.problem(1.0, None, None, None)
    if given.dtype.isnative:
        assert np.may_share_memory(problem.logits, given)
        assert np.may_share_memory(problem.target, given_target)
    for reduction in ("none", "mean"):
        expected = both_of(logits, target, reduction=reduction, backend=backend, **options)
        loss, grad = both_of(given, given_target, reduction=reduction, backend=backend, **options)
        assert same_bits(grad, expected[1])
        if reduction == "none":
            assert same_bits(loss, expected[0])
        else:  # elements are added up in the order of memory
            np.testing.assert_allclose(loss, expected[0], rtol=4 * np.finfo(loss.dtype).eps)
        out = layout(np.zeros(shape, dtype), 1)
        if out.flags.writeable and out.dtype.isnative:
            assert both_of(given, given_target, backend=backend, out=out)[1] is out
            assert same_bits(out, both_of(logits, target, backend=backend)[1])


def test_dimensions_are_merged_together():
    logits, target = np.zeros((6, 5, 7), order="F"), np.zeros((6, 5, 7), np.int8, order="F")
    options = {"label_smoothing": 0.0, "reduction": "sum", "num_threads": 1, "weight": None}
    call = BinaryCall.build(logits, target, pos_weight=None, **options)
    assert call.problem(1.0, None, None, None)[0].logits.shape == (210,)
    call = BinaryCall.build(logits, target, pos_weight=np.ones(7), **options)
    assert call.problem(1.0, None, None, None)[0].logits.shape == (7, 30)
    many = np.zeros((2,) * 12)[::1, ::-1, ::1, ::-1, ::1, ::-1, ::1, ::-1]
    assert loss_of(many, many) == pytest.approx(np.log(2))


@pytest.mark.parametrize("dtype", FLOATS)
def test_in_place_and_in_a_buffer(dtype, backend):
    logits, target = drawn((40, 500), dtype), RNG.random((40, 500)) < 0.5
    for options in ({}, {"weight": RNG.random(500), "reduction": "none"}):
        expected = both_of(logits, target, backend=backend, **options)
        for out in (logits.copy(), np.full_like(logits, NAN)):
            x = out if not np.isnan(out.astype(float)).any() else logits
            loss, grad = both_of(x, target, backend=backend, out=out, **options)
            assert grad is out
            assert same_bits(loss, expected[0])
            assert same_bits(grad, expected[1])


def variants(dtype):
    """Calls that take every way through a kernel."""
    for shape in ((50_000,), (300, 170)):
        logits, pos_weight = drawn(shape, dtype), RNG.random(shape[-1])
        for target in (RNG.random(shape).astype(np.float32), RNG.integers(0, 2, shape, np.int8)):
            for options in (
                {},
                {"reduction": "none", "grad_output": RNG.standard_normal(shape)},
                {"pos_weight": pos_weight, "weight": RNG.random(shape), "label_smoothing": 0.1},
            ):
                yield logits, target, options
                yield logits.T, target.T, options if "pos_weight" not in options else {}


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits_for_any_number_of_threads(dtype, backend):
    for logits, target, options in variants(dtype):
        options = {k: v.T if k == "grad_output" and v.shape != logits.shape else v
                   for k, v in options.items()}  # fmt: skip
        first, *others = (
            both_of(logits, target, backend=backend, num_threads=n, **options) for n in (1, 2, 5)
        )
        for other in others:
            assert same_bits(first[0], other[0])
            assert same_bits(first[1], other[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_compiled_backends_give_the_same_bits(dtype, avx2):
    for name in ("cython", "numba"):
        if (reason := fx.backends()[name]) is not None:
            pytest.skip(f"{name}: {reason}")
    from fastxent.backends import _kernels

    if not avx2 or _kernels.level() == "baseline":
        pytest.skip("without a fused multiply-add the two round differently")
    for logits, target, options in variants(dtype):
        options = {k: v.T if k == "grad_output" and v.shape != logits.shape else v
                   for k, v in options.items()}  # fmt: skip
        one, other = (both_of(logits, target, backend=b, **options) for b in ("cython", "numba"))
        assert same_bits(one[0], other[0])
        assert same_bits(one[1], other[1])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_bits_of_half_precision(kind, backend):
    """What adapters hand over: uint16 arrays that say what they hold."""
    dtype = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    logits, target = drawn(300, dtype), RNG.random(300).astype(dtype)
    options = {"weight": None, "pos_weight": None, "label_smoothing": 0.0, "num_threads": 1}
    call = BinaryCall.build(
        *(logits.view(np.uint16), target.view(np.uint16)),
        **(options | {"reduction": "mean", "storage": kind}),
    )
    loss, grad = call.run(load(backend), wants_grad=True)
    expected = both_of(logits, target, backend=backend)
    assert same_bits(loss, expected[0])
    assert same_bits(grad.view(dtype), expected[1])


@pytest.mark.parametrize("dtype", INTEGERS[1:], ids=str)
def test_integers_other_than_0_and_1(dtype, backend):
    target = np.zeros((300, 70), dtype)
    target[250, 69] = 2 if dtype.kind == "u" else -1
    logits = drawn(target.shape, np.float32)
    given = logits.copy()
    text = rf"target\[250, 69\] is {target[250, 69]}: integer targets are 0 or 1"
    for call in (loss_of, both_of):
        with pytest.raises(fx.LabelError, match=text):
            call(logits, target, backend=backend)
    with pytest.raises(fx.LabelError, match=text):
        both_of(logits, target, backend=backend, out=logits)
    assert same_bits(logits, given)
    with pytest.raises(fx.LabelError, match="target is 7"):
        loss_of(0.5, 7, backend=backend)


X = np.zeros((4, 3), np.float32)

BAD = {
    "integer logits": ((np.zeros(3, int), [0, 0, 0]), {}, fx.DTypeError, "astype"),
    "complex target": ((X, X + 0j), {}, fx.DTypeError, "complex"),
    "shape of the target": ((X, X[0]), {}, fx.ShapeError, r"\(4, 3\).*\(3,\)"),
    "shape of weight": ((X, X), {"weight": [1, 2]}, fx.ShapeError, "weight .*broadcast"),
    "larger weight": ((X, X), {"weight": np.ones((2, 4, 3))}, fx.ShapeError, "broadcast"),
    "shape of pos_weight": ((X, X), {"pos_weight": np.ones(4)}, fx.ShapeError, "pos_weight"),
    "negative weight": ((X, X), {"weight": [1, 1, -1]}, fx.OptionError, r"weight\[2\] is -1"),
    "infinite pos_weight": ((X, X), {"pos_weight": 1e39}, fx.OptionError, r"is 1e\+39: .*float32"),
    "NaN weight": ((X, X), {"weight": NAN}, fx.OptionError, "weight is nan"),
    "text": ((X, X), {"weight": "heavy"}, fx.DTypeError, "weight"),
    "smoothing": ((X, X), {"label_smoothing": 1.5}, fx.OptionError, "label_smoothing"),
    "reduction": ((X, X), {"reduction": "average"}, fx.OptionError, "'mean'"),
    "threads": ((X, X), {"num_threads": 0}, fx.OptionError, "num_threads"),
    "backend": ((X, X), {"backend": "torch"}, fx.OptionError, "backend"),
    "grad_output": ((X, X), {"grad_output": np.ones(3)}, fx.ShapeError, "grad_output"),
    "shape of out": ((X, X), {"out": X[0].copy()}, fx.ShapeError, "out"),
    "dtype of out": ((X, X), {"out": np.zeros((4, 3))}, fx.DTypeError, "out"),
    "out is the target": ((X.copy(), X), {"out": X}, fx.OutputError, "target"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    arguments, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        both_of(*arguments, **options)


def test_out_may_not_be_a_factor():
    weight = np.ones((4, 3), np.float32)
    for name in ("weight", "pos_weight", "grad_output"):
        with pytest.raises(fx.OutputError, match=name):
            both_of(X, X.copy(), out=weight, **{name: weight})


def test_a_long_sum_keeps_its_digits(backend):
    """A float32 accumulator stops at 2^24 losses of 1."""
    logits = np.full(2**22 + 3, np.float32(0.5))
    exact = np.log1p(np.exp(0.5))
    loss = loss_of(logits, np.zeros_like(logits, np.uint8), reduction="sum", backend=backend)
    np.testing.assert_allclose(loss, exact * logits.size, rtol=3e-7)
