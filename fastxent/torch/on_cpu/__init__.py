"""The kernels for tensors in the memory of the CPU, as `fastxent.torch.contract` has them."""

from fastxent.backends import pick
from fastxent.torch.on_cpu.binary import binary
from fastxent.torch.on_cpu.denominator import denominator
from fastxent.torch.on_cpu.loss import forward, plain_forward
from fastxent.torch.on_cpu.scaling import scaled
from fastxent.torch.on_cpu.softmax import softmax, softmax_backward

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
