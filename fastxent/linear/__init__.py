"""The loss behind a linear layer, a chunk of rows of logits at a time."""

from fastxent.linear.problem import GRADS, LinearGrads, LinearProblem
from fastxent.linear.run import loss_grads_and_aux

__all__ = ["GRADS", "LinearGrads", "LinearProblem", "loss_grads_and_aux"]
