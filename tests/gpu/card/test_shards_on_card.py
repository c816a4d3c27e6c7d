"""Classes over processes whose tensors are on cards, through NCCL: values, gradients, no waiting.

On one card a world of one process, on two cards one of two; a single card cannot be two ranks of
NCCL's.
"""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent as fx  # noqa: E402
from gpu.card.sharded_world import told  # noqa: E402

REASON = fx.backends().get("cuda", "there is no such backend")
if not torch.cuda.is_available():
    REASON = "this PyTorch sees no card"
elif not torch.distributed.is_nccl_available():
    REASON = "this PyTorch has no NCCL"
if REASON is not None:
    pytest.skip(f"no card: {REASON}", allow_module_level=True)


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradient_are_those_of_all_classes(ranks, tmp_path):
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} cards, there is 1")
    assert told(ranks, "cuda", tmp_path, 300) == []
