"""What fuzzing has found stays found; and a slice of the calls from random bytes of `make fuzz`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reliability import door, fuzz, records
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
    assert fuzz.main(["--executions", "2000001", "--out", str(tmp_path)]) == 1
    record = records.load("fuzz", tmp_path)
    assert record["faults"] == ["asked 2,000,001 executions, there were 2,000,000"]
    assert not record["passed"]
    assert record["figures"]["found"] == 0
    assert record["figures"]["runs"] == 2
    assert record["figures"]["minutes"] == round(record["seconds"] / 60)


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
