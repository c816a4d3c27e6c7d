"""The kernels for tensors of a GPU, as `fastxent.torch.contract` has them.

They are launched on PyTorch's current stream, and all memory is PyTorch's. Nothing is read back,
so a call never waits and a CUDA graph can capture it.
"""

from fastxent.torch.on_cuda.arrays import pick
from fastxent.torch.on_cuda.binary import binary
from fastxent.torch.on_cuda.denominator import denominator
from fastxent.torch.on_cuda.loss import forward, plain_forward
from fastxent.torch.on_cuda.scaling import scaled
from fastxent.torch.on_cuda.softmax import softmax, softmax_backward

__all__ = [
    "binary",
    "denominator",
    "forward",
    "pick",
    "plain_forward",
    "scaled",
    "softmax",
    "softmax_backward",
]
