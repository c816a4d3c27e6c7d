"""Side outputs: their numbers, their edges, and that asking for them changes nothing else."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference
from fastxent.backends import load
from fastxent.backends.contract import Outputs
from fastxent.problem import Problem

RNG = np.random.default_rng(23)
OF_LABELS = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")
ALL = (*OF_LABELS, "target_grad")
OPTIONS = {"z_loss": 0.01, "softcap": 20.0, "logit_scale": 1.5, "label_smoothing": 0.1}


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def call(kind, rows=7, classes=11):
    """Logits, target and the names that go with it."""
    logits = 4 * RNG.standard_normal((rows, classes))
    if kind == "labels":
        target = RNG.integers(0, classes, rows)
        target[1::3] = -100
        return logits, target, OF_LABELS
    return logits, RNG.random((rows, classes)) * (RNG.random((rows, classes)) < 0.7), ALL


def test_numbers_of_a_row(backend):
    logits = np.log([[1.0, 2.0, 5.0], [4.0, 2.0, 2.0]])
    loss, aux = fx.cross_entropy(logits, [1, 0], z_loss=0.5, aux=OF_LABELS, backend=backend)
    assert np.allclose(aux.lse, np.log(8))
    assert np.allclose(aux.log_prob, np.log([0.25, 0.5]))
    assert np.allclose(aux.z_loss, 0.5 * np.log(8) ** 2)
    assert np.allclose(aux.entropy, [0.9002561, 1.0397208])
    assert aux.argmax.tolist() == [2, 0]
    assert aux.correct.tolist() == [False, True]
    assert aux.target_grad is None
    assert np.allclose(loss, -aux.log_prob.mean() + aux.z_loss.mean())
    soft = np.array([[0.0, 0.5, 0.5], [0.2, 0.0, 0.0]])
    weight = [1.0, 2.0, 3.0]
    loss, _, aux = fx.cross_entropy_and_grad(
        logits, soft, weight=weight, grad_output=3.0, aux=ALL, backend=backend
    )
    assert np.allclose(aux.log_prob, [0.5 * np.log(10 / 64), 0.2 * np.log(0.5)])
    assert np.allclose(aux.target_grad, -1.5 * np.multiply(weight, fx.log_softmax(logits)))
    assert aux.correct.tolist() == [False, True]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_each_alone(kind, name, backend):
    """The same as beside the others; loss and gradient as without it."""
    logits, target, names = call(kind)
    if name not in names:
        pytest.skip("class indices have no gradient")
    options = {"weight": RNG.random(11), "backend": backend}
    loss, grad = fx.cross_entropy_and_grad(logits, target, **options)
    *both, aux = fx.cross_entropy_and_grad(logits, target, aux=[name], **options)
    assert same(both[0], loss)
    assert same(both[1], grad)
    assert [field for field in fx.Aux._fields if getattr(aux, field) is not None] == [name]
    *_, every = fx.cross_entropy_and_grad(logits, target, aux=names, **options)
    assert same(getattr(aux, name), getattr(every, name))
    alone, apart = fx.cross_entropy(logits, target, aux=iter([name]), **options)
    assert same(alone, loss)
    assert same(getattr(apart, name), getattr(every, name))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_in_place(kind, options, reduction, backend):
    """The gradient goes over the logits that side outputs depend on."""
    logits, target, names = call(kind)
    logits[0, 3], logits[2] = np.inf, -np.inf
    logits[3, :2] = np.inf, np.nan
    options = options | {"weight": RNG.random(11), "reduction": reduction, "backend": backend}
    *expected, aux = fx.cross_entropy_and_grad(logits, target, aux=names, **options)
    *results, again = fx.cross_entropy_and_grad(logits, target, aux=names, out=logits, **options)
    assert results[1] is logits
    assert same(results[0], expected[0])
    assert same(logits, expected[1])
    for name in names:
        assert same(getattr(again, name), getattr(aux, name)), name


def test_in_place_takes_one_pass(monkeypatch):
    backend = load("numpy")
    passes = []
    for verb in ("forward", "backward"):
        whole = getattr(backend, verb)
        monkeypatch.setattr(
            backend, verb, lambda *a, verb=verb, whole=whole: [passes.append(verb), whole(*a)]
        )
    logits, target, names = call("labels")
    fx.cross_entropy_and_grad(logits, target, aux=names, out=logits, backend="numpy")
    logits, target, names = call("probabilities")
    fx.cross_entropy_and_grad(logits, target, aux=names, out=logits, backend="numpy")
    assert passes == ["forward", "forward"]


def test_rows_without_a_softmax(backend):
    inf, nan = np.inf, np.nan
    logits = np.array([[inf, 0], [nan, 0], [-inf, -inf], [inf, nan], [-inf, 0], [nan, inf]])
    logits = np.concatenate([logits] * 4)
    for target, names in ((np.ones(24, int), OF_LABELS), (np.eye(2)[np.ones(24, int)], ALL)):
        aux = fx.cross_entropy(logits, target, z_loss=0.5, aux=names, backend=backend)[1]
        assert same(aux.lse, [nan, nan, -inf, nan, 0, nan] * 4)
        assert same(aux.z_loss, [nan, nan, inf, nan, 0, nan] * 4)
        assert same(aux.log_prob, [nan, nan, nan, nan, 0, nan] * 4)
        assert same(aux.entropy, [nan, nan, nan, nan, 0, nan] * 4)
        assert same(aux.argmax, [-1, -1, -1, -1, 1, -1] * 4)
        assert same(aux.correct, [False, False, False, False, True, False] * 4)
    assert np.isnan(aux.target_grad[[0, 1, 2, 3, 5]]).all()


@pytest.mark.parametrize("classes", [3, 40, 130, 1100])
def test_the_first_of_equals(classes, backend):
    logits = np.zeros((4, classes), np.float32)
    logits[1, classes // 2 :] = 1
    logits[2, -1] = 1
    logits[3, 0] = -1
    options = {"aux": ("argmax", "correct"), "backend": backend}
    expected = [0, classes // 2, classes - 1, 1]
    aux = fx.cross_entropy(logits, expected, **options)[1]
    assert aux.argmax.tolist() == expected
    assert aux.argmax.dtype == np.int64
    assert aux.correct.all()
    soft = logits - logits.min(axis=1, keepdims=True)
    assert fx.cross_entropy(logits, soft, **options)[1].correct.all()
    assert not fx.cross_entropy(logits, -soft[:, ::-1] - 5, **options)[1].correct[1:].all()


def test_equals_after_the_cap(backend):
    """Where the cap makes two logits one number, the first of them is the largest."""
    logits = np.array([[1e4, 2e4, 0.0], [-np.inf, 3.0, np.inf]])
    aux = fx.cross_entropy(logits, [0, 2], softcap=5.0, aux=OF_LABELS, backend=backend)[1]
    assert aux.argmax.tolist() == [0, 2]
    assert np.isfinite(aux.lse).all()


def test_minus_inf_masks_its_class_under_the_cap(backend):
    logits = np.array([[0.5, -np.inf, 2.0], [0.1, 0.2, -np.inf]])
    options = {"softcap": 3.0, "aux": OF_LABELS, "backend": backend}
    loss, grad, aux = fx.cross_entropy_and_grad(logits, [2, 0], **options)
    bare = fx.cross_entropy_and_grad(logits[:1, [0, 2]], [1], **options)
    assert aux.lse[0] == bare[2].lse[0]
    assert grad[0, 1] == grad[1, 2] == 0
    assert np.isfinite(loss)


def test_ignored_rows(backend):
    logits = np.full((3, 4), np.nan)
    logits[1] = 1
    aux = fx.cross_entropy(
        logits, [-1, 0, -1], ignore_index=-1, z_loss=1.0, aux=OF_LABELS, backend=backend
    )[1]
    for name in ("lse", "log_prob", "entropy", "z_loss"):
        assert same(getattr(aux, name)[[0, 2]], [0, 0])
        assert getattr(aux, name)[1] != 0
    assert aux.argmax.tolist() == [-1, 0, -1]
    assert aux.correct.tolist() == [False, True, False]  # -1 is not the label -1


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("all_ignored", ["nan", "zero"])
def test_nothing_counted(all_ignored, in_place, backend):
    """A denominator of 0: no loss and no gradient, but rows that count have side outputs."""
    for kind in ("labels", "probabilities"):
        logits, target, names = call(kind)
        options = {"z_loss": 0.1, "backend": backend}
        expected = fx.cross_entropy(logits, target, aux=names, **options)[1]
        loss, grad, aux = fx.cross_entropy_and_grad(
            logits,
            target,
            normalizer=0.0,
            all_ignored=all_ignored,
            aux=names,
            out=logits if in_place else None,
            **options,
        )
        assert np.isnan(loss) if all_ignored == "nan" else loss == 0
        assert not grad.any()
        for name in OF_LABELS:
            assert same(getattr(aux, name), getattr(expected, name))
        if kind == "probabilities":
            assert not aux.target_grad.any()


def test_no_rows(backend):
    for target, names in ((np.zeros(0, int), OF_LABELS), (np.zeros((0, 3)), ALL)):
        loss, _, aux = fx.cross_entropy_and_grad(
            np.zeros((0, 3)), target, aux=names, backend=backend
        )
        assert np.isnan(loss)
        assert all(getattr(aux, name).shape == (0,) for name in OF_LABELS)
    assert aux.target_grad.shape == (0, 3)


def test_shapes_and_dtypes(backend):
    logits = RNG.standard_normal((2, 5, 3)).astype(np.float32)
    soft = RNG.random((2, 5, 3))
    for target, names in ((soft.argmax(axis=1), OF_LABELS), (soft, ALL)):
        aux = fx.cross_entropy(logits, target, axis=1, aux=names, backend=backend)[1]
        for name in OF_LABELS:
            expected = {"argmax": np.int64, "correct": bool}.get(name, np.float32)
            assert getattr(aux, name).shape == (2, 3)
            assert getattr(aux, name).dtype == expected
    assert aux.target_grad.shape == soft.shape
    assert aux.target_grad.dtype == np.float64
    aux = fx.cross_entropy(logits[0, :, 0], 3, aux=OF_LABELS, backend=backend)[1]
    assert isinstance(aux.lse, np.float32)
    assert isinstance(aux.argmax, np.int64)
    assert isinstance(aux.correct, np.bool_)


def test_target_grad_is_the_slope(backend):
    """Against central differences; the loss is linear in the target, so they are exact."""
    logits, soft = RNG.standard_normal((3, 4)), RNG.random((3, 4))
    options = OPTIONS | {"weight": RNG.random(4), "sample_weight": RNG.random(3)}
    options |= {"backend": backend}
    for reduction in ("mean", "sum"):
        options["reduction"] = reduction
        aux = fx.cross_entropy(logits, soft, aux=("target_grad",), **options)[1]
        for place in itertools.product(range(3), range(4)):
            step = np.zeros_like(soft)
            step[place] = 0.5
            slope = fx.cross_entropy(logits, soft + step, **options)
            slope -= fx.cross_entropy(logits, soft - step, **options)
            assert np.isclose(aux.target_grad[place], slope, rtol=1e-12)


def test_target_grad_is_pytorchs_to_the_letter(backend):
    """0 * -inf is NaN where a class has neither weight nor probability."""
    logits = np.array([[0.0, -np.inf, 0.0, -np.inf]])
    aux = fx.cross_entropy(
        logits, np.ones((1, 4)) / 4, weight=[1, 1, 0, 0], aux=("target_grad",), backend=backend
    )[1]
    assert same(aux.target_grad, [[np.log(2), np.inf, 0, np.nan]])


def test_target_grad_of_booleans_has_the_dtype_of_the_logits(backend):
    logits = RNG.standard_normal((3, 4)).astype(np.float32)
    options = {"aux": ("target_grad",), "backend": backend}
    aux = fx.cross_entropy(logits, np.eye(4, dtype=bool)[:3], **options)[1]
    assert aux.target_grad.dtype == np.float32
    assert same(
        aux.target_grad,
        fx.cross_entropy(logits, np.eye(4)[:3], **options)[1].target_grad.astype(np.float32),
    )


@pytest.mark.parametrize(
    "nothing",
    [(), [], iter(()), {}, np.array([], str)],
    ids=["tuple", "list", "iterator", "dict", "array"],
)
def test_nothing_asked(nothing):
    assert isinstance(fx.cross_entropy(np.zeros((2, 3)), [0, 1], aux=nothing), np.float64)


def test_an_array_of_names():
    aux = fx.cross_entropy(np.zeros((2, 3)), [0, 1], aux=np.array(["lse", "argmax"]))[1]
    assert aux.argmax.tolist() == [0, 0]
    assert np.allclose(aux.lse, np.log(3))
    assert aux.entropy is None


def test_the_object():
    logits, target, names = call("labels")
    criterion = fx.CrossEntropyLoss(aux=iter(names), z_loss=0.1, softcap=9.0, logit_scale=2.0)
    for _ in range(2):
        loss, aux = criterion(logits, target)
        expected = fx.cross_entropy_and_grad(logits, target, **criterion.options)
        assert loss == expected[0]
        assert same(criterion.backward(), expected[1])
        assert all(same(getattr(aux, name), getattr(expected[2], name)) for name in names)
        assert aux.target_grad is None
    assert isinstance(fx.CrossEntropyLoss()(logits, target), np.float64)


@pytest.mark.parametrize("upstream", [None, -2.5, "rows"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_backward_from_the_row_statistics(kind, upstream, backend):
    """What frameworks call: forward keeps two numbers a row, the gradient comes later."""
    logits, target, _ = call(kind, 9, 130)
    if upstream == "rows":
        upstream = RNG.random(9)
    options = OPTIONS | {"weight": RNG.random(130), "sample_weight": RNG.random(9)}
    _, expected = fx.cross_entropy_and_grad(
        logits, target, grad_output=upstream, backend=backend, **options
    )
    problem = Problem.build(logits, target, **options)
    assert (reason := load(backend).why_not(problem)) is None or pytest.skip(reason)
    problem = problem.with_labels(load(backend))
    outputs = Outputs(row_max=np.empty(9), row_sum=np.empty(9))
    loss = problem.reduced_loss(load(backend), outputs)
    assert loss == fx.cross_entropy(logits, target, backend=backend, **options)
    state = outputs.row_max, outputs.row_sum
    assert same(problem.later_grad(load(backend), *state, upstream), expected)
    assert same(problem.later_grad(load(backend), *state, upstream, out=logits), expected)
    assert same(logits, expected)


def test_backward_of_nothing_counted(backend):
    logits = RNG.standard_normal((3, 4))
    problem = Problem.build(logits, [-100] * 3).with_labels(load(backend))
    assert not problem.later_grad(load(backend), np.zeros(3), np.ones(3)).any()


def test_a_loss_that_is_the_sum_of_its_parts(backend):
    """z_loss is per row, not weighted by class, and goes over the same denominator."""
    logits, target, names = call("labels")
    weight = RNG.random(11)
    options = {"weight": weight, "reduction": "sum", "backend": backend}
    loss, aux = fx.cross_entropy(logits, target, z_loss=0.3, aux=names, **options)
    assert np.isclose(loss, fx.cross_entropy(logits, target, **options) + aux.z_loss.sum())
    truth = reference.cross_entropy(logits, target, z_loss=0.3, weight=weight, reduction="sum")
    assert np.isclose(loss, truth, rtol=1e-12)
