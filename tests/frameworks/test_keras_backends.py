"""The same tests with Keras on PyTorch, JAX and NumPy, which it finds in KERAS_BACKEND."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="Keras is not installed")
HERE = Path(__file__).parent


@pytest.mark.parametrize("backend", ["torch", "jax", "numpy"])
def test_backend(backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"Keras's backend, {backend}, is not installed")
        if importlib.util.find_spec(f"fastxent.{backend}") is None:
            pytest.skip(f"there is no fastxent.{backend}")
    files = [str(HERE / f"test_keras_{what}.py") for what in ("losses", "training")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def test_a_backend_without_adapter_is_refused():
    code = (
        "import keras, numpy as np, pytest, fastxent.keras as fxk\n"
        "keras.backend.backend = lambda: 'openvino'\n"
        "loss = fxk.SparseCategoricalCrossentropy(from_logits=True)\n"
        "with pytest.raises(ValueError, match='set KERAS_BACKEND to one of tensorflow, torch'):\n"
        "    loss(np.array([0]), np.zeros((1, 2)))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
