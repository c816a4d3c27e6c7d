"""fastxent.dask beside the call in memory: the same bits, lazily, by real schedulers."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

import fastxent as fx

dask = pytest.importorskip("dask", reason="dask is not installed: fastxent.dask needs it")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
fxd = pytest.importorskip("fastxent.dask")

SOFT = {"soft": True}
CASES = {
    "plain": ((10, 7), (3, 7), -1, {}),
    "probabilities": ((10, 7), (3, 7), -1, SOFT),
    "classes first": ((7, 10), (7, 4), 0, {"softcap": 3.0}),
    "image": ((4, 5, 6, 3), (2, 5, 3, 2), 1, {"label_smoothing": 0.1}),
    "image of probabilities": ((4, 5, 6, 3), (2, 5, 3, 2), 1, SOFT | {"z_loss": 0.1}),
    "half": ((10, 7), (4, 7), -1, {"dtype": np.float16, "logit_scale": 2.0}),
    "one row": ((7,), (7,), -1, {}),
    "no rows": ((0, 7), (1, 7), -1, {}),
}
WEIGHTED = {
    "weight": {"weight": np.arange(1.0, 8.0)},
    "sample_weight": {"sample_weight": np.linspace(0.1, 2.0, 10)},
    "both": {"weight": np.arange(7.0), "sample_weight": np.linspace(0.1, 2.0, 10)},
}
REDUCTIONS = ("mean", "sum", "none")


def arrays(shape, axis=-1, soft=False, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=shape)).astype(dtype)
    axis %= len(shape)
    rows = shape[:axis] + shape[axis + 1 :]
    if soft:
        return logits, np.moveaxis(rng.dirichlet(np.ones(shape[axis]), rows), -1, axis)
    target = rng.integers(0, shape[axis], rows)
    if target.size > 2:
        target.flat[2] = -100
    return logits, target


def computed(results):
    return dask.compute(*results, scheduler="synchronous")


def assert_same_loss(found, expected, ulps=1):
    assert type(found) is type(expected)
    np.testing.assert_array_max_ulp(np.asarray(found), np.asarray(expected), ulps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_bits_are_those_in_memory(name, reduction):
    shape, chunks, axis, options = CASES[name]
    made = {key: options[key] for key in ("soft", "dtype") if key in options}
    logits, target = arrays(shape, axis, **made)
    options = {key: value for key, value in options.items() if key not in made}
    options |= {"axis": axis, "reduction": reduction}
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    blocks = da.from_array(logits, chunks=chunks)
    lazily = fxd.cross_entropy_and_grad(blocks, target, **options)
    assert lazily[0].dtype == expected[0].dtype
    assert lazily[0].shape == expected[0].shape
    assert (lazily[1].dtype, lazily[1].chunks) == (expected[1].dtype, blocks.chunks)
    loss, grad = computed(lazily)
    assert_same_loss(loss, expected[0])
    if reduction == "none":
        np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])
    (alone,) = computed([fxd.cross_entropy(blocks, target, **options)])
    np.testing.assert_array_equal(alone, loss)


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights(name, reduction, soft):
    logits, target = arrays((10, 7), soft=soft, dtype=np.float64)
    options = WEIGHTED[name] | {"reduction": reduction}
    upstream = np.linspace(-1.0, 1.0, 10)
    expected = fx.cross_entropy_and_grad(logits, target, grad_output=upstream, **options)
    lazy = {key: da.from_array(x, chunks=4) for key, x in options.items() if key[0] == "s"}
    blocks = da.from_array(logits, chunks=(3, 7))
    results = fxd.cross_entropy_and_grad(
        blocks, target, grad_output=da.from_array(upstream, chunks=5), **(options | lazy)
    )
    loss, grad = computed(results)
    # each of two sums of ten numbers is added up in another order, 1 ULP for every addition
    assert_same_loss(loss, expected[0], ulps=4)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-15, atol=1e-16)
    expected = fx.cross_entropy_and_grad(logits, target, normalizer=3.7, **WEIGHTED[name])
    results = fxd.cross_entropy_and_grad(blocks, target, normalizer=3.7, **WEIGHTED[name])
    np.testing.assert_array_equal(computed(results)[1], expected[1])


def test_aux():
    for soft, names in ((False, ("lse", "argmax", "correct")), (True, ("target_grad", "entropy"))):
        logits, target = arrays((10, 7), soft=soft)
        expected = fx.cross_entropy_and_grad(logits, target, aux=names, reduction="sum")
        blocks = da.from_array(logits, chunks=(3, 7))
        lazily = fxd.cross_entropy_and_grad(blocks, target, aux=names, reduction="sum")
        for name in fx.Aux._fields:
            found, right = getattr(lazily[2], name), getattr(expected[2], name)
            assert (found is None) == (right is None)
            if found is not None:
                assert (found.dtype, found.shape) == (right.dtype, right.shape)
                np.testing.assert_array_equal(found.compute(scheduler="synchronous"), right)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_schedulers(scheduler):
    logits, target = arrays((40, 7))
    expected = fx.cross_entropy_and_grad(logits, target, weight=np.arange(7.0))
    blocks = da.from_array(logits, chunks=(9, 7))
    results = fxd.cross_entropy_and_grad(blocks, target, weight=np.arange(7.0))
    bad = target.copy()
    bad[31] = 7
    lazily = fxd.cross_entropy(blocks, bad, reduction="none")
    with ExitStack() as stack:
        pool = None
        if scheduler == "processes":  # starting them takes most of the time: once is enough
            fresh = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(2, fresh))
        stack.enter_context(dask.config.set(num_workers=2, pool=pool))
        loss, grad = dask.compute(*results, scheduler=scheduler)
        with pytest.raises(fx.LabelError, match=r"target\[31\] is 7: it lies outside \[0, 7\)"):
            lazily.compute(scheduler=scheduler)
    assert_same_loss(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


def test_bad_label_of_an_image_is_named_by_its_place():
    logits, target = arrays((4, 5, 6))
    target[3, 4] = -1
    blocks = da.from_array(logits, chunks=(3, 2, 6))
    with pytest.raises(fx.LabelError, match=r"target\[3, 4\] is -1"):
        fxd.cross_entropy(blocks, target).compute(scheduler="synchronous")


def never(block):
    if block.size:
        raise AssertionError("a block was computed")
    return block


def poisoned(shape, chunks, dtype="float32"):
    """Blocks that must not be computed."""
    return da.zeros(shape, chunks=chunks, dtype=dtype).map_blocks(never, dtype=dtype)


@pytest.mark.parametrize("chunks", [(3, 7), (3, 4)], ids=["whole rows", "split rows"])
def test_nothing_is_computed_before_it_is_asked_for(chunks):
    logits, target = poisoned((10, 7), chunks), poisoned((10,), (10,), "int64")
    rows = poisoned((10,), (5,), "float64")
    options = {"sample_weight": rows, "normalizer": rows.sum(), "aux": ("lse",)}
    results = fxd.cross_entropy_and_grad(logits, target, grad_output=rows, **options)
    loss, grad, aux = results
    fxd.cross_entropy(logits, poisoned((10, 7), (2, 7)), reduction="none")
    for array in (loss, grad, aux.lse):
        assert type(array._meta) is np.ndarray
        assert array._meta.dtype == array.dtype == np.float32
        assert array._meta.ndim == array.ndim
        assert array._meta.size == 0 or array.ndim == 0
    with pytest.raises(AssertionError, match="a block was computed"):
        loss.compute(scheduler="synchronous")


def test_one_pass_a_block(monkeypatch):
    from fastxent.dask import blocks as in_blocks

    calls = []
    original = in_blocks.loss_and_aux
    monkeypatch.setattr(in_blocks, "loss_and_aux", lambda *a: calls.append(1) or original(*a))
    logits, target = arrays((40, 7))
    blocks = da.from_array(logits, chunks=(10, 7))
    computed(fxd.cross_entropy_and_grad(blocks, target, aux=("lse",))[:2])
    assert len(calls) == 4


def test_graph_has_few_tasks():
    blocks = 50
    logits = da.zeros((blocks * 4, 7), chunks=(4, 7))
    target = da.zeros(blocks * 4, dtype=int, chunks=4)
    results = fxd.cross_entropy_and_grad(logits, target)
    tasks = {key for array in results for key in dict(array.__dask_graph__())}
    # logits, labels, their mass, the pass, its loss, its gradient, two sums; and what ends them
    assert len(tasks) <= 8 * blocks + 8
    (optimised,) = dask.optimize(fxd.cross_entropy(logits, target, reduction="none"))
    # and without a sum nothing of it: two that make the arrays, the pass, another name of its loss
    assert len(dict(optimised.__dask_graph__())) <= 4 * blocks


def test_all_ignored():
    logits, target = da.zeros((6, 3), chunks=(2, 3)), np.full(6, -100)
    loss, grad = computed(fxd.cross_entropy_and_grad(logits, target))
    assert math.isnan(loss)
    assert not grad.any()
    loss, grad = computed(fxd.cross_entropy_and_grad(logits, target, all_ignored="zero"))
    assert loss == 0
    assert not grad.any()


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_softmax(function):
    logits, _ = arrays((10, 7, 3))
    blocks = da.from_array(logits, chunks=(3, 7, 2))
    lazily = getattr(fxd, function)(blocks, axis=1)
    assert (lazily.chunks, lazily.dtype) == (blocks.chunks, blocks.dtype)
    np.testing.assert_array_equal(
        lazily.compute(scheduler="synchronous"), getattr(fx, function)(logits, axis=1)
    )
    with pytest.raises(fx.ShapeError, match=r"rechunk\(\{2: -1\}\)"):
        getattr(fxd, function)(blocks)


def test_refusals():
    logits, target = da.zeros((10, 7), chunks=(3, 7)), np.zeros(10, int)
    unknown = da.from_array(np.zeros((4, 7)), chunks=2)
    unknown = unknown[da.from_array(np.ones(4, bool), chunks=2)]
    split = logits.rechunk((3, 4))
    refused = [
        (fx.DTypeError, "logits must be a dask array, got ndarray", np.zeros((2, 3)), {}),
        (fx.DTypeError, "weight is a dask array", logits, {"weight": da.ones(7)}),
        (fx.ShapeError, "compute_chunk_sizes", unknown, {}),
        (fx.DTypeError, "logits has dtype int64", logits.astype(int), {}),
        (fx.ShapeError, "sample_weight needs", logits, {"sample_weight": da.ones(9)}),
        (fx.ShapeError, "normalizer needs a scalar", logits, {"normalizer": da.ones(9)}),
        (fx.OptionError, "normalizer replaces", logits, {"normalizer": 1.0, "reduction": "sum"}),
        (fx.OptionError, "num_threads must be", logits, {"num_threads": 0}),
        (fx.OptionError, "reduction must be", logits, {"reduction": "median"}),
    ]
    for error, words, given, options in refused:
        with pytest.raises(error, match=words):
            fxd.cross_entropy(given, target, **options)
    with pytest.raises(fx.ShapeError, match="class indices and needs"):
        fxd.cross_entropy(logits, da.zeros((10, 7), dtype=int))
    with pytest.raises(fx.OptionError, match="needs whole rows of probabilities"):
        fxd.cross_entropy(split, da.ones((10, 7)), aux=("correct",))
