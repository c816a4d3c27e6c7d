"""The Numba backend: its disk cache, its threads and the code that it compiles to."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastxent as fx
from fastxent.backends import load

REASON = fx.backends()["numba"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}")

ROOT = Path(fx.__file__).parent.parent
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("OMP_", "NUMBA_", "FASTXENT_"))
}


def run(code, *, warnings="error", path="", **environment):
    """Run code in a process of its own, with 8 threads and only the variables that are given."""
    settings = {"NUMBA_NUM_THREADS": "8", "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, "-W", warnings, "-c", textwrap.dedent(code)],
        env=CLEAN | settings | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- what is imported, and what is said when it cannot be


def test_numba_is_imported_only_when_asked_for():
    run("""
        import importlib, sys
        import fastxent as fx
        backend = importlib.import_module("fastxent.backends.numba_cpu").BACKEND
        assert backend.name == "numba"
        assert "numba" not in sys.modules and "llvmlite" not in sys.modules
        assert backend.why_not() is None and "numba" in sys.modules
    """)


WHY = 'import fastxent as fx; print(fx.backends()["numba"]); fx.softmax([1.0], backend="numpy")'


def test_missing_or_broken_numba_is_a_reason_in_words(tmp_path):
    assert run("import sys; sys.modules['numba'] = None\n" + WHY) == "numba is not installed"
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 9.9 or less')")
    assert "NumPy 9.9 or less" in run(WHY, path=tmp_path)
    assert run(WHY, NUMBA_DISABLE_JIT=1) == "NUMBA_DISABLE_JIT is set"


def test_info_is_text():
    info = load("numba").info()
    assert all(isinstance(value, str) and value for value in info.values())
    assert {"numba", "llvmlite", "threading layer", "NUMBA_NUM_THREADS", "cache"} <= set(info)


# --- the disk cache; the check of labels is what compiles fastest

COUNT = """
    import fastxent as fx
    with fx.use_backend("numba"):
        fx.check_labels([0, 2, -100], 3)
        try:
            fx.check_labels([0, 3], 3)
        except fx.LabelError:
            pass
        else:
            raise SystemExit("wrong result")
    from fastxent.backends import load
    from fastxent.backends.numba_cpu.kernels import CHECK_LABELS
    stats = CHECK_LABELS.serial.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
