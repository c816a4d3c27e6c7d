"""Textbook formulas: the truth that every backend is tested against.

Everything is computed from the public arguments by the formulas of a textbook, on full arrays,
and shares no code with the rest of the package, so that an error in the package's algebra cannot
hide in both. Clarity before speed, and no checking of arguments.

``dtype`` is the precision to compute in. float64 is the truth; float32 shows the error of a
naive implementation, from which the tests take their tolerances. Inputs of a narrower dtype, half
precision among them, count with their exact values.
"""

from fastxent.reference.binary import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_and_grad,
    binary_hessian,
)
from fastxent.reference.cross_entropy import (
    cross_entropy,
    cross_entropy_and_grad,
    cross_entropy_aux,
    softmax_hessian,
)
from fastxent.reference.linear import (
    LinearGradients,
    linear_cross_entropy_and_grad,
    linear_cross_entropy_aux,
    linear_logits,
)
from fastxent.reference.softmax import (
    log_softmax,
    log_softmax_backward,
    logsumexp,
    softmax,
    softmax_backward,
)

__all__ = [
    "LinearGradients",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "binary_hessian",
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_aux",
    "linear_cross_entropy_and_grad",
    "linear_cross_entropy_aux",
    "linear_logits",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "softmax",
    "softmax_backward",
    "softmax_hessian",
]
