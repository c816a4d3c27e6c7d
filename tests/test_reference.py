"""The reference is the truth of all other tests, so it is tested by hand and by other means."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastxent import reference
from fastxent.cases import OPTION_CASES, Case
from fastxent.conformance import finite_difference_grad

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
LABELS = np.array([1, 0])
INF = np.inf
NAN = np.nan

# An upstream gradient cannot be seen in the loss; a mean over nothing has no finite loss.
DIFFERENTIABLE = [
    replace(case, rows=4, classes=5)
    for case in OPTION_CASES
    if case.labels != "all-ignored"
    and (case.grad_output, case.out, case.aux, case.layout) == ("none", "none", (), "C")
]


# By hand ------------------------------------------------------------------------------------


def test_softmax_by_hand() -> None:
    expected = [[0.659, 0.242, 0.099], [0.073, 0.487, 0.440]]
    assert_allclose(reference.softmax(A), expected, atol=5e-4)


@pytest.mark.parametrize("target", [Y, Y.astype(bool), LABELS, LABELS.astype(np.uint8)])
def test_loss_and_gradient_by_hand(target: np.ndarray) -> None:
    losses = reference.cross_entropy(A, target, reduction="none")
    assert_allclose(losses, [1.417, 2.620], atol=5e-4)
    loss, grad = reference.cross_entropy_and_grad(A, target)
    assert_allclose(loss, 2.019, atol=5e-4)
    assert_allclose(grad, [[0.330, -0.379, 0.049], [-0.464, 0.243, 0.220]], atol=6e-4)
    assert_allclose(grad, (reference.softmax(A) - Y) / 2, rtol=1e-14)


@pytest.mark.parametrize("label", [0, 2])
def test_one_row_of_logits(label: int) -> None:
    logits = np.array([2.0, 1.0, -1.0])
    one_hot = np.eye(3)[label]
    sigma = np.exp(logits) / np.exp(logits).sum()
    for target in (label, one_hot):
        loss, grad = reference.cross_entropy_and_grad(logits, target)
        assert loss.shape == ()
        assert_allclose(loss, -np.log(sigma[label]), rtol=1e-14)
        assert_allclose(grad, sigma - one_hot, rtol=1e-14)


def test_weights_and_smoothing_by_hand() -> None:
    w, s, smoothing = np.array([0.5, 2.0, 3.0]), np.array([3.0, 0.25]), 0.3
    lp = np.log(reference.softmax(A))
    hard = -w[LABELS] * lp[[0, 1], LABELS]
    smooth = -(w * lp).sum(axis=1)
    expected = (s * ((1 - smoothing) * hard + smoothing / 3 * smooth)).sum()
    options: dict[str, Any] = {"weight": w, "sample_weight": s, "label_smoothing": smoothing}
    for target, denominator in ((LABELS, (w[LABELS] * s).sum()), (Y, s.sum())):
        loss = reference.cross_entropy(A, target, **options)
        assert_allclose(loss, expected / denominator, rtol=1e-14)
        loss = reference.cross_entropy(A, target, **options, normalizer=5)
        assert_allclose(loss, expected / 5, rtol=1e-14)
        loss = reference.cross_entropy(A, target, **options, reduction="sum")
        assert_allclose(loss, expected, rtol=1e-14)


def test_grad_output_multiplies_the_gradient_only() -> None:
    loss, grad = reference.cross_entropy_and_grad(A, LABELS)
    for upstream in (-2.0, np.array([-2.0, 0.5])):
        scaled_loss, scaled = reference.cross_entropy_and_grad(A, LABELS, grad_output=upstream)
        assert scaled_loss == loss
        assert_allclose(scaled, np.reshape(upstream, (-1, 1)) * grad, rtol=1e-14)


# By other means -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_functions_are_those_of_scipy(axis: int) -> None:
    special = pytest.importorskip("scipy.special")
    x = 20 * np.random.default_rng(0).standard_normal((3, 4, 5))
    x[0, 0] = -1e4
    x[1, 2, 3] = -INF
    assert_allclose(reference.softmax(x, axis), special.softmax(x, axis), rtol=1e-13)
    assert_allclose(reference.log_softmax(x, axis), special.log_softmax(x, axis), rtol=1e-13)
    assert_allclose(reference.logsumexp(x, axis), special.logsumexp(x, axis), rtol=1e-13)


@pytest.mark.parametrize(
    ("row", "lse"),
    [([-INF, -INF], -INF), ([INF, 0.0], INF), ([NAN, 0.0], NAN), ([NAN, INF], NAN)],
)
def test_softmax_functions_of_special_rows(row: list[float], lse: float) -> None:
    x = np.array([row, [1.0, 1.0]])
    nan_row = [[NAN, NAN], [0.5, 0.5]]
    assert_array_equal(reference.logsumexp(x)[0], lse)
    assert_array_equal(reference.softmax(x), nan_row)
    assert_allclose(reference.log_softmax(x), np.log(nan_row), rtol=1e-15)
    special = pytest.importorskip("scipy.special")
    with np.errstate(invalid="ignore"):
        assert_array_equal(special.logsumexp(x, axis=1)[0], lse)
        assert_array_equal(special.softmax(x, axis=1), nan_row)
        # SciPy's log_softmax gives -inf for the finite entries beside a +inf.
        if not np.isposinf(x).any():
            assert_array_equal(np.isnan(special.log_softmax(x, axis=1)), np.isnan(nan_row))


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient_is_the_derivative_of_the_loss(case: Case) -> None:
    logits, target, options = case.arguments(np.float64)
    _, grad = reference.cross_entropy_and_grad(logits, target, **options)
    numeric = finite_difference_grad(
        lambda x: reference.cross_entropy(x, target, **options).sum(), logits, step=1e-5
    )
    assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8)


def test_scale_cap_and_z_loss_by_hand() -> None:
    scale, cap, z_loss = 0.7, 1.5, 0.25
    z = cap * np.tanh(scale * A / cap)
    lse = np.log(np.exp(z).sum(axis=1))
    losses = lse - z[[0, 1], LABELS] + z_loss * lse**2
    dz = (1 + 2 * z_loss * lse)[:, None] * np.exp(z - lse[:, None])
    dz[[0, 1], LABELS] -= 1
    options: dict[str, Any] = {"logit_scale": scale, "softcap": cap, "z_loss": z_loss}
    loss, grad = reference.cross_entropy_and_grad(A, LABELS, reduction="none", **options)
    assert_allclose(loss, losses, rtol=1e-14)
    assert_allclose(grad, dz * scale * (1 - (z / cap) ** 2), rtol=1e-13)
    # class weights do not weigh it, sample weights do, and the denominator is the one of the rest
    w, s = np.array([0.5, 2.0, 3.0]), np.array([3.0, 0.25])
    options |= {"weight": w, "sample_weight": s}
    weighted = s * (w[LABELS] * (lse - z[[0, 1], LABELS]) + z_loss * lse**2)
    loss = reference.cross_entropy(A, LABELS, **options)
    assert_allclose(loss, weighted.sum() / (s * w[LABELS]).sum(), rtol=1e-14)


def test_side_outputs_by_hand() -> None:
    lse = np.log(np.exp(A).sum(axis=1))
    log_p = A - lse[:, None]
    aux = reference.cross_entropy_aux(A, np.array([0, -100]), z_loss=0.5)
    assert "target_grad" not in aux
    expected: dict[str, Any] = {
        "lse": lse,
        "log_prob": log_p[:, 0],
        "argmax": [0, 1],
        "correct": [True, False],
        "entropy": -(np.exp(log_p) * log_p).sum(axis=1),
        "z_loss": 0.5 * lse**2,
    }
    for name, values in expected.items():
        values = np.where([True, False], values, -1 if name == "argmax" else 0)
        assert_allclose(aux[name], values, rtol=1e-14)

    q, w = np.array([[0.0, 2.0, 0.5], [0.25, 0.25, 0.0]]), np.array([0.5, 2.0, 3.0])
    options: dict[str, Any] = {"weight": w, "label_smoothing": 0.2, "grad_output": -2.0}
    aux = reference.cross_entropy_aux(A, q, **options)
    assert_allclose(aux["log_prob"], (q * log_p).sum(axis=1), rtol=1e-14)  # neither w nor smoothing
    assert_array_equal(aux["argmax"], [0, 1])
    assert_array_equal(aux["correct"], [False, False])  # the first of ties
    assert_allclose(aux["target_grad"], 2.0 / 2 * w * 0.8 * log_p, rtol=1e-14)


@pytest.mark.parametrize("case", [case for case in DIFFERENTIABLE if case.soft], ids=str)
def test_gradient_of_the_target_is_a_derivative(case: Case) -> None:
    logits, target, options = case.arguments(np.float64)
    target = target.astype(np.float64)
    aux = reference.cross_entropy_aux(logits, target, **options)
    numeric = finite_difference_grad(
        lambda q: reference.cross_entropy(logits, q, **options).sum(), target, step=1e-5
    )
    assert_allclose(aux["target_grad"], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": (0, 2)}, {"axis": None}], ids=str)
def test_jacobian_products_are_derivatives(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, upstream = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    for function, backward in (
        (reference.softmax, reference.softmax_backward),
        (reference.log_softmax, reference.log_softmax_backward),
    ):
        numeric = finite_difference_grad(
            lambda x, function=function: (upstream * function(x, **options)).sum(), x, step=1e-5
        )
        grad = backward(function(x, **options), upstream, **options)
        assert_allclose(grad, numeric, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("axis", [(0, 2), (2, 0), (-1,), (0, 1, 2), None])
def test_axes_are_those_of_scipy(axis: Any) -> None:
    special = pytest.importorskip("scipy.special")
    x = 20 * np.random.default_rng(0).standard_normal((3, 4, 5))
    assert_allclose(reference.softmax(x, axis), special.softmax(x, axis), rtol=1e-13)
    log_p = reference.log_softmax(x, axis)
    assert_allclose(log_p, special.log_softmax(x, axis), rtol=1e-13, atol=1e-15)
    assert_allclose(reference.logsumexp(x, axis), special.logsumexp(x, axis), rtol=1e-13)


def test_half_precision_counts_with_its_exact_values() -> None:
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((5, 7)).astype(np.float16), rng.random((5, 7)).astype(np.float16)
    results = reference.cross_entropy_and_grad(x, q)
    expected = reference.cross_entropy_and_grad(x.astype(np.float64), q.astype(np.float64))
    for one, other in zip(results, expected, strict=True):
        assert_array_equal(one, other)


def test_float32_is_computed_in_float32() -> None:
    case = Case(6, 70, "soft", weight="positive", label_smoothing=0.1, sample_weight=True)
    logits, target, options = case.arguments(np.float64)
    narrow = reference.cross_entropy_and_grad(logits, target, **options, dtype=np.float32)
    exact = reference.cross_entropy_and_grad(logits, target, **options)
    for one, other in zip(narrow, exact, strict=True):
        assert one.dtype == np.float32
        assert other.dtype == np.float64
        assert 0 < np.abs(one - other).max() < 1e-4


# At the edges -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[NAN, 0, 0], [INF, 0, 0], [-INF, -INF, -INF]])
@pytest.mark.parametrize("target", [LABELS, Y, np.zeros((2, 3))])
def test_a_row_without_a_softmax_is_nan_and_no_other_is(bad: list[float], target: Any) -> None:
    logits = np.array([bad, A[1]])
    losses, grad = reference.cross_entropy_and_grad(logits, target, reduction="none")
    whole, whole_grad = reference.cross_entropy_and_grad(A, target, reduction="none")
    assert_array_equal(np.isnan(losses), [True, False])
    assert np.isnan(grad[0]).all()
    assert losses[1] == whole[1]
    assert_array_equal(grad[1], whole_grad[1])


def test_nan_in_probabilities_is_a_nan_row() -> None:
    target = Y.copy()
    target[0, 2] = NAN
    losses, grad = reference.cross_entropy_and_grad(A, target, reduction="none")
    assert_array_equal(np.isnan(losses), [True, False])
    assert_array_equal(np.isnan(grad).all(axis=1), [True, False])


def test_minus_inf_logits() -> None:
    logits = np.array([[1.0, -INF, 2.0], [1.0, -INF, 2.0]])
    p = 1 / (1 + np.exp(1))
    losses, grad = reference.cross_entropy_and_grad(logits, [0, 1], reduction="none")
    assert_allclose(losses, [-np.log(p), INF])
    assert_allclose(grad, [[p - 1, 0, 1 - p], [p, -1, 1 - p]])
    losses, grad = reference.cross_entropy_and_grad(logits, Y[::-1], reduction="none")
    assert_allclose(losses, [-np.log(p), INF])
    assert_allclose(grad, [[p - 1, 0, 1 - p], [p, -1, 1 - p]])
    # A class of weight 0 has no mass, even under smoothing.
    options: dict[str, Any] = {"weight": np.array([1.0, 0.0, 1.0]), "label_smoothing": 0.5}
    assert np.isfinite(reference.cross_entropy(logits, [0, 1], **options))


def test_infinite_logits_under_a_cap() -> None:
    # -inf masks its class and stays -inf; +inf is as large as the cap lets it be.
    logits = np.array([[1.0, -INF, 2.0], [INF, 5.0, 0.0], [-INF, -INF, -INF], [NAN, 0.0, 0.0]])
    labels = np.array([0, 0, 0, 1])
    loss, grad = reference.cross_entropy_and_grad(logits, labels, softcap=4.0, reduction="none")
    capped = 4 * np.tanh(logits / 4)
    two = reference.cross_entropy(capped[:1, [0, 2]], labels[:1])
    assert_allclose(loss[0], two, rtol=1e-14)
    assert grad[0, 1] == 0
    assert_allclose(loss[1], reference.cross_entropy(capped[1:2], labels[1:2]), rtol=1e-14)
    assert grad[1, 0] == 0
    assert_array_equal(np.isnan(loss), [False, False, True, True])
    masked_label = reference.cross_entropy_and_grad(logits[:1], [1], softcap=4.0)
    assert masked_label[0] == INF
    assert np.isfinite(masked_label[1]).all()
    aux = reference.cross_entropy_aux(logits, labels, softcap=4.0)
    assert_array_equal(aux["argmax"], [2, 0, -1, -1])
    assert_array_equal(aux["lse"][2:], [-INF, NAN])


@pytest.mark.parametrize("ignore_index", [-100, 1, 255])
def test_ignored_rows_count_for_nothing_and_are_not_read(ignore_index: int) -> None:
    logits = np.array([[NAN, INF, -INF], A[1], A[0]])
    target = np.array([ignore_index, 0, 2])
    options: dict[str, Any] = {"label_smoothing": 0.1, "weight": np.array([1.0, 2.0, 3.0])}
    for reduction in ("none", "sum", "mean"):
        loss, grad = reference.cross_entropy_and_grad(
            logits, target, ignore_index=ignore_index, reduction=reduction, **options
        )
        kept, kept_grad = reference.cross_entropy_and_grad(
            logits[1:], target[1:], ignore_index=None, reduction=reduction, **options
        )
        assert_array_equal(loss, [0, *kept] if reduction == "none" else kept)
        assert_array_equal(grad, [[0, 0, 0], *kept_grad])


def test_ignoring_can_be_turned_off() -> None:
    losses = reference.cross_entropy(A, LABELS, ignore_index=1, reduction="none")
    assert_allclose(losses, [0, 2.620], atol=5e-4)
    losses = reference.cross_entropy(A, LABELS, ignore_index=None, reduction="none")
    assert_allclose(losses, [1.417, 2.620], atol=5e-4)


@pytest.mark.parametrize(
    ("logits", "target", "options"),
    [
        (A, [-100, -100], {}),
        (A, LABELS, {"weight": np.zeros(3)}),
        (A, LABELS, {"sample_weight": np.zeros(2)}),
        (A, Y, {"sample_weight": np.zeros(2)}),
        (np.zeros((0, 3)), np.zeros(0, int), {}),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}),
    ],
)
def test_a_mean_over_nothing(logits: Any, target: Any, options: dict[str, Any]) -> None:
    for all_ignored, expected in (("nan", NAN), ("zero", 0.0)):
        loss, grad = reference.cross_entropy_and_grad(
            logits, target, all_ignored=all_ignored, **options
        )
        assert_array_equal(loss, expected)
        assert_array_equal(grad, np.zeros_like(logits))
    assert reference.cross_entropy(logits, target, normalizer=3.0, **options) == 0
    assert reference.cross_entropy(logits, target, reduction="sum", **options) == 0


def test_soft_mean_counts_rows_without_their_class_weights() -> None:
    loss = reference.cross_entropy(A, Y, weight=np.zeros(3))
    assert loss == 0


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_and_leading_dimensions(axis: int) -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    q = rng.random((2, 3, 5))
    for target, moved in ((labels, labels), (q, np.moveaxis(q, -1, axis))):
        losses, grad = reference.cross_entropy_and_grad(
            np.moveaxis(rows, -1, axis), moved, reduction="none", axis=axis
        )
        flat = target.reshape(6, *target.shape[2:])
        expected = reference.cross_entropy_and_grad(rows.reshape(6, 5), flat, reduction="none")
        assert_array_equal(losses, expected[0].reshape(2, 3))
        assert_array_equal(grad, np.moveaxis(expected[1].reshape(2, 3, 5), -1, axis))