LOADED, COMPILED = "1 0", "0 1"


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache directory after one process has run."""
    place = tmp_path_factory.mktemp("cache") / "not" / "there"
    assert run(COUNT, FASTXENT_CACHE_DIR=place) == COMPILED
    return place


@pytest.fixture
def cache_copy(filled_cache, tmp_path):
    return Path(shutil.copytree(filled_cache, tmp_path / "copy"))


def only_file(place):
    (file,) = place.glob("numba-*/*.nbc")
    return file


def test_second_process_loads_what_the_first_compiled(filled_cache):
    assert run(COUNT, FASTXENT_CACHE_DIR=filled_cache) == LOADED
    directory = only_file(filled_cache).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in directory.iterdir()] == [".nbc"]  # nothing half written


def test_parallel_kernels_are_cached_too(tmp_path):
    code = """
        import numpy as np
        import fastxent as fx
        from fastxent.backends.numba_cpu.drivers import CHUNKS
        x = np.ones((100, 1000), np.float32)
        p = fx.softmax(x, backend="numba", num_threads=3)
        assert (p == np.float32(1) / 1000).all()
        print(sum(CHUNKS.parallel.stats.cache_hits.values()))
    """
    assert [run(code, FASTXENT_CACHE_DIR=tmp_path) for _ in range(2)] == ["0", "1"]


def test_other_sources_or_versions_do_not_use_old_files(cache_copy):
    changed = """
    from fastxent.backends.numba_cpu import cache
    before = cache.stamp()
    cache.stamp = lambda: before[:{kept}] + bytes(32 - {kept})
    """
    # another directory; and, would two stamps begin alike, another checksum
    for kept in (0, 8):
        assert run(changed.format(kept=kept) + COUNT, FASTXENT_CACHE_DIR=cache_copy) == COMPILED


def test_stamp_covers_sources_and_versions(tmp_path, monkeypatch):
    from fastxent.backends.numba_cpu import cache

    first = cache.stamp()
    assert first == cache.stamp()
    package = shutil.copytree(ROOT / "fastxent", tmp_path / "fastxent")
    monkeypatch.setattr(cache, "__file__", str(package / "backends/numba_cpu/cache.py"))
    assert cache.stamp() == first
    for name in ("backends/numba_cpu/row.py", "backends/contract.py", "version.py"):
        before = cache.stamp()
        with (package / name).open("a") as file:
            file.write("\n")
        assert cache.stamp() != before, name
    before = cache.stamp()
    monkeypatch.setattr(cache.np, "__version__", "9.9")
    assert cache.stamp() != before


@pytest.mark.parametrize("damage", ["empty", "cut", "altered", "not ours"])
def test_damaged_file_is_compiled_again(cache_copy, damage):
    file = only_file(cache_copy)
    good = file.read_bytes()
    middle = len(good) // 2
    damaged = {
        "empty": b"",
        "cut": good[:middle],
        "altered": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "not ours": b"x" * 1000,
    }
    file.write_bytes(damaged[damage])
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy) == COMPILED
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy) == LOADED


def test_directory_that_cannot_be_written(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    # asked for: one warning. Not asked for: none.
    told = "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n" + COUNT
    told += '    assert ["no directory to write" in str(w.message) for w in seen] == [True]'
    assert run(told, FASTXENT_CACHE_DIR=in_the_way, warnings="always") == COMPILED
    assert run(COUNT, XDG_CACHE_HOME=in_the_way) == COMPILED


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no file modes")
def test_directory_that_others_can_write_is_refused(cache_copy):
    only_file(cache_copy).parent.chmod(0o777)
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy, warnings="ignore") == COMPILED


def test_cache_can_be_turned_off(tmp_path):
    assert run(COUNT, FASTXENT_CACHE_DIR=tmp_path, FASTXENT_NUMBA_CACHE=0) == COMPILED
    assert not list(tmp_path.iterdir())


def test_global_settings_are_left_alone():
    run("""
        import os
        import numba
        def settings():
            return {k: v for k, v in vars(numba.config).items() if k.isupper()}, dict(os.environ)
        before = settings()
        import fastxent as fx
        fx.softmax([1.0, 2.0], backend="numba")
        assert settings() == before
    """)


# --- threads

THREADED = """
    import os, signal, sys, threading
    import numpy as np
    import fastxent as fx
    x = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
    serial = fx.softmax(x, backend="numba", num_threads=1)
    def check(num_threads=8):
        assert np.array_equal(fx.softmax(x, backend="numba", num_threads=num_threads), serial)
"""


def test_too_many_threads_are_clamped():
    code = """
    import numba
    numba.set_num_threads(3)
    check(10_000)
    assert numba.get_num_threads() == 3
    """
    run(THREADED + code)


# --- what is compiled


@pytest.fixture
def _needs_avx2(avx2):
    if not avx2:
        pytest.skip("the CPU has no AVX2")


@pytest.mark.usefixtures("_needs_avx2")
def test_vector_instructions_are_used():
    code = """
        import numpy as np
        import fastxent as fx
        from fastxent.backends.numba_cpu.kernels import FORWARD
        for classes in (5, 200):
            fx.softmax(np.ones((1, classes), np.float32), backend="numba", num_threads=1)
        print(FORWARD.assembly())
    """
    assembly = run(code, FASTXENT_NUMBA_CACHE=0)
    for instruction in ("vfmadd", "vmaxps", "vpslld"):
        lines = [line for line in assembly.splitlines() if instruction in line]
        assert any("%zmm" in line or "%ymm" in line for line in lines), instruction
    assert not re.search(r"\bexpf?\b", assembly)  # nothing is left to a library


@pytest.mark.usefixtures("_needs_avx2")
def test_bits_do_not_depend_on_the_width_of_registers():
    code = """
        import hashlib
        import numpy as np
        import fastxent as fx
        x = 5 * np.random.default_rng(0).normal(size=(20, 3003)).astype(np.float32)
        print(hashlib.sha256(fx.softmax(x, backend="numba", num_threads=1)).hexdigest())
    """
    haswell = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # AVX2, no AVX-512
    assert run(code, **haswell, FASTXENT_NUMBA_CACHE=0) == run(code)
