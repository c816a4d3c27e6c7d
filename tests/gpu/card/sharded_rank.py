"""One process of those that share the classes: its part of a loss against that of all classes.

usage: PYTHONPATH=. python tests/gpu/card/sharded_rank.py RANK RANKS STORE {cuda,cpu}

On "cuda" through NCCL, with tensors on the GPU of the same number as the rank and without
`torch.cuda.set_device`, on "cpu" through gloo. Ends with 0 if all numbers are right.
"""

import contextlib
import datetime
import itertools
import sys

import numpy as np
import torch
import torch.distributed as dist

import fastxent as fx
from fastxent.torch import vocab_parallel_cross_entropy

ROWS, CLASSES = 33, 5220
OPTIONS = (
    {},
    {"reduction": "none", "softcap": 5.0},
    {"label_smoothing": 0.1, "z_loss": 1e-2, "logit_scale": 0.7},
)
BLOCK = 1024


@contextlib.contextmanager
def without_waiting(kind):
    """Anything of PyTorch's that waits for the card is an error."""
    if kind == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    yield
    if kind == "cuda":
        torch.cuda.set_sync_debug_mode("default")


def drawn(soft):
    """Logits of all classes, of which some are masked, and target."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(ROWS, CLASSES), scale=3).astype(np.float32)
    if soft:
        return logits, random.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    target = random.integers(0, CLASSES // 2, ROWS)
    target[::7] = -100
    logits[:, -100:] = -np.inf
    return logits, target


def check(rank, ranks, device, soft, options, merge):
    """Compare loss and gradient of this rank with those of a single call."""
    logits, target = drawn(soft)
    blocks = np.arange(-(-CLASSES // BLOCK))
    first = np.array_split(blocks, ranks)[rank]
    here = slice(int(first[0]) * BLOCK, min(int(first[-1] + 1) * BLOCK, CLASSES))
    expected, grad = fx.cross_entropy_and_grad(logits, target, **options, backend="numpy")
    local = torch.from_numpy(logits[:, here].copy()).to(device).requires_grad_()
    labels = torch.from_numpy(target[:, here].copy() if soft else target).to(device)
    loss = vocab_parallel_cross_entropy(local, labels, **options, merge=merge)
    upstream = torch.ones_like(loss)
    with without_waiting(device.type):
        loss.backward(upstream)
    np.testing.assert_allclose(loss.detach().cpu(), expected, rtol=4e-6)
    largest = np.abs(grad).max()
    np.testing.assert_allclose(local.grad.cpu(), grad[:, here], rtol=4e-6, atol=4e-6 * largest)


def main():
    """Run all cases on this rank."""
    rank, ranks, store, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=120),
    )
    device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
    for soft, options, merge in itertools.product((False, True), OPTIONS, ("reduce", "in_order")):
        check(rank, ranks, device, soft, options, merge)
    if kind == "cuda" and rank:
        # a context on the first card costs 500 MB of it for every rank
        assert torch.cuda.memory_allocated(0) == 0
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
