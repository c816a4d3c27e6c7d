"""What a process holds during a call, the compiled kernels' own memory included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastxent as fx

if not Path("/proc/self/clear_refs").exists():
    pytest.skip("the largest resident size is told by Linux only", allow_module_level=True)
if fx.backends()["cython"] is not None:
    pytest.skip(f"cython: {fx.backends()['cython']}", allow_module_level=True)

# What is freed goes back at once, so that every call grows the process by all that it takes.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}

CHILD = """
import numpy as np, fastxent as fx

def largest():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def growth(rows, features, classes, budget, **options):
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, features), "f4")
    weights = rng.standard_normal((classes, features), "f4")
    out = fx.LinearGrads(np.ones_like(hidden), np.ones_like(weights), None)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = largest()
    fx.linear_cross_entropy_and_grad(
        *(hidden, weights, rng.integers(0, classes, rows)),
        out=out, memory_budget=budget, num_threads=2, backend="cython", **options
    )
    return largest() - before

growth(64, 256, 20000, None)  # code, the threads, and what BLAS keeps for packing
print(growth(96, 64, 40000, 3e6))
print(growth(256, 256, 40000, 12e6))
print(growth(32, 16, 400000, 12e6, softcap=3.0))
"""


def test_a_process_grows_by_no_more_than_the_budget():
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = [int(line) for line in done.stdout.split()]
    slack = 1_000_000  # of the allocator, and pages that are touched for the first time
    for grown, budget in zip(found, (3e6, 12e6, 12e6), strict=True):
        assert grown <= budget + slack
    assert found[2] >= 2e6  # the logits of one row alone are 1.6 MB
