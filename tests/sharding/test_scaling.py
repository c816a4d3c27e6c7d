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

import scaling  # noqa: E402
import scaling_model as model  # noqa: E402
import scaling_page as page  # noqa: E402

# benchmarks/linear_layer.py would hide tests/linear
sys.path.remove(str(ROOT / "benchmarks"))

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


def test_results_are_those_of_a_whole_run():
    results = json.loads(RESULTS.read_text())
    assert scaling.unfit(results) == []
    assert (results["rows"], results["classes"]) == (1024, 128_256)
    assert results["missing"] == {}
    for of_engine in results["engines"].values():
        assert [int(ranks) for ranks in of_engine] == [1, 2, 3, 4, 5]


def made(classes, load):
    cpu = {"model": "a CPU", "available_cpus": 2}
    where = {"cpu": cpu, "caches": {}, "system": "", "python": "", "versions": {}}
    network = model.Network(latency=20e-6, bandwidth=1e9)
    exchanges = {str(n): network.all_reduce(2, 8 * n) for n in (1, 1_000_000)}
    # 0.1 s, a thousandth of it for the rows
    per_logit = 0.0999 / (1024 * classes)
    few = {"few_classes": 128, "call_of_few": 0.0001 + per_logit * 1024 * 128}
    one = {"passes": 0.1, "in_order": 0.1, "exchanges": exchanges, "memory": 0, **few}
    return {
        "rows": 1024,
        "classes": classes,
        "machine": where | {"load_before": load},
        "missing": {},
        "engines": {"one": {str(n): one | {"call": 0.1 * n} for n in (1, 2, 3, 5)}},
    }


@pytest.mark.parametrize(
    ("arguments", "classes", "load", "writes"),
    [
        ([], 128_256, 0.0, True),
        ([], 128_256, 5.0, False),
        (["--force"], 128_256, 5.0, True),
        (["--quick"], 1282, 0.0, False),
        (["--quick", "--force"], 1282, 0.0, False),
    ],
)
def test_what_is_short_or_busy_is_not_kept(tmp_path, monkeypatch, arguments, classes, load, writes):
    def measured(rows, asked, console):
        assert (rows, asked) == (1024, classes)
        return made(classes, load)

    results, text = tmp_path / "scaling.json", tmp_path / "scaling.md"
    text.write_text("<!-- scaling:begin -->\n<!-- scaling:end -->\n")
    before = text.read_text()
    monkeypatch.setattr(scaling, "measured", measured)
    monkeypatch.setattr(scaling, "RESULTS", results)
    monkeypatch.setattr(scaling, "PAGE", text)
    monkeypatch.setattr(scaling, "PICTURE", tmp_path / "scaling.svg")
    monkeypatch.setattr(scaling, "draw", lambda results, path: path.write_text("drawn"))
    scaling.main(arguments)
    assert results.exists() == (tmp_path / "scaling.svg").exists() == writes
    assert (text.read_text() != before) == writes


def test_how_far_the_model_is_off():
    text = page.tables(made(128_256, 0.0))
    # passes of 0.0999 s in all: half of it with two ranks and with more, as there are two cores
    assert "With 2 ranks, each on a core of its own, calls took 3.9" in text
    assert "With more ranks than the 2 cores, calls took 5.9" in text
    assert "to 9.9" in text


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
    reduced(stats, Shards(0, (classes,), (0,)), channel)
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
            "few_classes": 128,
            "call_of_few": made.seconds(rows, 128, ranks),
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
