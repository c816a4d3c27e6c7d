"""PyTorch's cross-entropy to the letter, in float64, over every combination of its options.

Where fastxent differs, docs/design.md says so, and a test here shows both sides. One test runs a
whole product of options, because one call takes less time than what pytest needs for one test.
"""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is the peer whose semantics are checked")
functional = torch.nn.functional

CLASSES = 5
# Shapes of the rows of logits of rank 1 to 6: the classes are axis 1, or 0 of rank 1.
LEADING = {1: (), 2: (7,), 3: (3, 4), 4: (2, 3, 2), 5: (2, 1, 3, 2), 6: (2, 2, 1, 3, 2)}
WEIGHTS = {
    "none": None,
    "positive": np.array([0.5, 2.0, 1.25, 3.0, 0.75]),
    "some zero": np.array([0.0, 2.0, 0.0, 3.0, 0.75]),
}
SMOOTHING = (0.0, 0.1, 1.0)
REDUCTIONS = ("mean", "sum", "none")
IGNORE_INDEX = (-100, 2, CLASSES, -1)  # one of the classes too
LABELS = ("all live", "some ignored", "all ignored", "no rows")


@pytest.fixture(scope="module", autouse=True)
def one_thread_of_torch():
    """More would wait for each other: the arrays are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def leading_of(rank, labels):
    return (0, *LEADING[rank][1:]) if labels == "no rows" else LEADING[rank]


def class_axis(rank):
    return min(1, rank - 1)


def logits_of(rng, leading):
    rows = 4 * rng.standard_normal((*leading, CLASSES))
    return np.ascontiguousarray(np.moveaxis(rows, -1, class_axis(len(leading) + 1)))


def upstream_of(rng, reduction, leading):
    return rng.standard_normal(leading) if reduction == "none" else np.float64(1.7)


def by_torch(logits, target, upstream, weight, **options):
    """Loss, gradient, and gradient with respect to probabilities."""
    x = torch.tensor(logits, requires_grad=True)
    soft = np.asarray(target).dtype.kind == "f"
    q = torch.tensor(target, requires_grad=soft)
    w = None if weight is None else torch.tensor(weight)
    loss = functional.cross_entropy(x, q, weight=w, **options)
    loss.backward(torch.tensor(upstream))
    return loss.detach().numpy(), x.grad.numpy(), q.grad.numpy() if soft else None


def assert_same(results, expected, message):
    for name, result, truth in zip(
        ("loss", "gradient", "target_grad"), results, expected, strict=False
    ):
        assert np.shape(result) == truth.shape, f"{name}: {message}"
        assert_allclose(result, truth, err_msg=f"{name}: {message}", **CLOSE)


def thinned(product, backend):
    """All combinations; of Numba, which has the same door, one in five."""
    return itertools.islice(product, 0, None, 5 if backend == "numba" else 1)


# Every combination ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", LEADING)
def test_class_indices(rank, backend):
    rng = np.random.default_rng(rank)
    product = itertools.product(LABELS, WEIGHTS, SMOOTHING, IGNORE_INDEX, REDUCTIONS)
    for labels, weight, smoothing, ignore_index, reduction in thinned(product, backend):
        if labels == "no rows" and rank == 1:
            continue
        leading = leading_of(rank, labels)
        logits = logits_of(rng, leading)
        live = [k for k in range(CLASSES) if k != ignore_index]
        target = rng.choice(live, leading)
        if labels == "some ignored":
            target = np.where(rng.random(leading) < 0.4, ignore_index, target)
        elif labels == "all ignored":
            target = np.full(leading, ignore_index)
        target = np.asarray(target, np.int64)
        upstream = upstream_of(rng, reduction, leading)
        options = {"label_smoothing": smoothing, "ignore_index": ignore_index}
        options["reduction"] = reduction
        message = f"{labels}, weight {weight}, {options}"
        w = WEIGHTS[weight]

        expected = by_torch(logits, target, upstream, w, **options)
        results = fx.cross_entropy_and_grad(
            logits,
            target,
            weight=w,
            grad_output=upstream,
            axis=class_axis(rank),
            backend=backend,
            **options,
        )
        counted = target[target != ignore_index]
        mass = float(counted.size if w is None else w[counted].sum())
        if reduction == "mean" and mass == 0:
            # By the contract the gradient of a mean over nothing is 0. PyTorch's is 0 as well
            # where nothing is left; where rows are left that weigh 0 it is NaN.
            assert np.isnan(expected[0]), message
            assert np.isnan(results[0]), message
            assert not np.any(results[1]), message
            assert not np.any(expected[1]) or (counted.size and np.isnan(expected[1]).any())
        else:
            assert_same(results, expected, message)


@pytest.mark.parametrize("rank", LEADING)
def test_probabilities(rank, backend):
    rng = np.random.default_rng(rank)
    kinds = ("normalised", "unnormalised", "one-hot", "no rows")
    product = itertools.product(kinds, WEIGHTS, SMOOTHING, (-100, -1), REDUCTIONS)
    for kind, weight, smoothing, ignore_index, reduction in thinned(product, backend):
        if kind == "no rows" and rank == 1:
            continue
        leading = leading_of(rank, kind)
        logits = logits_of(rng, leading)
        rows = rng.uniform(0, 2, (*leading, CLASSES))
        if kind == "normalised":
            rows /= rows.sum(axis=-1, keepdims=True)
        elif kind == "one-hot":
            rows = np.eye(CLASSES)[rng.integers(0, CLASSES, leading)]
        target = np.ascontiguousarray(np.moveaxis(rows, -1, class_axis(rank)))
        upstream = upstream_of(rng, reduction, leading)
        options = {"label_smoothing": smoothing, "ignore_index": ignore_index}
        options["reduction"] = reduction
        message = f"{kind}, weight {weight}, {options}"

        expected = by_torch(logits, target, upstream, WEIGHTS[weight], **options)
        loss, grad, aux = fx.cross_entropy_and_grad(
            logits,
            target,
            weight=WEIGHTS[weight],
            grad_output=upstream,
            axis=class_axis(rank),
            aux=("target_grad",),
            backend=backend,
            **options,
        )
        if kind == "no rows" and reduction == "mean":
            assert np.isnan(loss), message
            assert np.isnan(expected[0]), message
            assert grad.shape == expected[1].shape, message
        else:
            assert_same((loss, grad, aux.target_grad), expected, message)


@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
def test_scale_cap_and_z_loss_have_the_gradient_of_their_formulas(kind, backend):
    rng = np.random.default_rng(0)
    leading = (6, 3)
    product = itertools.product(
        (1.0, 0.7), (None, 5.0), (0.0, 1e-2), WEIGHTS, (0.0, 0.1), REDUCTIONS
    )
    for scale, cap, z_loss, weight, smoothing, reduction in thinned(product, backend):
        w = WEIGHTS[weight]
        logits = logits_of(rng, leading)
        if kind == "probabilities":
            target = rng.uniform(0, 2, logits.shape)
            live = np.ones(leading, bool)
            denominator = live.size
        else:
            target = rng.integers(0, CLASSES, leading)
            target[::2, 0] = -100
            live = target != -100
            denominator = live.sum() if w is None else w[target[live]].sum()
        x = torch.tensor(logits, requires_grad=True)
        z = scale * x
        if cap is not None:
            z = cap * torch.tanh(z / cap)
        losses = functional.cross_entropy(
            z,
            torch.tensor(target),
            weight=None if w is None else torch.tensor(w),
            label_smoothing=smoothing,
            reduction=reduction,
        )
        extra = torch.where(torch.tensor(live), z_loss * torch.logsumexp(z, dim=1) ** 2, 0.0)
        if reduction == "sum":
            extra = extra.sum()
        elif reduction == "mean":
            extra = extra.sum() / denominator
        total = losses + extra
        upstream = upstream_of(rng, reduction, leading)
        total.backward(torch.tensor(upstream))
        options = {"logit_scale": scale, "softcap": cap, "z_loss": z_loss, "reduction": reduction}
        results = fx.cross_entropy_and_grad(
            logits,
            target,
            weight=w,
            label_smoothing=smoothing,
            grad_output=upstream,
            axis=1,
            backend=backend,
            **options,
        )
        message = f"{kind}, weight {weight}, smoothing {smoothing}, {options}"
        assert_same(results, (total.detach().numpy(), x.grad.numpy()), message)


# Rows without a softmax -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
def test_rows_without_a_softmax_are_nan_as_in_pytorch(kind, backend):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((6, CLASSES))
    logits[0, 1] = np.nan
    logits[2, 3] = np.inf
    logits[4] = -np.inf
    target = rng.integers(0, CLASSES, 6)
    if kind == "probabilities":
        target = rng.uniform(0.5, 1, (6, CLASSES))
    for smoothing in (0.0, 0.1):
        options = {"label_smoothing": smoothing, "reduction": "none"}
        results = fx.cross_entropy_and_grad(logits, target, backend=backend, **options)
        expected = by_torch(logits, target, np.ones(6), None, **options)
        assert_array_equal(np.isnan(results[0]), [True, False] * 3)
        assert_same(results[:1], expected[:1], f"smoothing {smoothing}")
        assert_array_equal(np.isnan(results[1]).all(axis=1), [True, False] * 3)
        assert_allclose(results[1][1::2], expected[1][1::2], **CLOSE)


def test_a_masked_class_without_mass_of_class_indices(backend):
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((6, CLASSES))
    logits[:, 4] = -np.inf
    target = np.array([0, 1, 2, 3, 4, 0])
    results = fx.cross_entropy_and_grad(logits, target, reduction="none", backend=backend)
    expected = by_torch(logits, target, np.ones(6), None, reduction="none")
    assert np.isposinf(results[0][4])
    assert_same(results, expected, "a class at -inf")


# Where fastxent differs, by docs/design.md -----------------------------------------------------


def test_difference_a_masked_class_without_mass_costs_nothing(backend):
    logits = np.array([[1.0, -np.inf, 2.0]])
    target = np.array([[0.25, 0.0, 0.75]])
    assert np.isnan(by_torch(logits, target, np.float64(1), None)[0])
    p = np.exp([1.0, -np.inf, 2.0]) / np.exp([1.0, 2.0]).sum()
    loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
    assert_allclose(loss, -0.25 * np.log(p[0]) - 0.75 * np.log(p[2]), **CLOSE)
    assert_allclose(grad, [p - target[0]], **CLOSE)


def test_difference_ignored_rows_are_never_read(backend):
    logits = np.array([[np.nan, np.inf, -np.inf], [1.0, 2.0, 0.5]])
    target = np.array([-100, 1])
    for smoothing in (0.0, 0.1):
        loss, grad = fx.cross_entropy_and_grad(
            logits, target, label_smoothing=smoothing, backend=backend
        )
        alone = by_torch(logits[1:], target[1:], np.float64(1), None, label_smoothing=smoothing)
        assert_allclose(loss, alone[0], **CLOSE)
        assert_allclose(grad, [[0, 0, 0], *alone[1]], **CLOSE)


def test_difference_options_out_of_range_are_errors(backend):
    logits, target = np.zeros((2, 3)), np.array([0, 1])
    for smoothing in (-0.1, 1.5):
        with pytest.raises(fx.OptionError, match="label_smoothing"):
            fx.cross_entropy(logits, target, label_smoothing=smoothing, backend=backend)
    with pytest.raises(fx.OptionError, match="weight"):
        fx.cross_entropy(logits, target, weight=[1.0, -1.0, 1.0], backend=backend)


def test_difference_a_mean_over_nothing_can_be_zero(backend):
    logits, target = np.zeros((2, 3)), np.array([-100, -100])
    loss, grad = fx.cross_entropy_and_grad(logits, target, all_ignored="zero", backend=backend)
    assert loss == 0
    assert not grad.any()


def test_both_refuse_an_ignored_class_of_probabilities(backend):
    logits, target = np.zeros((2, 3)), np.full((2, 3), 1 / 3)
    with pytest.raises(RuntimeError, match="ignore_index"):
        by_torch(logits, target, np.float64(1), None, ignore_index=1)
    with pytest.raises(fx.OptionError, match="ignore_index"):
        fx.cross_entropy(logits, target, ignore_index=1, backend=backend)


def test_both_refuse_a_label_outside_of_the_classes(backend):
    logits = np.zeros((2, 3))
    for label in (3, -1):
        with pytest.raises(IndexError):
            by_torch(logits, np.array([0, label]), np.float64(1), None)
        with pytest.raises(IndexError, match=str(label)):
            fx.cross_entropy(logits, np.array([0, label]), backend=backend)


# ONNX: no label is special unless the node says so ---------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_onnx_without_ignore_index(reduction, weight, backend):
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((3, CLASSES, 4))
    labels = rng.integers(0, CLASSES, (3, 4))
    w = np.ones(CLASSES) if WEIGHTS[weight] is None else WEIGHTS[weight]
    # SoftmaxCrossEntropyLoss-13: gathered weights gw; mean: sum(gw * l) / sum(gw)
    log_prob = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    picked = np.take_along_axis(log_prob, labels[:, None], axis=1)[:, 0]
    gw = w[labels]
    expected = -gw * picked
    onehot = np.moveaxis(np.eye(CLASSES)[labels], -1, 1)
    expected_grad = (np.exp(log_prob) - onehot) * gw[:, None]
    if reduction == "mean":
        expected, expected_grad = expected.sum() / gw.sum(), expected_grad / gw.sum()
    elif reduction == "sum":
        expected = expected.sum()
    loss, grad, aux = fx.cross_entropy_and_grad(
        scores,
        labels,
        weight=WEIGHTS[weight],
        ignore_index=None,
        reduction=reduction,
        axis=1,
        aux=("log_prob",),
        backend=backend,
    )
    assert_allclose(loss, expected, **CLOSE)
    assert_allclose(grad, expected_grad, **CLOSE)
    assert_allclose(aux.log_prob, picked, **CLOSE)


def test_onnx_minus_100_is_no_label_without_ignore_index(backend):
    scores, labels = np.zeros((2, 3)), np.array([1, -100])
    assert fx.cross_entropy(scores, labels, backend=backend) == pytest.approx(np.log(3))
    with pytest.raises(fx.LabelError, match="-100"):
        fx.cross_entropy(scores, labels, ignore_index=None, backend=backend)
