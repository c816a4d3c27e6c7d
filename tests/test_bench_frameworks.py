"""Benchmarks inside frameworks: contests are checked before they are timed, aims and tables."""

import json

import numpy as np
import pytest

from fastxent.bench import markdown, pictures, tables
from fastxent.bench.aims import aims
from fastxent.bench.contest import FASTXENT, Contest, Contestant, hold
from fastxent.bench.contests import BOOSTING, FITTING, LIGHTGBM, XGBOOST
from fastxent.bench.document import FULL_SECONDS, Document
from fastxent.bench.measure import Measurement, checked_calls
from fastxent.bench.peers import adapters
from fastxent.bench.timer import Plan, Timing
from fastxent.bench.workloads import Workload

QUICK = Plan(seconds=0.0, fewest=1, most=1)
DIGITS, SYNTHETIC = FITTING


def timing(seconds):
    return Timing(seconds, seconds / 2, 2 * seconds, seconds / 4, 9)


def small_document():
    """fastxent.torch and fastxent.jax take 4 ms, PyTorch 32, compiled 8, JAX 16."""
    seconds = {
        "cython/out": 2e-3,
        "copy": 1e-3,
        "fastxent.torch": 4e-3,
        "PyTorch eager": 32e-3,
        "torch.compile": 8e-3,
        "fastxent.jax": 4e-3,
        "JAX": 16e-3,
    }
    times = {name: timing(one) for name, one in seconds.items()}
    machine = {
        "cpu": {"model": "A CPU", "available_cpus": 2},
        "caches": {},
        "system": "Linux x86_64",
        "python": "3.11.7",
        "versions": {},
        "load_before": 0.1,
    }
    return Document(
        machine,
        [Measurement(Workload(1_024, 32_000, threads=2), times)],
        latency={"fastxent.torch": 30e-6, "PyTorch eager": 15e-6},
        memory={"fastxent.torch": 0, "cython/in place": 5, "JAX": 10},
        seconds=FULL_SECONDS,
        contests=[
            Contest(LIGHTGBM, {FASTXENT: timing(5e-3), "NumPy formula": timing(50e-3)}),
            Contest(SYNTHETIC, {FASTXENT: timing(2.0), "LogisticRegression": timing(1.0)}),
        ],
    )


def expected_from(scores):
    return Contestant(lambda: scores, lambda found: [] if found == [1] else ["not 1"])


def test_a_wrong_contestant_is_not_timed():
    contest = hold("x", {FASTXENT: expected_from([1]), "other": expected_from([2])}, QUICK)
    assert list(contest.timings) == [FASTXENT]
    assert contest.skipped == {"other": "wrong result: not 1"}
    assert contest.ratio("other") is None


def test_a_share_of_the_rows_counts_for_all_of_them():
    one = expected_from([1])
    whole = Contestant(one.run, one.faults, share=1_000_000)
    contest = hold("x", {FASTXENT: one, "other": whole}, Plan(0.0, fewest=5, most=5))
    assert contest.ratio("other") > 1_000


@pytest.mark.parametrize("title", BOOSTING)
def test_boosting_contestants_are_right(title):
    pytest.importorskip("xgboost" if title == XGBOOST else "lightgbm", reason="not installed")
    from fastxent.bench.contests import boosting

    contest = hold(title, boosting.contestants(title, rows=1_000), QUICK)
    assert not contest.skipped
    assert set(contest.timings) == {FASTXENT, *BOOSTING[title]}


@pytest.mark.parametrize("title", BOOSTING)
def test_a_wrong_gradient_is_found(title):
    pytest.importorskip("xgboost" if title == XGBOOST else "lightgbm", reason="not installed")
    from fastxent.bench.contests import boosting

    found = boosting.contestants(title, rows=1_000)[FASTXENT]
    grad, hess = found.run()
    assert found.faults((grad, hess)) == []
    assert "gradient off" in found.faults((grad + np.float32(1e-3), hess))[0]
    assert "Hessian off" in found.faults((grad, 2 * hess))[0]


@pytest.mark.parametrize("title", FITTING)
def test_fits_reach_the_gradient_norm(title):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from fastxent.bench.contests import fitting

    contest = hold(title, fitting.contestants(title, synthetic=(500, 10, 4)), QUICK)
    assert not contest.skipped
    assert set(contest.timings) == {FASTXENT, *FITTING[title]}


@pytest.mark.parametrize("peer", adapters(), ids=lambda peer: peer.name)
def test_adapters_are_right(peer):
    workload = Workload(33, 70, threads=2)
    reason = peer.why_not(workload)
    if reason is not None:
        pytest.skip(reason)
    measurement = Measurement(workload)
    assert list(checked_calls(measurement, [peer])) == [peer.name], measurement.skipped


@pytest.mark.parametrize(
    ("title", "asked", "measured", "verdict"),
    [
        (
            "PyTorch eager's time over that of fastxent.torch, loss and gradient, 1024 x 32000",
            *(5.0, 8.0, "pass"),
        ),
        (
            "torch.compile's time over that of fastxent.torch, loss and gradient, 1024 x 32000",
            *(3.0, 2.0, "miss"),
        ),
        ("JAX's time over that of fastxent.jax, loss and gradient, 1024 x 32000", 3.0, 4.0, "pass"),
        (
            "fastxent.torch's time over that of PyTorch eager, loss and gradient, 32 x 10",
            *(1.5, 2.0, "miss"),
        ),
        (f"NumPy formula's time over ours, {LIGHTGBM}", 8.0, 10.0, "pass"),
        (f"LogisticRegression's time over ours, {SYNTHETIC}", 1.0, 0.5, "miss"),
        (f"LogisticRegression's time over ours, {DIGITS}", 1.0, None, "not measured"),
    ],
)
def test_aims(title, asked, measured, verdict):
    aim = next(aim for aim in aims(small_document()) if aim.title == title)
    expected = None if measured is None else pytest.approx(measured)
    assert (aim.asked, aim.measured, aim.verdict) == (asked, expected, verdict)


def test_tables():
    document = small_document()
    assert tables.inside_frameworks(document).splitlines()[-1] == (
        "| 1024 x 32000 | 4.00 | 4.00 | 32.00 (**8.0**) | 8.00 (**2.0**) | 16.00 (**4.0**) |"
    )
    assert tables.contests(document).splitlines()[-1] == (
        f"| {SYNTHETIC} | 2,000.0 | LogisticRegression 1,000.0 | **0.5** |"
    )
    assert tables.inside_frameworks(Document()) == tables.contests(Document()) == ""
    for page in (markdown.readme_section(document), markdown.results_page(document)):
        assert tables.contests(document) in page
        assert tables.inside_frameworks(document) in page


def test_adapters_are_not_taken_for_peers():
    heading = tables.comparison(small_document().measurements).splitlines()[0]
    assert "fastxent." not in heading
    assert "fastest of the others" not in heading


def test_contests_survive_their_file(tmp_path):
    document = small_document()
    document.save(tmp_path / "results.json")
    found = Document.load(tmp_path / "results.json")
    assert found.contests == document.contests
    assert json.loads((tmp_path / "results.json").read_text())["contests"]


def test_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib draws the picture")
    drawn = {path.name: path for path in pictures.draw_all(small_document(), tmp_path)}
    assert "fastxent.torch" in drawn["frameworks.svg"].read_text()
