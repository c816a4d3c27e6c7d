"""What fuzzing has found stays found; and a slice of the calls from random bytes of `make fuzz`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reliability import door
from reliability.door_calls import Source

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


@pytest.mark.parametrize(
    "stored", sorted((CORPORA / "door").iterdir()), ids=lambda stored: stored.name
)
def test_what_was_found_at_the_door_stays_found(stored):
    door.call(stored.read_bytes())


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_give_the_reference_or_a_documented_error(seed):
    rng = np.random.default_rng(seed)
    for _ in range(400):
        data = rng.bytes(24)
        try:
            door.call(data)
        except Exception as error:
            raise AssertionError(f"door.call(bytes.fromhex({data.hex()!r}))") from error


def test_a_wrong_result_is_noticed(monkeypatch):
    """The loss of every call a little too large: the door must not be blind to it."""
    right = door.fx.cross_entropy_and_grad

    def wrong(*arguments, **options):
        loss, *more = right(*arguments, **options)
        return (loss * loss.dtype.type(1.01) + loss.dtype.type(0.01), *more)

    monkeypatch.setattr(door.fx, "cross_entropy_and_grad", wrong)
    noticed = 0
    rng = np.random.default_rng(0)
    for _ in range(100):
        try:
            door.call(rng.bytes(24))
        except door.Wrong:
            noticed += 1
    assert noticed > 5


def test_the_same_bytes_are_the_same_choices():
    one, other = Source(b"abc"), Source(b"abc")
    assert [one.byte() for _ in range(50)] == [other.byte() for _ in range(50)]


def test_the_fuzzer_runs_and_keeps_a_record(tmp_path):
    done = script("fuzz", "--only", "cases", "--minutes", "0.01", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert '"passed": true' in (tmp_path / "fuzz.json").read_text()


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
