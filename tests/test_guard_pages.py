"""Nothing beyond an array is touched, in either direction: there lies a page that nobody may read.

A sanitizer sees only what the compiler has instrumented; this sees the Numba kernels too, and every
instruction of the build that users get.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import fastxent as fx

PROGRAM = Path(__file__).with_name("guarded.py")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mprotect is called as on Linux"
)


def child(*words):
    return subprocess.run(
        [sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=600, check=False
    )


def every_call_ends(*words):
    done = child(*words)
    said = done.stdout.splitlines()
    assert done.returncode == 0, f"{said[-1:]}, exit code {done.returncode}\n{done.stderr}"
    assert int(said[-1]) == len(said) - 1 > 480


def test_no_backend_touches_what_lies_beside_its_arrays(backend):
    every_call_ends(backend)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_numba_touches_nothing_in_other_dtypes_and_more_shapes(dtype):
    reason = fx.backends()["numba"]
    if reason is not None:
        pytest.skip(f"numba: {reason}")
    every_call_ends("numba", dtype)


@pytest.mark.parametrize("word", ["beyond", "inside"])
def test_the_guard_kills_who_reads_beyond(word):
    assert child(word).returncode == -11
