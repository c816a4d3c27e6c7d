"""The linear loss of tensors holds no more than its budget, as the system counts it in a child."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

ROOT = Path(__file__).parent.parent.parent
# What BLAS and the allocator hold of their own, whatever the sizes.
SLACK = 8_000_000

PROGRAM = """
import sys
import torch
from fastxent.torch import linear_cross_entropy

torch.set_num_threads(1)
budget = int(sys.argv[1])
rows, features, classes = 256, 96, 80_000


def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def step(kind, hidden, weights, target):
    options = {"reduction": "none"} if kind == "each row" else {}
    loss = linear_cross_entropy(
        hidden, weights, target, memory_budget=budget, **options,
        grad_filter=1e-4 if kind == "filtered" else None,
    )
    loss.sum().backward()


def problem(kind, classes):
    dtype = torch.bfloat16 if kind == "narrow" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(rows, features).to(dtype).requires_grad_()
    weights = torch.empty(classes, features, dtype=dtype)
    for part in weights.split(1000):
        part.normal_()
    return hidden, weights.requires_grad_(), torch.randint(classes, (rows,))


for kind in sys.argv[2:]:
    step(kind, *problem(kind, 1000))
    given = problem(kind, classes)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    step(kind, *given)
    print(kind, peak() - before - sum(one.grad.nbytes for one in given[:2]), sep=":")
    del given
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak on Linux only")
def test_peak_beyond_arguments_and_gradients():
    # all logits would be 82 MB, and sums of the narrow weights' gradient 31 MB
    budget, kinds = 16_000_000, ("plain", "each row", "narrow", "filtered")
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(budget), *kinds],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = dict(line.split(":") for line in found.stdout.splitlines())
    assert tuple(peaks) == kinds
    assert all(int(peak) <= budget + SLACK for peak in peaks.values()), peaks
