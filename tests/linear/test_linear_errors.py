"""What is wrong is said before anything is written."""

import numpy as np
import pytest

import fastxent as fx

N, D, C = 4, 3, 5
HIDDEN, WEIGHTS, TARGET = np.ones((N, D)), np.ones((C, D)), np.array([0, 1, 2, 3])
GRADS = fx.LinearGrads(np.full((N, D), 7.0), np.full((C, D), 7.0), None)


def shared():
    memory = np.ones(N * D + C * D)
    return memory[: N * D].reshape(N, D), memory[3 : 3 + C * D].reshape(C, D)


ERRORS = {
    "features": (
        {"hidden": np.ones((N, D + 1))},
        fx.ShapeError,
        r"hidden of shape \(4, 4\) has 4 features along axis 1 and linear_weight of shape "
        r"\(5, 3\) has 3",
    ),
    "transposed": ({"linear_weight": WEIGHTS.T}, fx.ShapeError, r"pass linear_weight\.T"),
    "vector": ({"linear_weight": np.ones(D)}, fx.ShapeError, r"needs shape \(C, 3\)"),
    "no class": ({"linear_weight": np.ones((0, D))}, fx.ShapeError, "has no class"),
    "scalar": ({"hidden": np.float64(1)}, fx.ShapeError, "hidden is a scalar"),
    "integers": ({"hidden": HIDDEN.astype(int)}, fx.DTypeError, "hidden has dtype int64"),
    "half of nothing": (
        {"linear_weight": WEIGHTS.astype(complex)},
        fx.DTypeError,
        "linear_weight has dtype complex128",
    ),
    "bias": ({"linear_bias": np.ones(C + 1)}, fx.ShapeError, r"linear_bias needs shape \(5,\)"),
    "label": ({"target": TARGET + 2}, fx.LabelError, r"target\[3\] is 5"),
    "target": ({"target": TARGET[:3]}, fx.ShapeError, r"needs shape \(4,\)"),
    "axis": ({"axis": 2}, fx.ShapeError, "axis 2 is out of range for hidden"),
    "budget of nothing": ({"memory_budget": 0}, fx.OptionError, "above 0, got 0"),
    "negative budget": ({"memory_budget": -1}, fx.OptionError, "above 0, got -1"),
    "budget of NaN": ({"memory_budget": float("nan")}, fx.OptionError, "above 0, got nan"),
    "no budget": ({"memory_budget": "1 GB"}, fx.DTypeError, "must be one real number"),
    "small budget": ({"memory_budget": 100}, fx.OptionError, r"need at least \d+ bytes"),
    "filter": ({"grad_filter": -1.0}, fx.OptionError, "grad_filter must be finite and not neg"),
    "filter of NaN": ({"grad_filter": float("nan")}, fx.OptionError, "grad_filter must be finite"),
    "names": ({"grads": ("weight",)}, fx.OptionError, r"grads\[0\] must be one of 'hidden'"),
    "one name": ({"grads": "hidden"}, fx.OptionError, "not one string"),
    "twice": ({"grads": ("hidden", "hidden")}, fx.OptionError, "names 'hidden' twice"),
    "no names": ({"grads": 3}, fx.DTypeError, "iterable of names"),
    "out": ({"out": GRADS.hidden}, fx.DTypeError, "out must be a LinearGrads"),
    "out of another shape": (
        {"out": fx.LinearGrads(None, np.ones((D, C)))},
        fx.ShapeError,
        r"out\.linear_weight needs shape \(5, 3\)",
    ),
    "out of another dtype": (
        {"out": fx.LinearGrads(HIDDEN.astype("f4"))},
        fx.DTypeError,
        r"out\.hidden needs dtype float64",
    ),
    "declined": (
        {"out": GRADS, "grads": ("linear_weight",)},
        fx.OptionError,
        r"out\.hidden is memory for a gradient, but grads does not name it",
    ),
    "out without a bias": (
        {"out": fx.LinearGrads(None, None, np.ones(C))},
        fx.OptionError,
        "there is none",
    ),
    "over the weights": (
        {"out": fx.LinearGrads(None, WEIGHTS)},
        fx.OutputError,
        r"out\.linear_weight shares memory with linear_weight",
    ),
    "over each other": (
        {"out": fx.LinearGrads(*shared())},
        fx.OutputError,
        r"out\.linear_weight shares memory with out\.hidden",
    ),
    "partly over hidden": (
        {"out": fx.LinearGrads(HIDDEN[::-1])},
        fx.OutputError,
        r"out\.hidden overlaps hidden",
    ),
}


@pytest.mark.parametrize(("changed", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_what_is_wrong(changed, error, message):
    for buffer in GRADS[:2]:
        buffer.fill(7)
    given = {"hidden": HIDDEN, "linear_weight": WEIGHTS, "target": TARGET}
    fits = {"axis", "target", "memory_budget", "grad_filter"}
    out = GRADS if not changed.keys() - fits else None
    with pytest.raises(error, match=message):
        fx.linear_cross_entropy_and_grad(**{**given, "out": out, **changed})
    assert all(np.all(buffer == 7) for buffer in GRADS[:2])
    assert np.all(HIDDEN == 1)
    assert np.all(WEIGHTS == 1)


def test_arrays_of_a_library_come_back_as_its_arrays():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    hidden, weights = torch.randn(N, D), torch.randn(C, D).bfloat16()
    out = fx.LinearGrads(torch.empty(N, D), torch.empty(C, D).bfloat16(), None)
    loss, grads, aux = fx.linear_cross_entropy_and_grad(
        hidden, weights, torch.tensor(TARGET), aux=("lse",), out=out
    )
    assert grads.hidden is out.hidden
    assert grads.linear_weight is out.linear_weight
    assert isinstance(loss, torch.Tensor)
    assert isinstance(aux.lse, torch.Tensor)
    logits = (hidden @ weights.float().T).requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGET))
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.allclose(grads.hidden, logits.grad @ weights.float(), atol=1e-7)
