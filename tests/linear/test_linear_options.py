"""Every option against the textbook in float64, over chunks of one row to all of them."""

import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx
from fastxent import reference

N, D, C = 37, 11, 53
ROWS = {"one row": 1, "five rows": 5, "all rows": N}
ROW = np.linspace(0.2, 1.8, N)

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "none, grad_output": {"reduction": "none", "grad_output": ROW[::-1]},
    "weight": {"weight": np.linspace(0, 2, C)},
    "smoothing": {"label_smoothing": 0.1, "weight": np.linspace(0.5, 2, C)},
    "z_loss": {"z_loss": 0.3},
    "softcap": {"softcap": 2.5, "logit_scale": 0.7},
    "sample_weight": {"sample_weight": ROW, "normalizer": 11.0},
    "ignored": {"ignore_index": 3, "sample_weight": ROW},
    "not ignored": {"ignore_index": None},
    "grad_output": {"grad_output": -2.5},
    "everything": {
        **{"weight": np.linspace(0.1, 2, C), "label_smoothing": 0.2, "sample_weight": ROW},
        **{"z_loss": 0.1, "softcap": 3.0, "logit_scale": 1.5, "grad_output": ROW},
    },
}
ASIDES = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")


def arrays(dtype="float64", kind="hard", bias=True, seed=0):
    rng = np.random.default_rng(seed)
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    target = rng.integers(0, C, N)
    target[4:9] = 3
    if kind == "soft":
        target = rng.random((N, C)) ** 4
    made = hidden.astype(dtype), weights.astype(dtype), target
    return made, rng.normal(size=C).astype(dtype) if bias else None


def budget_for(rows, *given, **options):
    """Bytes for a chunk of about so many rows."""
    return least_budget(*given, **options) + (rows - 1) * (C + 3 * D) * 8


def close(found, expected, dtype, name):
    expected = np.asarray(expected, float)
    error = np.abs(np.asarray(found, float) - expected).max(initial=0)
    # the error of a sum of D or C products in this dtype
    bound = 16 * np.finfo(dtype).eps * max(1.0, np.abs(expected).max(initial=0))
    assert error <= bound, f"{name}: {error:.2g} > {bound:.2g}"


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_is_that_of_the_textbook(options, kind, rows):
    given, bias = arrays(kind=kind)
    if kind == "soft" and "ignore_index" in options:
        options = {**options, "ignore_index": None}
    asides = ASIDES + ("target_grad",) * (kind == "soft")
    budget = budget_for(rows, *given, linear_bias=bias, aux=asides, **options)
    loss, grads, aux = fx.linear_cross_entropy_and_grad(
        *given, linear_bias=bias, aux=asides, memory_budget=budget, **options
    )
    expected, gradients = reference.linear_cross_entropy_and_grad(
        *given, linear_bias=bias, **options
    )
    close(loss, expected, "float64", "loss")
    for name in grads._fields:
        close(getattr(grads, name), getattr(gradients, name), "float64", name)
    truth = reference.linear_cross_entropy_aux(*given, linear_bias=bias, **options)
    for name in asides:
        close(getattr(aux, name), truth[name], "float64", name)
    forward = {name: one for name, one in options.items() if name != "grad_output"}
    alone, _ = fx.linear_cross_entropy(
        *given, linear_bias=bias, aux=("lse",), memory_budget=budget, **forward
    )
    close(alone, loss, "float64", "loss alone")  # its chunks are other ones


@pytest.mark.parametrize("grads", [(), ("hidden",), ("linear_weight",), ("linear_bias",)])
def test_declined_gradients_are_none_and_the_others_the_same(grads):
    given, bias = arrays()
    budget = budget_for(5, *given, linear_bias=bias)
    loss, every = fx.linear_cross_entropy_and_grad(*given, linear_bias=bias, memory_budget=budget)
    alone, some = fx.linear_cross_entropy_and_grad(
        *given, linear_bias=bias, memory_budget=budget, grads=grads
    )
    close(alone, loss, "float64", "loss")
    for name in every._fields:
        if name in grads:
            close(getattr(some, name), getattr(every, name), "float64", name)
        else:
            assert getattr(some, name) is None


@pytest.mark.parametrize("name", ["hidden", "linear_weight", "linear_bias"])
def test_gradients_are_differences_of_losses(name):
    given, bias = arrays()
    options = {**OPTIONS["everything"]}
    del options["grad_output"]
    named = dict(zip(("hidden", "linear_weight", "target"), given, strict=True), linear_bias=bias)
    _, grads = fx.linear_cross_entropy_and_grad(
        **named, **options, memory_budget=budget_for(5, **named, **options)
    )
    grad = getattr(grads, name)
    rng = np.random.default_rng(5)
    for _ in range(3):
        direction = rng.normal(size=grad.shape)
        step = 1e-6
        ends = [
            fx.linear_cross_entropy(**{**named, name: named[name] + s * direction}, **options)
            for s in (step, -step)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.vdot(grad, direction) == pytest.approx(slope, rel=1e-7, abs=1e-9)
