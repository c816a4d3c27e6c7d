"""The long programs about processes and callers, in small, so that they keep running."""

import json

import pytest

import fastxent as fx
from processes.runs import environment, run

pytest.importorskip("rich", reason="the programs show their progress with rich")

from reliability import callers, survival


def figures(name, out):
    record = json.loads((out / f"{name}.json").read_text())
    assert record["passed"], record["faults"]
    return record["figures"]


def test_survival(tmp_path):
    arguments = ["--ways", "fork", "pool_fork", "--backends", "numpy", "--out", str(tmp_path)]
    out, fault = run(["-m", "reliability.survival", *arguments], environment(None), 200)
    assert not fault, fault
    found = figures("survival", tmp_path)
    assert (found["cells"], found["survived"], found["answers"]) == (2, 2, 3)
    assert found["matrix"]["fork"] == {"numpy": "ok, on one thread"}
    assert "pool_fork" in out


@pytest.mark.skipif(
    any(fx.backends()[name] for name in ("cython", "numba")), reason="it takes all CPU backends"
)
def test_callers(tmp_path):
    arguments = ["--rounds", "2", "--layers", "workqueue", "--warm", "--out", str(tmp_path)]
    _, fault = run(["-m", "reliability.callers", *arguments], environment(None), 200)
    assert not fault, fault
    found = figures("callers", tmp_path)
    assert found["calls"] == 64 * found["processes"]


def test_what_is_promised_and_cannot_be_run_is_not_counted_as_passed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(survival.NEEDS, "server", "a_package_that_is_not_here")
    ways = ["--ways", "fork", "server", "--backends", "numpy"]
    assert survival.main([*ways, "--out", str(tmp_path)]) == 2
    assert "way server" in capsys.readouterr().out
    monkeypatch.setattr(callers, "tbb_library", lambda: None)
    assert callers.main(["--out", str(tmp_path)]) == 2
    assert "layer tbb" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
