"""The command line, as a user runs it: in a process of its own, but where something is broken."""

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastxent as fx
from fastxent import cli, selfcheck
from fastxent.backends import load
from fastxent.cases import Case

ABLE = [name for name, reason in fx.backends().items() if reason is None]

# Makes packages impossible to import, as if they were not installed.
BLOCKER = """
    import importlib.abc
    import runpy
    import sys


    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {blocked}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


    sys.meta_path.insert(0, Blocker())
    sys.argv = ["fastxent", *{arguments}]
    runpy.run_module("fastxent", run_name="__main__")
"""


def fastxent(*arguments, without=()):
    """Run the command; `without` names packages that it must not find."""
    command = [sys.executable, "-W", "error"]
    if without:
        code = textwrap.dedent(BLOCKER).format(blocked=set(without), arguments=arguments)
        command += ["-c", code]
    else:
        command += ["-m", "fastxent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_version():
    result = fastxent("--version")
    assert (result.returncode, result.stdout) == (0, f"fastxent {fx.__version__}\n")


@pytest.mark.parametrize("command", [(), ("info",), ("check",), ("bench",), ("demo",)])
def test_help_shows_examples(command):
    result = fastxent(*command, "--help")
    assert result.returncode == 0
    assert "examples:\n  fastxent" in result.stdout


def test_info_prints_a_listing():
    result = fastxent("info")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for name in (fx.__version__, *fx.backends(), "model", "limit", "set by", "numpy"):
        assert name in result.stdout


def test_info_as_json():
    result = fastxent("info", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["fastxent"] == {"version": fx.__version__}
    assert isinstance(facts["cpu"]["features"], list)
    assert facts["threads"]["limit"] >= 1
    assert isinstance(facts["threads"]["set_by"], str)
    assert list(facts["backends"]) == list(fx.backends())
    for backend in facts["backends"].values():
        assert backend.keys() == {"able", "reason", "facts"}


OPTIONAL = (
    "numba",
    "llvmlite",
    "sklearn",
    "scipy",
    "matplotlib",
    "rich",
    "threadpoolctl",
    "ml_dtypes",
)


def test_info_without_anything_optional():
    result = fastxent("info", "--json", without=OPTIONAL)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["backends"]["numpy"]["able"]
    assert not facts["backends"].get("numba", {"able": False})["able"]


def test_bench_names_the_extra_without_rich():
    result = fastxent("bench", "--quick", without=("rich",))
    assert result.returncode == 2
    assert result.stderr.endswith('the benchmark needs rich: pip install "fastxent[bench]"\n')


def test_bench_without_any_peer():
    pytest.importorskip("rich", reason="rich is not installed")
    missing = ("torch", "jax", "sklearn", "scipy")
    result = fastxent("bench", "--shape", "64,10", "--quick", "--threads", "1", without=missing)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("PyTorch eager", "torch.compile", "JAX", "scikit-learn", "SciPy"):
        assert f"not timed: {name}: No module named" in result.stdout
    assert 'pip install "fastxent[bench]"' in result.stdout


@pytest.mark.parametrize("place", [".", "not/there.json"])
def test_bench_asks_for_a_file_that_can_be_written_before_it_measures(
    place, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("rich", reason="rich is not installed")
    from fastxent.bench import terminal

    monkeypatch.setattr(terminal, "run", lambda *_arguments: pytest.fail("it measures"))
    assert cli.main(["bench", "--quick", "--json", str(tmp_path / place)]) == 2
    assert "error: --json: " in capsys.readouterr().err


def test_bench_leaves_the_file_to_the_measurement(tmp_path, monkeypatch):
    pytest.importorskip("rich", reason="rich is not installed")
    from fastxent.bench import terminal

    monkeypatch.setattr(terminal, "run", lambda *_arguments: 0)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("{}")
    for path in (old, new):
        assert cli.main(["bench", "--quick", "--shape", "8,4", "--json", str(path)]) == 0
    assert old.read_text() == "{}"
    assert not new.exists()


def test_bench_says_how_much_memory_a_shape_needs(monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich is not installed")
    from fastxent.bench import machine, terminal

    monkeypatch.setattr(machine, "available_bytes", lambda: 10**9)
    monkeypatch.setattr(terminal, "run", lambda *_arguments: pytest.fail("it measures"))
    assert cli.main(["bench", "--shape", "100000,1000"]) == 2
    message = capsys.readouterr().err
    assert re.search(r"--shape: 100000 x 1000 needs \d+\.\d GB .* 1\.0 GB", message)


def test_check_without_anything_optional():
    result = fastxent("check", "--quick", without=OPTIONAL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "bfloat16 was not checked: bfloat16 is a dtype of ml_dtypes" in result.stdout
    assert "all passed" in result.stdout


def test_check_prints_a_table():
    result = fastxent("check", "--quick")
    assert result.returncode == 0, result.stdout + result.stderr
    _, headings, *lines = result.stdout.splitlines()
    assert headings.split()[:4] == ["backend", "dtype", "cases", "passed"]
    dtypes = [dtype for dtype in selfcheck.DTYPES if Case(5, 10).why_not(dtype) is None]
    table = lines[: len(dtypes) * len(ABLE)]
    assert [line.split()[:2] for line in table] == [
        [name, dtype] for name in ABLE for dtype in dtypes
    ]
    for line in table:
        name, _, cases, passed = line.split()[:4]
        assert int(cases) == int(passed)
        if f"backend {name!r} cannot run" in result.stdout:  # some cases, with its reason
            continue
        assert int(cases) > 10
        assert len(re.findall(r"\d\.\de[-+]\d\d \( *\d+%\)", line)) == 4
    # Every column ends at the same place: the numbers stand below each other.
    assert len({len(line) for line in table}) == 1


def test_check_names_backends_that_cannot_run(monkeypatch, capsys):
    backend = load("numpy")
    monkeypatch.setattr(type(backend), "why_not", lambda self, problem=None: "it is having a nap")
    cli.main(["check", "--quick", "--dtype", "float32"])
    assert "numpy was not checked: it is having a nap" in capsys.readouterr().out


def test_check_of_one_backend_and_dtype(capsys):
    assert cli.main(["check", "--quick", "--backend", "numpy", "--dtype", "float64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["numpy", "float64"]
    assert not any("float32" in line for line in lines)


def test_a_wrong_gradient_is_found_and_explained(monkeypatch, capsys):
    backend = load("numpy")
    forward = type(backend).forward

    def slightly_wrong(self, problem, out):
        forward(self, problem, out)
        if out.grad is not None:
            out.grad *= 1.001

    monkeypatch.setattr(type(backend), "forward", slightly_wrong)
    assert cli.main(["check", "--quick", "--backend", "numpy", "--dtype", "float32"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"FAILED .*float32, numpy", printed)
    assert re.search(r"gradient: error \S+ > tolerance", printed)
    assert re.search(r"\d+ failed", printed)


def test_a_backend_that_raises_fails_its_cases(monkeypatch, capsys):
    def broken(self, problem, out):
        raise ZeroDivisionError("kernel fell over")

    monkeypatch.setattr(type(load("numpy")), "softmax", broken)
    assert cli.main(["check", "--quick", "--backend", "numpy", "--dtype", "float32"]) == 1
    assert "raised ZeroDivisionError: kernel fell over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "--backend", "abacus"), "backend must be one of"),
        (("demo", "--backend", "abacus"), "backend must be one of"),
        (("check", "--dtype", "int8"), "invalid choice"),
        (("demo", "--epochs", "0"), "positive integer"),
        (("fly",), "invalid choice"),
        ((), "required"),
    ],
)
def test_wrong_usage(arguments, message):
    result = fastxent(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_demo_leaves_nothing_behind_when_the_backend_is_wrong(tmp_path, capsys):
    assert cli.main(["demo", "--backend", "abacus", "--out", str(tmp_path / "new")]) == 2
    assert "backend must be one of" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_backend_that_cannot_run_is_wrong_usage(monkeypatch, capsys):
    backend = load("numpy")
    monkeypatch.setattr(type(backend), "why_not", lambda self, problem=None: "it is having a nap")
    assert cli.main(["check", "--backend", "numpy"]) == 2
    assert "it is having a nap" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "package"),
    [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib"), ("rich", "rich")],
)
def test_demo_names_the_extra_that_is_missing(module, package, tmp_path):
    result = fastxent("demo", "--out", str(tmp_path / "new"), without=(module,))
    assert result.returncode == 2
    assert re.search(rf'needs .*{package}.*: pip install "fastxent\[demo\]"', result.stderr)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "new").exists()


def test_the_command_line_loads_nothing_heavy():
    code = """
        import sys
        import fastxent.cli
        heavy = {"numba", "sklearn", "matplotlib", "rich", "scipy"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_errors_of_the_environment_are_part_of_the_report(monkeypatch, capsys):
    monkeypatch.setenv("FASTXENT_NUM_THREADS", "many")
    monkeypatch.setattr("fastxent.threads._process_limit", None)
    assert cli.main(["info"]) == 0
    assert "FASTXENT_NUM_THREADS must be an integer, got 'many'" in capsys.readouterr().out
    assert np.isfinite(fx.softmax([1.0, 2.0])).all()
