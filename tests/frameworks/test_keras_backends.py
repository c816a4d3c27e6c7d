"""The same tests with Keras on PyTorch, JAX and NumPy, which it finds in KERAS_BACKEND."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="Keras is not installed")
HERE = Path(__file__).parent
# What depends on the adapter, out of tests that the other backends have in common.
CHOSEN = "ranks or axis or ignore_class or merge or dtype or sum_over or digits and True or saved"


@pytest.mark.parametrize("backend", ["torch", "jax", "numpy"])
def test_backend(backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"Keras's backend, {backend}, is not installed")
        if importlib.util.find_spec(f"fastxent.{backend}") is None:
            pytest.skip(f"there is no fastxent.{backend}")
    files = [str(HERE / f"test_keras_{what}.py") for what in ("losses", "training")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, *files],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
