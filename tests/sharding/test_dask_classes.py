"""fastxent.dask where blocks split the classes: statistics of shards, merged lazily."""

import numpy as np
import pytest

import fastxent as fx

dask = pytest.importorskip("dask", reason="dask is not installed: fastxent.dask needs it")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
fxd = pytest.importorskip("fastxent.dask")

REDUCTIONS = ("mean", "sum", "none")
CASES = {
    "plain": ((10, 7), (3, 4), -1, False, {}),
    "probabilities": ((10, 7), (3, 4), -1, True, {"label_smoothing": 0.1}),
    "weights": ((10, 7), (3, 2), -1, False, {"weight": np.arange(7.0), "label_smoothing": 0.1}),
    "image": ((4, 5, 6, 3), (2, 2, 3, 2), 1, False, {"z_loss": 0.1, "softcap": 5.0}),
    "sample_weight": ((10, 7), (4, 3), -1, False, {"sample_weight": np.linspace(0.1, 2, 10)}),
    "masked block": ((10, 7), (3, 4), -1, False, {}),
    "one row": ((7,), (3,), -1, False, {}),
}


def arrays(shape, axis, soft):
    rng = np.random.default_rng(1)
    logits = (3 * rng.normal(size=shape)).astype(np.float32)
    axis %= len(shape)
    rows = shape[:axis] + shape[axis + 1 :]
    if soft:
        return logits, np.moveaxis(rng.dirichlet(np.ones(shape[axis]), rows), -1, axis)
    target = rng.integers(0, shape[axis], rows)
    if target.size > 2:
        target.flat[2] = -100
    return logits, target


def can_merge(backend):
    """Whether a backend has the verbs of shards; if not, the test is skipped with its reason."""
    try:
        fx.partial_stats(np.zeros((1, 2)), [0], class_offset=0, num_classes=2, backend=backend)
    except fx.BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_equals_whole_rows(name, reduction):
    shape, chunks, axis, soft, options = CASES[name]
    logits, target = arrays(shape, axis, soft)
    if name == "masked block":
        logits[:, :4] = -np.inf
        target[target < 4] = 5
    options = options | {"axis": axis, "reduction": reduction}
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    blocks = da.from_array(logits, chunks=chunks)
    lazily = fxd.cross_entropy_and_grad(blocks, target, **options)
    assert (lazily[0].dtype, lazily[0].shape) == (expected[0].dtype, expected[0].shape)
    assert (lazily[1].dtype, lazily[1].chunks) == (expected[1].dtype, blocks.chunks)
    loss, grad = dask.compute(*lazily, scheduler="synchronous")
    assert type(loss) is type(expected[0])
    np.testing.assert_array_max_ulp(np.asarray(loss), np.asarray(expected[0]), 4)
    # p - t cancels: the error is that of p and t, which the row's factor makes small together
    np.testing.assert_allclose(grad, expected[1], rtol=0, atol=4e-7 * np.abs(expected[1]).max())


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("classes", [(1024, 1024, 952), (2048, 952), (1024, 0, 1976)])
def test_bits_where_blocks_begin_at_multiples_of_1024(backend, classes, soft):
    can_merge(backend)
    if backend == "numpy":
        pytest.skip("numpy adds up rows without blocks")
    logits, target = arrays((10, 3000), -1, soft)
    options = {"backend": backend, "reduction": "none", "label_smoothing": 0.1}
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    blocks = da.from_array(logits, chunks=(4, classes))
    results = fxd.cross_entropy_and_grad(blocks, target, **options)
    loss, grad = dask.compute(*results, scheduler="synchronous")
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


def test_aux():
    logits, target = arrays((10, 7), -1, False)
    names = ("lse", "log_prob", "argmax", "correct", "entropy")
    expected = fx.cross_entropy(logits, target, aux=names)[1]
    found = fxd.cross_entropy(da.from_array(logits, chunks=(4, 3)), target, aux=names)[1]
    for name in names:
        value = getattr(found, name).compute(scheduler="synchronous")
        right = getattr(expected, name)
        assert value.dtype == getattr(found, name).dtype == right.dtype
        np.testing.assert_allclose(value, right, rtol=1e-6)


def test_bad_label_is_named_by_its_row():
    logits, target = arrays((10, 7), -1, False)
    target[8] = 7
    blocks = da.from_array(logits, chunks=(4, 3))
    with pytest.raises(fx.LabelError, match=r"target\[8\] is 7: it lies outside \[0, 7\)"):
        fxd.cross_entropy(blocks, target, reduction="none").compute(scheduler="threads")
