"""The linear loss of tensors holds no more than its budget, as the system counts it in a child."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

ROOT = Path(__file__).parent.parent.parent
# What BLAS and the allocator hold of their own, whatever the sizes.
SLACK = 2_000_000

PROGRAM = """
import sys
import torch
from fastxent.torch import linear_cross_entropy

torch.set_num_threads(1)
# rows, features, classes; bytes of the budget; options
KINDS = {
    "plain": (256, 96, 80_000, 16_000_000, {}),
    "each row": (256, 96, 80_000, 16_000_000, {"reduction": "none"}),
    "narrow": (256, 96, 80_000, 16_000_000, {}),
    "filtered": (256, 96, 80_000, 16_000_000, {"grad_filter": 1e-4}),
    # a second thread has no room for its rows, nor for its tile of classes
    "softcap": (64, 16, 400_000, 9_000_000, {"softcap": 3.0, "num_threads": 2}),
    "first rows": (256, 256, 40_000, 6_000_000, {"num_threads": 2}),
    "numpy": (256, 64, 20_000, 12_000_000, {"backend": "numpy"}),
    # all hidden vectors would be 160 MB
    "strided": (2000, 20_000, 50, 8_000_000, {}),
    "narrow, ignored": (2000, 20_000, 50, 8_000_000, {}),
    "ignored": (2000, 20_000, 50, 8_000_000, {}),
}


def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def step(kind, hidden, weights, target):
    *_, budget, options = KINDS[kind]
    loss = linear_cross_entropy(hidden, weights, target, memory_budget=budget, **options)
    loss.sum().backward()


def problem(kind, rows, features, classes):
    dtype = torch.bfloat16 if "narrow" in kind else torch.float32
    torch.manual_seed(0)
    hidden = torch.empty(rows, features, dtype=dtype)
    for part in hidden.split(100):
        part.normal_()
    if kind == "strided":
        hidden = torch.stack([hidden, hidden], 2)[:, :, 0]
    else:
        hidden.requires_grad_()
    weights = torch.empty(classes, features, dtype=dtype)
    for part in weights.split(1000):
        part.normal_()
    target = torch.randint(classes, (rows,))
    if "ignored" in kind:
        target[3] = -100
    return hidden, weights.requires_grad_(), target


for kind in sys.argv[1:]:
    rows, features, classes, budget, _ = KINDS[kind]
    step(kind, *problem(kind, 16, 16, 1000))
    given = problem(kind, rows, features, classes)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    step(kind, *given)
    of_grads = sum(one.grad.nbytes for one in given[:2] if one.grad is not None)
    print(kind, peak() - before - of_grads, budget, sep=":")
    del given
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak on Linux only")
def test_peak_beyond_arguments_and_gradients():
    # all logits would be 82 MB, and sums of the narrow weights' gradient 31 MB
    kinds = ("plain", "each row", "narrow", "filtered", "softcap", "first rows", "numpy")
    kinds += ("strided", "narrow, ignored", "ignored")
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *kinds],
        cwd=ROOT,
        # large arrays are given back at once, and none is cut out of the memory of another
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [line.split(":") for line in found.stdout.splitlines()]
    assert tuple(kind for kind, *_ in peaks) == kinds
    assert all(int(peak) <= int(budget) + SLACK for _, peak, budget in peaks), peaks
