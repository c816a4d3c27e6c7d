"""What the fuzzer's door is worth: whether it sees wrong results, and calls every function."""

import functools
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
from reliability import (
    door,
    door_boosting,
    door_checks,
    door_linear,
    door_losses,
    door_shards,
    door_softmax,
)

import fastxent as fx
from fastxent import boosting

CORPUS = Path(__file__).parent / "reliability" / "corpora" / "door"


def wrapped(monkeypatch, module, name, around):
    """Put a function around one of the library's."""
    right = getattr(module, name)

    @functools.wraps(right)
    def wrong(*arguments, **options):
        return around(right, *arguments, **options)

    monkeypatch.setattr(module, name, wrong)


def is_array(value, dtype):
    return isinstance(value, np.ndarray) and value.dtype == dtype


# What the bytes of a stored input are to describe: the function, and what its arguments must be.
SITUATIONS = {
    "beyond-float16": (
        "binary_cross_entropy_with_logits_and_grad",
        lambda x, y, weight, **_: is_array(x, np.float16) and x.size and weight == 2**31,
    ),
    "float32-smoothing": (
        "cross_entropy_and_grad",
        lambda x, y, label_smoothing, **_: (
            is_array(x, np.float64) and label_smoothing == np.float32(0.25)
        ),
    ),
    "infinite-and-filtered": (
        "linear_cross_entropy_and_grad",
        lambda *_, grad_output, grad_filter, **__: np.isinf(grad_output) and grad_filter > 0,
    ),
    "infinite-probabilities": (
        "cross_entropy_and_grad",
        lambda x, y, **_: is_array(x, np.float32) and y.dtype == np.float32 and np.isinf(y).any(),
    ),
    "probabilities-of-a-shard": (
        "partial_stats",
        lambda x, target, num_classes, **_: target == [0.5, 2.0] and num_classes == 2 * x.size,
    ),
    "no-dimensions": ("softmax", lambda x, axis, **_: np.shape(x) == () and axis == ()),
    "no-elements": ("logsumexp", lambda x, axis, **_: x.shape[0] == 0 and axis == (0, 1)),
    "objects": ("softmax_backward", lambda p, grad, **_: p.dtype == object),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_stored_input_still_describes_what_its_name_says(name, monkeypatch):
    """Else the order of the choices has changed, and the input has to be made anew."""
    function, is_as_named = SITUATIONS[name]
    seen = []

    def look(right, *arguments, **options):
        seen.append(bool(is_as_named(*arguments, **options)))
        return right(*arguments, **options)

    wrapped(monkeypatch, fx, function, look)
    door.call((CORPUS / name).read_bytes())
    assert seen
    assert all(seen)


def too_large(result):
    """A result whose numbers are a little too large, in the array where it is."""
    larger = result * result.dtype.type(1.01) + result.dtype.type(0.01)
    if not isinstance(result, np.ndarray) or not result.flags.writeable:
        return larger
    result[...] = larger
    return result


def at(place):
    """One of several results is too large: by its number, or a gradient of a layer by its name."""

    def fault(results):
        if not isinstance(results, tuple):  # a loss without side outputs
            return too_large(results)
        several = list(results)
        if isinstance(place, str):
            if getattr(several[1], place) is not None:
                several[1] = several[1]._replace(**{place: too_large(getattr(several[1], place))})
        else:
            several[place] = too_large(several[place])
        return tuple(several)

    return fault


def aux_too_large(results):
    """The side outputs after a loss, where there are any."""
    *before, asides = results if isinstance(results, tuple) else (results,)
    if not isinstance(asides, fx.Aux):
        return results
    fields = asides._asdict().items()
    changed = {name: too_large(one) for name, one in fields if np.asarray(one).dtype.kind == "f"}
    return (*before, asides._replace(**changed))


def too_much_mass(stats):
    return stats._replace(sum=1.01 * stats.sum)


BINARY = "binary_cross_entropy_with_logits"
LINEAR = "linear_cross_entropy_and_grad"
# Who is called how: the verb of the door, the function, and what is wrong with its result.
FAULTS = [
    (door_losses.loss, fx, "cross_entropy_and_grad", at(0)),
    (door_losses.loss, fx, "cross_entropy_and_grad", at(1)),
    (door_losses.loss, fx, "cross_entropy_and_grad", aux_too_large),
    (door_losses.loss, fx, "cross_entropy", at(0)),
    (door_losses.binary, fx, f"{BINARY}_and_grad", at(0)),
    (door_losses.binary, fx, f"{BINARY}_and_grad", at(1)),
    (door_losses.binary, fx, BINARY, too_large),
    (door_softmax.softmax, fx, "softmax", too_large),
    (door_softmax.softmax, fx, "log_softmax", too_large),
    (door_softmax.softmax, fx, "logsumexp", too_large),
    (door_softmax.backward, fx, "softmax_backward", too_large),
    (door_softmax.backward, fx, "log_softmax_backward", too_large),
    (door_linear.linear, fx, LINEAR, at(0)),
    (door_linear.linear, fx, LINEAR, at("hidden")),
    (door_linear.linear, fx, LINEAR, at("linear_weight")),
    (door_linear.linear, fx, LINEAR, at("linear_bias")),
    (door_linear.linear, fx, "linear_cross_entropy", at(0)),
    (door_shards.shards, fx, "partial_stats", too_much_mass),
    (door_shards.shards, fx, "merge_stats", too_much_mass),
    (door_shards.shards, fx, "loss_from_stats", at(0)),
    (door_shards.shards, fx, "loss_from_stats", aux_too_large),
    (door_shards.shards, fx, "grad_from_stats", too_large),
    (door_boosting.derivatives, boosting, "softmax_gradient_hessian", at(0)),
    (door_boosting.derivatives, boosting, "softmax_gradient_hessian", at(1)),
    (door_boosting.derivatives, boosting, "logistic_gradient_hessian", at(0)),
    (door_boosting.derivatives, boosting, "logistic_gradient_hessian", at(1)),
]


def is_noticed(verb):
    """Whether some of a few hundred calls of a verb from random bytes are wrong."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(900):
        try:
            door.call(bytes([door.VERBS.index(verb)]) + rng.bytes(23))
        except door.Wrong:
            found += 1
        if found == 4:  # more than a chance
            return True
    return False


@pytest.mark.parametrize(
    ("verb", "module", "name", "fault"),
    FAULTS,
    ids=[f"{name}-{number}" for number, (_, _, name, _) in enumerate(FAULTS)],
)
def test_a_wrong_result_is_noticed(verb, module, name, fault, monkeypatch):
    """Every result of a function a little too large: the door must not be blind to it."""
    wrapped(monkeypatch, module, name, lambda right, *args, **more: fault(right(*args, **more)))
    assert is_noticed(verb)


def test_the_object_of_a_loss_is_held_too(monkeypatch):
    right = fx.CrossEntropyLoss.backward
    monkeypatch.setattr(fx.CrossEntropyLoss, "backward", lambda self: 1.01 * right(self) + 0.01)
    assert is_noticed(door_losses.loss)


@pytest.mark.parametrize("name", ["XGBoostObjective", "LightGBMObjective"])
def test_an_objective_is_held_too(name, monkeypatch):
    kind = getattr(boosting, name)
    right = kind.__call__

    def wrong(self, *arguments):
        return tuple(map(too_large, right(self, *arguments)))

    monkeypatch.setattr(kind, "__call__", wrong)
    assert is_noticed(door_boosting.derivatives)


def test_a_check_that_lets_everything_pass_is_noticed(monkeypatch):
    wrapped(monkeypatch, fx, "check_labels", lambda right, *arguments, **options: None)
    assert is_noticed(door_softmax.labels)


def test_a_check_that_refuses_right_labels_is_noticed(monkeypatch):
    def refuse(right, target, *arguments, **options):
        right(target, *arguments, **options)
        if np.size(target) > 3:
            raise fx.LabelError("too many")

    wrapped(monkeypatch, fx, "check_labels", refuse)
    assert is_noticed(door_softmax.labels)


@pytest.mark.parametrize("verb", [door_losses.loss, door_losses.binary])
def test_what_is_written_to_an_input_is_noticed(verb, monkeypatch):
    def write(right, logits, *arguments, **options):
        results = right(logits, *arguments, **options)
        is_input = isinstance(logits, np.ndarray) and options.get("out") is None
        if is_input and logits.flags.writeable and logits.ndim:
            logits[:1] += 1
        return results

    for name in ("cross_entropy_and_grad", f"{BINARY}_and_grad"):
        wrapped(monkeypatch, fx, name, write)
    assert is_noticed(verb)


def test_what_is_written_before_an_error_is_noticed(monkeypatch):
    def write(right, *arguments, out=None, **options):
        try:
            return right(*arguments, out=out, **options)
        except fx.FastxentError:
            if isinstance(out, np.ndarray) and out.flags.writeable:
                out[...] = 1
            raise

    wrapped(monkeypatch, fx, "cross_entropy_and_grad", write)
    assert is_noticed(door_losses.loss)


@pytest.mark.skipif(fx.backends()["numba"] is not None, reason="numba cannot run here")
def test_numba_is_called_for_few_variants(monkeypatch):
    """Each compiles for seconds: a fuzzer, or this suite with nothing on disk, must not wait."""
    from fastxent.backends.numba_cpu import launch

    variants, right = set(), launch.FORWARD

    def look(*dummies):
        variants.add(tuple(map(type, dummies)))
        return right(*dummies)

    look.has = right.has
    monkeypatch.setattr(launch, "FORWARD", look)
    monkeypatch.setattr(launch, "SHARED", None)  # nor is a row shared
    monkeypatch.setattr(door_checks, "BACKENDS", ("numba",))
    rng = np.random.default_rng(0)
    for verb in (door_losses.loss, door_softmax.softmax):
        for _ in range(800):
            door.call(bytes([door.VERBS.index(verb)]) + rng.bytes(23))
    assert 4 <= len(variants) <= 6


# What takes no arrays.
SETTINGS = {"backends", "get_num_threads", "set_num_threads", "share_openmp", "show_config"}
SETTINGS |= {"use_backend"}


def test_every_public_function_is_called(monkeypatch):
    """Each gives results and errors: a new function of the library must come in here too."""
    names = [name for name in fx.__all__ if isinstance(getattr(fx, name), FunctionType)]
    public = {(fx, name) for name in names if name not in SETTINGS}
    public |= {(boosting, f"{name}_gradient_hessian") for name in ("softmax", "logistic")}
    given, refused = set(), set()
    for module, name in public:

        def count(right, *arguments, place=(module, name), **options):
            try:
                result = right(*arguments, **options)
            except fx.FastxentError:
                refused.add(place)
                raise
            given.add(place)
            return result

        wrapped(monkeypatch, module, name, count)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        door.call(rng.bytes(24))
    assert given == public
    assert refused == public
