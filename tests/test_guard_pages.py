"""Nothing beyond an array is touched, in either direction: there lies a page that nobody may read.

A sanitizer sees only what the compiler has instrumented; this sees the Numba kernels too, and every
instruction of the build that users get.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("guarded.py")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mprotect is called as on Linux"
)


def child(word):
    return subprocess.run(
        [sys.executable, PROGRAM, word], capture_output=True, text=True, timeout=300, check=False
    )


def test_no_backend_touches_what_lies_beside_its_arrays(backend):
    done = child(backend)
    said = done.stdout.splitlines()
    assert done.returncode == 0, f"{said[-1:]}, exit code {done.returncode}\n{done.stderr}"
    assert int(said[-1]) == len(said) - 1 > 60


def test_the_guard_kills_who_reads_beyond():
    assert child("beyond").returncode == -11
