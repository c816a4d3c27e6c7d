"""The Numba backend: its threads and the code that it compiles to."""

import os
import re
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
