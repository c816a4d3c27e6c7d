"""The first rows may have their logits in the memory of the weights' gradient."""

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference
from fastxent.linear import chunks

N, D, C = 150, 64, 2500


@pytest.mark.parametrize(
    "options",
    [{}, {"sample_weight": np.linspace(0, 1, N), "z_loss": 0.1}, {"softcap": 3.0}],
    ids=["plain", "factors", "softcap"],
)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("dtype", ["float64", "float16"], ids=["direct", "half bias"])
def test_the_first_rows_give_the_same(options, soft, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    target = rng.random((N, C)) if soft else rng.integers(0, C, N)
    bias = rng.normal(size=C).astype(dtype)
    counts = []
    first_rows = chunks.Chunks._first_rows
    monkeypatch.setattr(
        chunks.Chunks, "_first_rows", lambda self, n: (counts.append(n), first_rows(self, n))[1]
    )
    loss, expected = reference.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias, **options
    )
    found, grads = fx.linear_cross_entropy_and_grad(
        *(hidden, weights, target),
        linear_bias=bias,
        memory_budget=900_000 + 250_000 * ("softcap" in options),
        **options,
    )
    assert counts == [D]
    assert found == pytest.approx(float(loss), rel=1e-13)
    for one, truth in zip(grads, expected, strict=True):
        eps = 2.0**-10 if one.dtype == np.float16 else 1e-14
        assert np.abs(one - truth).max() <= 16 * eps * np.abs(truth).max()
