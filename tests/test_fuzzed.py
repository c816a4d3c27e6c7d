"""What fuzzing has found stays found; and a slice of the calls from random bytes of `make fuzz`."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
from reliability import (
    door,
    door_boosting,
    door_linear,
    door_losses,
    door_shards,
    door_softmax,
    fuzz,
    records,
)
from reliability.door_calls import Source

import fastxent as fx
from fastxent import boosting

ROOT = Path(__file__).parent.parent
CORPORA = Path(__file__).parent / "reliability" / "corpora"
NATIVE = Path(__file__).parent / "reliability" / "native"


def script(name, *arguments, path=None):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", str(ROOT), str(ROOT / "tests")])}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", f"reliability.{name}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def wrapped(monkeypatch, module, name, around):
    """Put a function around one of the library's."""
    right = getattr(module, name)

    @functools.wraps(right)
    def wrong(*arguments, **options):
        return around(right, *arguments, **options)

    monkeypatch.setattr(module, name, wrong)


@pytest.mark.parametrize(
    "stored", sorted((CORPORA / "door").iterdir()), ids=lambda stored: stored.name
)
def test_what_was_found_at_the_door_stays_found(stored):
    door.call(stored.read_bytes())


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
    "infinite-probabilities": (
        "cross_entropy_and_grad",
        lambda x, y, **_: is_array(x, np.float32) and y.dtype == np.float32 and np.isinf(y).any(),
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
    door.call((CORPORA / "door" / name).read_bytes())
    assert seen == [True]


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_give_the_reference_or_a_documented_error(seed):
    rng = np.random.default_rng(seed)
    for _ in range(400):
        data = rng.bytes(24)
        try:
            door.call(data)
        except Exception as error:
            raise AssertionError(f"door.call(bytes.fromhex({data.hex()!r}))") from error


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


def too_much_mass(stats):
    return stats._replace(sum=1.01 * stats.sum)


BINARY = "binary_cross_entropy_with_logits"
LINEAR = "linear_cross_entropy_and_grad"
# Who is called how: the verb of the door, the function, and what is wrong with its result.
FAULTS = [
    (door_losses.loss, fx, "cross_entropy_and_grad", at(0)),
    (door_losses.loss, fx, "cross_entropy_and_grad", at(1)),
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
    (door_shards.shards, fx, "grad_from_stats", too_large),
    (door_boosting.derivatives, boosting, "softmax_gradient_hessian", at(0)),
    (door_boosting.derivatives, boosting, "softmax_gradient_hessian", at(1)),
    (door_boosting.derivatives, boosting, "logistic_gradient_hessian", at(0)),
    (door_boosting.derivatives, boosting, "logistic_gradient_hessian", at(1)),
]


def noticed(verb, calls):
    """How many of some calls of a verb from random bytes give a wrong result."""
    found, rng = 0, np.random.default_rng(0)
    for _ in range(calls):
        try:
            door.call(bytes([door.VERBS.index(verb)]) + rng.bytes(23))
        except door.Wrong:
            found += 1
    return found


@pytest.mark.parametrize(
    ("verb", "module", "name", "fault"),
    FAULTS,
    ids=[f"{name}-{number}" for number, (_, _, name, _) in enumerate(FAULTS)],
)
def test_a_wrong_result_is_noticed(verb, module, name, fault, monkeypatch):
    """Every result of a function a little too large: the door must not be blind to it."""
    wrapped(monkeypatch, module, name, lambda right, *args, **more: fault(right(*args, **more)))
    assert noticed(verb, 300) > 3


def test_the_object_of_a_loss_is_held_too(monkeypatch):
    right = fx.CrossEntropyLoss.backward
    monkeypatch.setattr(fx.CrossEntropyLoss, "backward", lambda self: 1.01 * right(self) + 0.01)
    assert noticed(door_losses.loss, 400) > 5


@pytest.mark.parametrize("name", ["XGBoostObjective", "LightGBMObjective"])
def test_an_objective_is_held_too(name, monkeypatch):
    kind = getattr(boosting, name)
    right = kind.__call__

    def wrong(self, *arguments):
        return tuple(map(too_large, right(self, *arguments)))

    monkeypatch.setattr(kind, "__call__", wrong)
    assert noticed(door_boosting.derivatives, 400) > 5


def test_a_check_that_lets_everything_pass_is_noticed(monkeypatch):
    wrapped(monkeypatch, fx, "check_labels", lambda right, *arguments, **options: None)
    assert noticed(door_softmax.labels, 100) > 5


def test_a_check_that_refuses_right_labels_is_noticed(monkeypatch):
    def refuse(right, target, *arguments, **options):
        right(target, *arguments, **options)
        if np.size(target) > 3:
            raise fx.LabelError("too many")

    wrapped(monkeypatch, fx, "check_labels", refuse)
    assert noticed(door_softmax.labels, 200) > 5


@pytest.mark.parametrize("verb", [door_losses.loss, door_losses.binary])
def test_what_is_written_to_an_input_is_noticed(verb, monkeypatch):
    def write(right, logits, *arguments, **options):
        results = right(logits, *arguments, **options)
        if isinstance(logits, np.ndarray) and logits.flags.writeable and logits.ndim:
            logits[:1] += 1
        return results

    for name in ("cross_entropy_and_grad", f"{BINARY}_and_grad"):
        wrapped(monkeypatch, fx, name, write)
    assert noticed(verb, 200) > 5


def test_what_is_written_before_an_error_is_noticed(monkeypatch):
    def write(right, *arguments, out=None, **options):
        try:
            return right(*arguments, out=out, **options)
        except fx.FastxentError:
            if isinstance(out, np.ndarray) and out.flags.writeable:
                out[...] = 1
            raise

    wrapped(monkeypatch, fx, "cross_entropy_and_grad", write)
    assert noticed(door_losses.loss, 400) > 5


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


def test_the_same_bytes_are_the_same_choices():
    one, other = Source(b"abc"), Source(b"abc")
    assert [one.byte() for _ in range(50)] == [other.byte() for _ in range(50)]


def test_the_fuzzer_runs_and_keeps_a_record(tmp_path):
    short = ["--only", "cases", "--minutes", "0.01", "--executions", "0"]
    done = script("fuzz", *short, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert '"passed": true' in (tmp_path / "fuzz.json").read_text()


@pytest.fixture
def engines(monkeypatch):
    """Engines that a test puts in the place of the real ones, and that need nothing."""
    engines = {}
    monkeypatch.setattr(fuzz, "ENGINES", engines)
    monkeypatch.setattr(fuzz, "SHARES", dict.fromkeys(["rows", "door", "cases"], 1))
    monkeypatch.setattr(fuzz, "NEEDED", dict.fromkeys(["rows", "door", "cases"], lambda: None))
    return engines


def test_too_few_executions_are_a_fault(engines, tmp_path):
    engines |= {name: lambda seconds, level: (500_000, 7, []) for name in ("rows", "door")}
    assert fuzz.main(["--out", str(tmp_path)]) == 0
    assert fuzz.main(["--executions", "1000001", "--out", str(tmp_path)]) == 1
    record = records.load("fuzz", tmp_path)
    assert record["faults"] == ["asked 1,000,001 executions, there were 1,000,000"]
    assert not record["passed"]
    assert record["figures"]["found"] == 0


def test_what_an_interrupted_run_has_found_is_kept(engines, tmp_path):
    def interrupted(seconds, level):
        raise KeyboardInterrupt

    engines |= {"rows": lambda seconds, level: (2_000_000, 7, ["a bad row"]), "door": interrupted}
    with pytest.raises(KeyboardInterrupt):
        fuzz.main(["--out", str(tmp_path)])
    record = records.load("fuzz", tmp_path)
    assert record["faults"] == ["a bad row", "interrupted by KeyboardInterrupt()"]
    assert not record["passed"]
    assert record["figures"]["rows_executions"] == 2_000_000


def test_an_input_that_an_interrupted_fuzzer_found_is_kept(monkeypatch, tmp_path):
    def run(command, *arguments, **options):
        prefix = next(word for word in command if str(word).startswith("-artifact_prefix="))
        Path(prefix.partition("=")[2], "crash-1").write_bytes(b"bad")
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "run", run)
    monkeypatch.setattr(fuzz, "CORPORA", tmp_path)
    (tmp_path / "door").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fuzz.ENGINES["door"](1, "v3")
    assert (tmp_path / "door" / "crash-1").read_bytes() == b"bad"


def test_programs_are_looked_for_before_any_engine_runs(tmp_path):
    """Else the last engine's would be missed after minutes of the others."""
    done = script("fuzz", "--only", "cases", "rows", "--out", str(tmp_path), path=str(tmp_path))
    assert done.returncode == 2
    assert "clang" in done.stderr
    assert not (tmp_path / "fuzz.json").exists()
    assert "fuzzing" not in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "package"),
    [
        ("sanitize", ("--only", "valgrind"), "valgrind"),
        ("sanitize", ("--only", "native", "--levels", "v3"), "clang"),
    ],
)
def test_a_missing_program_is_named(name, arguments, package, tmp_path):
    done = script(name, *arguments, "--out", str(tmp_path), path=str(tmp_path))
    assert done.returncode == 2
    assert "apt-get install" in done.stderr
    assert package in done.stderr


@pytest.mark.skipif(not (ROOT / "src_cython").exists(), reason="the source tree is not here")
@pytest.mark.parametrize("program", ["driver", "fuzz_rows"])
def test_native_programs_fit_the_kernels(program):
    """They are built by `make sanitize` and `make fuzz` only; here they are looked at."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Isrc_cython"]
    done = subprocess.run(
        [compiler, *flags, NATIVE / f"{program}.cpp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
