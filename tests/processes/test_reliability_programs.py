"""The long programs about processes and callers, in small, so that they keep running."""

import json

import pytest

from processes.runs import environment, run

pytest.importorskip("rich", reason="the programs show their progress with rich")


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


def test_callers(tmp_path):
    arguments = ["--rounds", "2", "--layers", "workqueue", "--warm", "--out", str(tmp_path)]
    _, fault = run(["-m", "reliability.callers", *arguments], environment(None), 200)
    assert not fault, fault
    found = figures("callers", tmp_path)
    assert found["calls"] == 64 * found["processes"]
