"""The benchmark on a card, rehearsed on the CPU: who is checked, what is counted, what is told."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the benchmark on a card is run by PyTorch")

from fastxent.bench.card import measure as measuring
from fastxent.bench.card.measure import CardMeasurement, latency, measure
from fastxent.bench.card.peers import COPY, PEERS, CardPeer
from fastxent.bench.card.report import CardDocument, aims, draw, page
from fastxent.bench.card.workloads import WORKING_SET, WORKLOADS, CardWorkload
from fastxent.bench.timer import Timing


def timing(seconds):
    return Timing(seconds, seconds, seconds, seconds, 3)


def small_document():
    """The copy takes 1 ms, ours 1.25, everybody else 5."""
    others = {peer.name: timing(5e-3) for peer in PEERS}
    seconds = others | {
        COPY: timing(1e-3),
        "fastxent": timing(1.25e-3),
        "fastxent.torch": timing(1.25e-3),
    }
    found = [
        CardMeasurement(CardWorkload(4096, 1000, "float32", 0.88), dict(seconds)),
        CardMeasurement(CardWorkload(4096, 50257, "bfloat16", 0.7), dict(seconds), {"X": "why"}),
    ]
    versions, quick = {"torch": "2"}, {"fastxent.torch": 10e-6, "PyTorch eager": 20e-6}
    return CardDocument({"card": "A card"}, versions, found, quick, {"cold": 2.0, "cached": 0.7})


def test_every_workload_is_larger_than_caches_and_has_its_aim():
    for workload in WORKLOADS:
        assert WORKING_SET <= workload.counted_bytes < 1.5 * WORKING_SET
        assert workload.asked is not None
    assert [w.is_aligned for w in WORKLOADS if w.classes == 50257] == [False, False]
    assert len(WORKLOADS) == 12


def test_share_counts_labels_as_well():
    one = small_document().measurements[0]
    copied, counted = 2 * 4096 * 4000, 2 * 4096 * 4000 + 8 * 4096
    assert one.share("fastxent") == pytest.approx((counted / 1.25e-3) / (copied / 1e-3))
    assert one.share("nobody") is None
    assert one.ratio("QuACK", "fastxent") == pytest.approx(4)


def test_aims_say_what_was_reached():
    verdicts = {aim.title: (aim.asked, aim.verdict) for aim in aims(small_document())}
    assert verdicts["share of the copy, 1000 float32"] == (0.88, "miss")
    assert verdicts["share of the copy, 50257 bfloat16"] == (0.7, "pass")
    assert verdicts["over QuACK, 1000 float32"] == (1.0, "pass")
    assert verdicts["over QuACK, 50257 bfloat16"] == (1.5, "pass")
    assert verdicts["small call"] == (pytest.approx(20), "pass")
    assert verdicts["small call, over PyTorch eager"] == (1.0, "pass")
    assert verdicts["first use, cached"] == (0.5, "miss")


def test_tables_json_and_picture(tmp_path):
    document = small_document()
    text = page(document)
    assert "| 4,096 x 50,257 bfloat16 | 80.0 % | 1.000 | 1.250 |" in text
    assert "Not timed: X: why." in text
    document.save(tmp_path / "card.json")
    kept = json.loads((tmp_path / "card.json").read_text())
    assert kept["measurements"][0]["timings"]["fastxent"]["median"] == 1.25e-3
    assert ["first use, cached", "≤ 0.5 s", "0.70 s", "miss"] in kept["aims"]
    pytest.importorskip("matplotlib")
    assert draw(document.measurements, "A card", tmp_path / "card.svg") is None
    assert "fastxent.torch" in (tmp_path / "card.svg").read_text()


def test_everybody_here_is_checked_and_timed(monkeypatch):
    few = tuple(peer for peer in PEERS if peer.package is None and peer.name != "torch.compile")
    monkeypatch.setattr(measuring, "PEERS", few)
    found = measure(CardWorkload(130, 33, "bfloat16"), "cpu")
    assert not found.skipped
    assert set(found.timings) == {COPY, *(peer.name for peer in few)}
    assert all(one.median > 0 for one in found.timings.values())


def test_what_is_wrong_or_fails_is_not_timed(monkeypatch):
    def wrong(logits, labels):
        return lambda: (logits.sum(), logits.detach().softmax(-1))

    def failing(logits, labels):
        raise RuntimeError("no kernel for this")

    def wrong_at_the_end(logits, labels):
        truth = logits.detach().softmax(-1)
        truth[range(len(logits)), labels] -= 1
        truth[-1, 0] += 0.1
        return lambda: (logits.sum(), truth)

    peers = (CardPeer("wrong", wrong), CardPeer("failing", failing))
    peers += (CardPeer("wrong at the end", wrong_at_the_end),)
    peers += (CardPeer("missing", wrong, "no-such-package"), CardPeer("large", wrong, None, 1000))
    monkeypatch.setattr(measuring, "PEERS", peers)
    found = measure(CardWorkload(200, 5, "float32"), "cpu")
    assert set(found.timings) == {COPY}
    assert found.skipped["wrong at the end"].startswith("WRONG: the gradient is off by 1.0e-01")
    assert found.skipped["wrong"].startswith("WRONG: the gradient is off by")
    assert found.skipped["failing"] == "failed: RuntimeError: no kernel for this"
    assert found.skipped["missing"] == "no-such-package is not installed"
    assert found.skipped["large"] == "measured from 1,000 classes on"


def test_latency_is_that_of_a_call(monkeypatch):
    said = []
    monkeypatch.setattr(measuring, "PEERS", PEERS[:1])
    monkeypatch.setattr("fastxent.bench.card.clock._CALLS_OF_HOST", 2)
    found = latency("cpu", said.append)
    assert said == ["a small call: fastxent"]
    assert 0 < found["fastxent"] < np.inf
