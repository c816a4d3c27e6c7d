"""What `make test-cuda` consists of, as far as it can be run without a card."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("greenlet", reason="the simulation runs threads as greenlets")

from gpu.card import part, run, sanitized

HERE = Path(__file__).parent


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(sanitized, "CLASSES", (10, 33, 201))
    monkeypatch.setattr(sanitized, "DTYPES", {"float32": 1e-5})


@pytest.mark.usefixtures("simulated", "few")
def test_what_the_sanitizers_run_is_right():
    assert sanitized.main() == 0


@pytest.mark.usefixtures("simulated", "few")
def test_a_wrong_number_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sanitized, "DTYPES", {"float32": 1e-12})
    assert sanitized.main() == 1
    assert "WRONG: float32 C=10 gradient {}: off by" in capsys.readouterr().out


def collected(number_of):
    command = [sys.executable, "-m", "pytest", "-c", HERE / "card" / "pytest.ini"]
    command += [f"--rootdir={HERE.parent.parent}", "--collect-only", f"--part={number_of}"]
    done = subprocess.run(
        [*command, HERE / "test_plan.py"],
        env=run.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return re.findall(r"^\S+::\S.*$", done.stdout, re.MULTILINE)


def test_every_part_has_its_share():
    whole = collected("0/1")
    parts = [collected(f"{number}/3") for number in range(3)]
    assert len(whole) > 20
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Item:
    """What the plugin looks at in a test."""

    def __init__(self, nodeid, **params):
        self.nodeid = nodeid
        if params:
            self.callspec = SimpleNamespace(params=params)


def test_of_the_table_only_what_the_card_computes_is_run():
    table = "tests/test_conformance.py::test"
    case = SimpleNamespace(shape=(3, 10))
    chosen = [Item(table, backend=name, case=case, dtype="float32") for name in ("cuda", "numpy")]
    items = [*chosen, Item(table), Item("tests/gpu/card/test_x.py::test")]
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    dropped = []
    config = SimpleNamespace(getoption=lambda name: "0/1", hook=hook)
    part.pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == [table, "tests/gpu/card/test_x.py::test"]
    assert items[0].callspec.params["backend"] == "cuda"
    assert len(dropped) == 2


def test_what_takes_too_long_is_stopped():
    process = run.started("-c", "import time; print('begun', flush=True); time.sleep(600)")
    said = run.ended(process, 5)
    assert "begun" in said
    assert process.returncode != 0


def test_without_a_card_nothing_is_called_tested():
    done = subprocess.run(
        [sys.executable, HERE / "card" / "run.py"],
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("nothing tested: ")


def test_the_processes_that_share_classes_are_right_on_the_host(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from gpu.card import sharded_world

    assert sharded_world.told(2, "cpu", tmp_path, 100) == []
