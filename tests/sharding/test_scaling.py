"""docs/scaling.md: its tables are those of the results, and its model counts what is exchanged."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent.bench.markdown import replaced
from fastxent.sharding.agreement import SIZE, Shards
from fastxent.sharding.exchange import reduced

ROOT = Path(__file__).parent.parent.parent
if not (ROOT / "benchmarks" / "scaling.py").exists():
    pytest.skip("benchmarks/ is not beside tests/: not a source tree", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import scaling_model as model  # noqa: E402
import scaling_page as page  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"


def test_page_and_picture_are_those_of_the_results(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="Matplotlib draws the picture")
    results = json.loads(RESULTS.read_text())
    text = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    assert replaced(text, page.tables(results), "scaling") == text
    expected = (ROOT / "docs" / "pictures" / "scaling.svg").read_text("utf-8")
    if f"Matplotlib v{matplotlib.__version__}," in expected:
        page.draw(results, tmp_path / "scaling.svg")
        assert (tmp_path / "scaling.svg").read_text("utf-8") == expected


class Counting:
    """A channel of one rank that counts the bytes it is given."""

    arrays, rank, size = np, 0, 1

    def __init__(self):
        self.bytes = 0

    def all_max(self, numbers):
        self.bytes += numbers.nbytes

    all_sum = all_min = all_max


def test_model_counts_what_is_exchanged():
    rows, classes = 50, 7
    stats = fx.partial_stats(
        np.zeros((rows, classes), np.float32),
        np.zeros(rows, int),
        class_offset=0,
        num_classes=classes,
    )
    channel = Counting()
    reduced(stats, Shards(0, (classes,), (0,)), channel, None)
    assert channel.bytes == model.NUMBER * (model.MAXIMA + model.SUMS) * rows
    assert model.DESCRIPTOR == SIZE
    # of two ranks each sends its half and gets the other's: as many bytes as it has
    assert model.bytes_sent(rows, 2) == SIZE + channel.bytes
    assert model.bytes_sent(rows, 1) == 0


def test_model_of_what_it_made_itself():
    network = model.Network(latency=20e-6, bandwidth=1e9)
    made = model.Model(per_logit=1e-9, per_row=1e-7, network=network, cores=2)
    rows, classes = 100, 10_000
    exchanges = {str(n): network.all_reduce(2, 8 * n) for n in (1, 1000, 1_000_000)}
    measured = {
        str(ranks): {
            "passes": made.passes(rows, classes, ranks),
            "call": made.seconds(rows, classes, ranks),
            "exchanges": exchanges,
        }
        for ranks in (1, 2)
    }
    found = model.Model.of(measured, rows, classes, cores=2)
    for ranks in (1, 2, 5, 1024):
        assert found.seconds(rows, classes, ranks) == pytest.approx(
            made.seconds(rows, classes, ranks), rel=1e-3
        )
    # more ranks than cores compute no faster
    assert made.passes(rows, classes, 5) == made.passes(rows, classes, 2)
