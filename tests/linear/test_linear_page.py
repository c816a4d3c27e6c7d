"""What the benchmark of a linear layer writes of its results, and compares before it measures."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not (BENCHMARKS / "linear_layer.py").exists():
    pytest.skip("benchmarks/ is not beside tests/: not a source tree", allow_module_level=True)
pytest.importorskip("rich", reason="rich is not installed: the benchmark needs it")
sys.path.insert(0, str(BENCHMARKS))

import linear_layer  # noqa: E402
import linear_page  # noqa: E402

TIMES = {"PyTorch": [3.0, 4.0], "fastxent.torch": [1.0, 2.0], "PyTorch, chunked": [2.0, 5.0]}


def results():
    found = linear_layer.ratios(TIMES, "PyTorch")
    linear_layer.add_times(found, TIMES)
    return {
        "machine": "a machine",
        "rounds": 2,
        "times": {"Beside PyTorch, 4096 x 512 x 32000": found},
        "filter": {"largest difference in dW": 1e-7, "its bound": 8e-6},
        "memory": [("4096 x 512 x 32000", 2e6, 1_500_000)],
        "errors": {"1024 rows": {"hidden": 0.75}},
    }


def test_the_page_has_every_result():
    page = linear_page.section(results())
    for text in ("2 rounds", "off by at most 1e-07", "8e-06", "2 MB | 1.5 MB", "0.75", "a machine"):
        assert text in page
    (row,) = (line for line in page.splitlines() if "PyTorch, chunked" in line)
    assert [cell.strip() for cell in row.split("|")][-2] == "2.25"  # of 2 / 1 and 5 / 2
    assert "PyTorch, chunked 3.50 s (2.25 times)" in linear_page.summary_table(results())


def test_parts_take_the_place_of_stored_ones():
    stored = results()
    found = {"times": {"Beside JAX": {}}, "errors": {}}
    merged = linear_layer.merged(stored, found)
    assert set(merged["times"]) == {"Beside JAX", *stored["times"]}
    assert merged["errors"] == {}
    assert merged["filter"] == stored["filter"]
    only = linear_layer.merged({"machine": "a machine", "rounds": 2}, {"times": {}})
    assert "a machine" in linear_page.section(only)


def test_other_results_are_not_measured():
    right, wrong = np.ones(3), np.array([1, 1, 1.01])
    linear_layer.compare({"PyTorch": lambda: (right,), "fastxent": lambda: (right,)})
    with pytest.raises(ValueError, match=r"fastxent is off by 0\.01"):
        linear_layer.compare({"PyTorch": lambda: (right,), "fastxent": lambda: (wrong,)})
    with pytest.raises(ValueError, match="fastxent is off by nan"):
        linear_layer.compare({"PyTorch": lambda: (right,), "fastxent": lambda: (np.nan * right,)})
