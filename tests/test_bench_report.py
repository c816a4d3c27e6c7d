"""What is made of measurements: aims, tables, pictures, and the files that keep them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from fastxent.bench import markdown, pictures, tables
from fastxent.bench.aims import Aim, aims
from fastxent.bench.document import FULL_SECONDS, Document
from fastxent.bench.measure import Measurement
from fastxent.bench.summary import fastest_peer, lower_ceiling, peer_ratio, share
from fastxent.bench.timer import Timing
from fastxent.bench.workloads import (
    BINARY_ELEMENTS,
    CLASS_AXIS_SHAPES,
    HALF_SHAPES,
    HALVES,
    OPTIONS,
    SHAPES,
    SOFTMAX_SHAPES,
    Workload,
    class_axis_1,
)

ROOT = Path(__file__).parent.parent
LATEST = ROOT / "benchmarks" / "results" / "latest.json"


def timing(seconds):
    return Timing(seconds, seconds - 1e-4, seconds + 1e-4, seconds - 2e-4, 9)


def kind_workloads():
    """One measurement of each kind and shape that the aims ask for."""
    yield from (Workload(*s, threads=2, dtype=dtype) for dtype in HALVES for s in HALF_SHAPES)
    yield from (class_axis_1(shape, threads=2) for shape in CLASS_AXIS_SHAPES)
    for operation in ("softmax", "log_softmax"):
        yield from (Workload(*s, threads=2, operation=operation) for s in SOFTMAX_SHAPES)
    yield Workload(BINARY_ELEMENTS, 1, threads=2, operation="binary")


def kind_times():
    """Ours takes 1 ms, in float32 1.25, numba twice that; JAX 3, torch.compile 6, SciPy 12."""
    seconds = {
        "cython/out": 1e-3,
        "cython/new": 2e-3,
        "cython/out, float32": 1.25e-3,
        "numba/out": 2e-3,
        "numba/new": 4e-3,
        "numba/out, float32": 2.5e-3,
        "torch.compile": 6e-3,
        "JAX": 3e-3,
        "SciPy": 12e-3,
        "copy": 0.8e-3,
    }
    return {name: timing(t) for name, t in seconds.items()}


def small_document():
    """A document with round numbers: ours takes 2 ms, the fastest peer 8, the copy 1."""
    timings = {
        "cython/out": 2e-3,
        "cython/in place": 1.8e-3,
        "cython/out x1": 3.6e-3,
        "numba/out": 2.5e-3,
        "numba/out x1": 3.6e-3,
        "JAX": 8e-3,
        "NumPy": 40e-3,
        "copy": 1e-3,
        "copy in place": 0.8e-3,
    }
    times = {name: timing(seconds) for name, seconds in timings.items()}
    measurements = [
        Measurement(Workload(*shape, **kind), times, {"SciPy": "gone"}, [], {"cython": 1.5e-3})
        for kind in (
            {"threads": 2},
            {"threads": 2, "dtype": "float64"},
            {"threads": 2, "labels": "soft"},
            {"threads": 2, "labels": "soft", "dtype": "float64"},
            {"threads": 1},
        )
        for shape in SHAPES
    ]
    measurements += [Measurement(workload, kind_times()) for workload in kind_workloads()]
    plain = next(m for m in measurements if m.workload == Workload(1024, 32_000, threads=2))
    plain.timings = times | {
        f"{backend}/out, {option}": timing(seconds)
        for option in OPTIONS
        for backend, seconds in (("cython", 2.1e-3), ("numba", 4.5e-3))
    }
    machine = {
        "cpu": {"model": "A CPU", "available_cpus": 2},
        "caches": {"L2": "1024K"},
        "system": "Linux x86_64",
        "python": "3.11.7",
        "versions": {"numpy": "2.4.6"},
        "load_before": 0.1,
    }
    return Document(
        machine,
        measurements,
        {"cython/out": 2e-6, "JAX": 9e-6},
        {"cython/out": 1_000_000, "JAX": 5_000_000},
        {"import": 0.01, "cold": 5.0, "warm": 0.5},
        {
            "small_elements": 10**8,
            "large_elements": 2**31 + 2**20,
            "seconds_per_element": {"cython": {"small": 2e-10, "large": 3e-10}},
        },
        {"numba soft float32 AVX2": 5.5, "cython hard float16 AVX-512": 2.5},
        FULL_SECONDS,
    )


def test_summary_of_round_numbers():
    measurement = small_document().measurements[0]
    assert lower_ceiling(measurement).name == "arithmetic"
    assert share(measurement, "cython/out") == pytest.approx(0.75)
    assert fastest_peer(measurement) == "JAX"
    assert peer_ratio(measurement, "cython/out") == pytest.approx(4.0)
    assert peer_ratio(measurement, "nobody") is None


def test_aims_name_what_was_asked_and_measured():
    by_name = {(aim.title, aim.backend): aim for aim in aims(small_document())}
    assert len(by_name) == len(aims(Document())) == 133
    aim = by_name["share of the lower ceiling, 8192 x 1000", "cython"]
    assert (aim.asked_text, aim.measured_text, aim.verdict) == ("≥ 0.9", "0.75", "miss")
    aim = by_name["time in place over `out=`, 8192 x 1000 (arithmetic binds)", "cython"]
    assert (aim.asked, aim.measured, aim.verdict) == (1.02, pytest.approx(0.9), "pass")
    aim = by_name["one thread's time over that of 2, 4 x 262144", "cython"]
    assert (aim.measured, aim.verdict) == (pytest.approx(1.8), "pass")
    aim = by_name["whole call at 32 x 10, best of many", "cython"]
    assert (aim.measured_text, aim.verdict) == ("2.00 us", "pass")
    aim = by_name["whole call at 32 x 10, best of many", "numba"]
    assert (aim.measured_text, aim.verdict) == ("-", "not measured")
    aim = by_name[
        "instructions an element in the loops over long rows, soft labels, float32, AVX2", "numba"
    ]
    assert (aim.asked_text, aim.measured_text, aim.verdict) == ("≤ 6", "5.50", "pass")
    aim = by_name["time an element in place at 2³¹ + 2²⁰ elements over that at 10⁸", "cython"]
    assert (aim.asked_text, aim.measured_text, aim.verdict) == ("≤ 1.2", "1.50", "miss")
    assert all(aim.verdict == "not measured" for aim in aims(Document()))


@pytest.mark.parametrize(
    ("title", "backend", "asked", "measured", "verdict"),
    [
        ("time over the float32 call, bfloat16, 1024 x 32000", "cython", 1.05, 0.8, "pass"),
        ("share of the lower ceiling, float16, 256 x 128256", "cython", 0.85, 0.8, "miss"),
        ("share of the lower ceiling, float16, 256 x 128256", "numba", 0.75, 0.4, "miss"),
        ("faster PyTorch's time over ours, float16, 1024 x 32000", "cython", 5.0, 6.0, "pass"),
        (
            "fastest peer's time over ours, classes on axis 1 of 32 x 1000 x 64",
            "cython",
            4.0,
            3.0,
            "miss",
        ),
        ("time with weight over that without, 1024 x 32000", "cython", 1.1, 1.05, "pass"),
        ("time with weight over that without, 1024 x 32000", "numba", 1.1, 1.8, "miss"),
        ("time with softcap over that without, 1024 x 32000", "cython", 1.6, 1.05, "pass"),
        (
            "share of the lower ceiling, log_softmax with `out=`, 8192 x 1000",
            "cython",
            0.85,
            0.8,
            "miss",
        ),
        (
            "fastest peer's time over ours, softmax with `out=`, 65536 x 10",
            "cython",
            2.5,
            3.0,
            "pass",
        ),
        (
            "SciPy's time over ours, softmax and log_softmax, smallest, with `out=` and without",
            "cython",
            4.0,
            6.0,
            "pass",
        ),
        (
            "fastest peer's time over ours, binary cross-entropy of 10,000,000 elements",
            "numba",
            4.0,
            1.5,
            "miss",
        ),
        (
            "instructions an element in the loops over long rows, hard labels, float16, AVX-512",
            "cython",
            2.8,
            2.5,
            "pass",
        ),
    ],
)
def test_aims_of_kinds(title, backend, asked, measured, verdict):
    by_name = {(aim.title, aim.backend): aim for aim in aims(small_document())}
    aim = by_name[title, backend]
    assert (aim.asked, aim.measured, aim.verdict) == (asked, pytest.approx(measured), verdict)


def test_a_number_that_is_just_reached_passes():
    assert Aim("", "", 1.0, 1.0).verdict == Aim("", "", 1.0, 1.0, at_least=False).verdict == "pass"


def test_a_small_large_run_counts_for_nothing():
    document = small_document()
    document.large["large_elements"] = 2**31
    found = [aim for aim in aims(document) if aim.title.startswith("time an element in place")]
    assert {aim.verdict for aim in found} == {"not measured"}


def test_short_and_busy_runs_are_not_fit_to_be_kept():
    document = small_document()
    assert document.unfit() == []
    assert len(Document().unfit()) == 1
    document.machine["load_before"] = 1.0  # half of two CPUs
    assert document.unfit() == []
    document.machine["load_before"] = 1.1
    assert "BUSY: a load average of 1.1" in document.unfit()[0]
    document.seconds = 0.02
    assert "0.02 s, not 0.2" in document.unfit()[0]
    assert len(document.unfit()) == 2


@pytest.fixture
def report(tmp_path, monkeypatch):
    """benchmarks/report.py, with its results and pages in a directory of the test."""
    pytest.importorskip("rich", reason="rich is not installed")
    script = ROOT / "benchmarks" / "report.py"
    if not script.exists():
        pytest.skip("benchmarks/ is not beside tests/: not a source tree")
    monkeypatch.syspath_prepend(str(script.parent))
    spec = importlib.util.spec_from_file_location("report", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(module, "write", lambda _document: (tmp_path / "pages").touch())
    monkeypatch.delenv("FORCE", raising=False)
    return module


def raw_run(path, seconds):
    document = small_document()
    extra = {"machine": document.machine, "seconds": seconds, "startup": {"warm": seconds}}
    path.write_text(json.dumps({"benchmarks": [{"extra_info": extra}]}))
    return str(path)


def test_report_keeps_what_is_fit_and_what_is_forced(report, tmp_path, monkeypatch, capsys):
    short = raw_run(tmp_path / "short.json", 0.02)
    small_document().save(report.LATEST)
    before = report.LATEST.read_text()
    report.main([short])
    assert "Not kept, and no page written: each was timed for 0.02 s" in capsys.readouterr().out
    assert report.LATEST.read_text() == before
    assert not (tmp_path / "pages").exists()
    report.main([raw_run(tmp_path / "full.json", FULL_SECONDS)])
    kept = Document.load(report.LATEST)
    assert kept.startup == {"warm": FULL_SECONDS}
    assert kept.large == small_document().large  # has a run of its own
    assert (tmp_path / "pages").exists()
    report.main([short, "--force"])
    assert Document.load(report.LATEST).seconds == 0.02
    monkeypatch.setenv("FORCE", "1")
    report.main([raw_run(tmp_path / "short.json", 0.03)])
    assert Document.load(report.LATEST).seconds == 0.03


def test_document_survives_its_file(tmp_path):
    document = small_document()
    document.save(tmp_path / "document.json")
    again = Document.load(tmp_path / "document.json")
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "document.json").read_text()
    assert again.measurements[0].workload == document.measurements[0].workload
    assert again.measurements[0].timings["JAX"].median == 8e-3
    Document().save(tmp_path / "empty.json")
    assert Document.load(tmp_path / "empty.json") == Document()


def test_tables_line_up():
    page = markdown.results_page(small_document())
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) > 6
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "| 8192 x 1000 | 2.00 | 2.50 | 75 % | 8.00 | 40.00 | **4.0** |" in page
    assert "Not timed: SciPy: gone" in page
    assert "### float64, probabilities, 2 threads" in page
    assert "### bfloat16, class indices" in page
    assert "| 8 x 21 x 512 x 512 | 1.00 | 2.00 | 80 % | 6.00 | 3.00 | 12.00 | **3.0** |" in page
    assert "| `softcap` | 2.10 | 4.50 | 1.05 | 1.80 |" in page
    # the fastest peer over this one: JAX over ours, over a slower peer, over itself
    for row in ("fastxent cython/out | 2.00", "NumPy | 40.00", "JAX | 8.00", "copy | 1.00"):
        line = next(line for line in page.splitlines() if line.startswith(f"| {row} |"))
        ratio = {"f": "4.0", "N": "0.2", "J": "1.0", "c": "-"}[row[0]]
        assert line.split(" | ")[6] == ratio, line


def test_the_short_tables_name_the_fastest_of_the_others():
    section = markdown.readme_section(small_document())
    line = "log_softmax, float32: 65536 x 10 | 1.00 | 2.00 | 80 % | JAX 3.00 | **3.0** |"
    assert line in section
    assert "What an option takes, at 1024 x 32000" in section
    plain = small_document()
    plain.measurements = plain.measurements[:4]
    section = markdown.readme_section(plain)
    assert "The rest" not in section
    assert "option" not in section
    assert tables.options(plain) == ""


def test_section_of_a_page_is_replaced_and_nothing_else():
    page = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
    once = markdown.replaced(page, "new")
    assert once == "before\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nafter\n"
    assert markdown.replaced(once, "new") == once
    with pytest.raises(ValueError, match="bench:begin"):
        markdown.replaced("no markers", "new")


def test_pictures_are_the_same_bytes_every_time(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (tmp_path / "again").mkdir()
    first = pictures.draw_all(small_document(), tmp_path)
    again = pictures.draw_all(small_document(), tmp_path / "again")
    assert {path.name for path in first} == set(pictures.PICTURES)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_text().rstrip().endswith("</svg>")


def test_pages_are_what_the_generator_makes_of_the_results():
    if not LATEST.exists():
        pytest.skip("benchmarks/results/latest.json is not there: no source tree, or no run yet")
    document = Document.load(LATEST)
    readme = (ROOT / "README.md").read_text()
    assert markdown.replaced(readme, markdown.readme_section(document)) == readme
    assert (ROOT / "docs" / "benchmark-results.md").read_text() == markdown.results_page(document)
    assert LATEST.stat().st_size < 500_000
