"""One OpenMP runtime for the whole process, and the program that measures two libraries in it."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from reliability import cohabitation, cohabitation_pair

import fastxent as fx
from fastxent import openmp

SECONDS = 300
# Threads of the process after parallel calls of both: each runtime in use has one of its own.
BOTH = """
    import os, numpy as np, fastxent as fx
    from sklearn._loss import HalfMultinomialLoss

    def threads():
        return len(os.listdir("/proc/self/task"))

    x, y = np.zeros((512, 1000), np.float32), np.zeros(512, np.float32)
    before = threads()
    HalfMultinomialLoss(n_classes=1000).loss_gradient(y, x, n_threads=2)
    fx.cross_entropy(x, y.astype(int), backend="cython", num_threads=2)
    print(threads() - before)
"""


def printed(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def brings_its_own_runtime():
    code = "import sklearn._loss, fastxent.openmp as openmp; print(*openmp.loaded())"
    return set(printed(code).split()) - {openmp._LIBRARY} != set()


def test_sharing_leaves_one_team_of_threads():
    pytest.importorskip("sklearn")
    if fx.backends()["cython"] is not None:
        pytest.skip(fx.backends()["cython"])
    if not brings_its_own_runtime():
        pytest.skip("this scikit-learn uses the system's OpenMP runtime already")
    assert printed(BOTH, FASTXENT_SHARE_OPENMP="0") == "2"
    assert printed(BOTH, FASTXENT_SHARE_OPENMP="1") == "1"
    assert printed(BOTH.replace("fx\n", "fx; fx.share_openmp()\n", 1)) == "1"


def test_sharing_too_late_is_a_warning(monkeypatch, tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 00:00 1 /a/libgomp-e985bcbb.so.1.0.0\n"
        "7f01-7f02 r-xp 00000000 00:00 2 /b/libgomp.so.1\n"
        "7f02-7f03 r-xp 00000000 00:00 3 /b/c.so\n"
        "7f03-7f04 rw-p 00000000 00:00 0\n"
    )
    assert openmp.loaded(maps=maps) == ["libgomp-e985bcbb.so.1.0.0", "libgomp.so.1"]
    assert openmp.loaded(("c.",), maps) == ["c.so"]
    assert openmp.loaded(maps=tmp_path / "none") == []
    monkeypatch.setattr(openmp, "loaded", lambda: ["libgomp.so.1", "libomp.so"])
    with pytest.warns(RuntimeWarning, match=r"^libomp.so is in the process already"):
        fx.share_openmp()


def test_nothing_to_share_is_an_error(monkeypatch):
    monkeypatch.setattr(openmp, "loaded", list)
    monkeypatch.setattr(openmp, "_LIBRARY", "libgomp-of-nowhere.so.1")
    with pytest.raises(fx.BackendError, match=r"libgomp-of-nowhere.*install it"):
        fx.share_openmp()


def test_two_libraries_are_timed():
    if fx.backends()["cython"] is not None or fx.backends()["numba"] is not None:
        pytest.skip("both compiled backends are needed")
    found = cohabitation._run("Numba", "cython", "partner", True, 0.02)
    assert list(found) == ["x".join(map(str, shape)) for shape in cohabitation_pair.SHAPES]
    for times in found.values():
        assert set(times) == {"ours", "theirs", "pair"}
        assert min(times.values()) > 0


@pytest.mark.parametrize(("pair", "status"), [(29.0, 0), (31.0, 1)])
def test_more_than_twice_the_sum_is_a_fault(pair, status, monkeypatch, tmp_path):
    times = {"64x256": {"ours": 5.0, "theirs": 10.0, "pair": pair}}
    monkeypatch.setattr(cohabitation, "_run", lambda *_: times)
    assert cohabitation.main(["--out", str(tmp_path), "--partners", "Numba"]) == status
    record = json.loads((tmp_path / "cohabitation.json").read_text())
    assert record["figures"]["worst_best"] == pytest.approx(pair / 15)
    assert len(record["faults"]) == 4 * status
    page = tmp_path / "page.md"
    page.write_text(f"above\n{cohabitation.BEGIN}\nold\n{cohabitation.END}\nbelow\n")
    for _ in range(2):
        cohabitation.write_table(record, page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("above", "below")
    assert sum("| 5 + 10 |" in line for line in lines) == 4
    assert "old" not in lines


def test_the_page_has_a_place_for_the_table():
    if not cohabitation.PAGE.exists():
        pytest.skip("the source tree is absent: a wheel is being tested")
    text = cohabitation.PAGE.read_text()
    assert text.count(cohabitation.BEGIN) == text.count(cohabitation.END) == 1
