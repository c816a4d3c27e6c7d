"""A call with a linear layer: its arrays, the loss of its rows, the memory that it may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastxent import checks
from fastxent.layout import empty_like
from fastxent.options import Options
from fastxent.precision import Array, Precision, native, precision_of
from fastxent.problem import Problem

__all__ = ["GRADS", "LinearGrads", "LinearProblem"]


class LinearGrads(NamedTuple):
    """Gradients of the loss behind a linear layer; None for what was declined, or is not there.

    Attributes
    ----------
    hidden : array of the shape and dtype of `hidden`
    linear_weight : array of the shape and dtype of `linear_weight`
    linear_bias : array of the shape and dtype of `linear_bias`

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> hidden, linear_weight = np.eye(2), np.ones((3, 2))
    >>> loss, grads = fx.linear_cross_entropy_and_grad(hidden, linear_weight, [0, 2])
    >>> grads.linear_weight.shape, grads.linear_bias is None
    ((3, 2), True)
    """

    hidden: Any = None
    linear_weight: Any = None
    linear_bias: Any = None


GRADS = LinearGrads._fields


@dataclass(slots=True)
class LinearProblem:
    """One call, checked but for its labels; nothing is written yet.

    Attributes
    ----------
    problem : Problem
        That of the logits of all rows. Its `logits` and `soft` are stand-ins without memory, of
        the true shape and dtype.
    hidden : (..., D) array
    weight : (C, D) array
    bias : (C,) array or None
    soft : array or None
        Probabilities, in the caller's shape.
    out : dict of str to array
        The caller's memory for gradients, by name.
    asked : tuple of str
        Names of the gradients to compute; that of a bias only where there is one.
    grad_filter : float
        Size below which entries of the gradient of the logits may be left out; 0 for none.
    memory_budget : int or None
    num_threads : object
        As the caller gave it.
    """

    problem: Problem
    hidden: Array
    weight: Array
    bias: Array | None
    soft: Array | None
    out: dict[str, Array]
    asked: tuple[str, ...]
    grad_filter: float
    memory_budget: int | None
    num_threads: Any

    @classmethod
    def build(
        cls,
        hidden: Any,
        linear_weight: Any,
        target: Any,
        linear_bias: Any,
        options: Options,
        *,
        memory_budget: Any,
        grad_filter: Any,
        num_threads: Any,
        grad_output: Any = None,
        grads: Any = (),
        out: Any = None,
    ) -> LinearProblem:
        """Check every argument, but the labels and whether the budget is enough."""
        hidden, weight, bias, axis = checks.check_linear_arrays(
            hidden, linear_weight, linear_bias, options.axis
        )
        asked = checks.check_grad_names(grads, GRADS)
        budget = None if memory_budget is None else checks.check_memory_budget(memory_budget, 0)
        eps = checks.check_grad_filter(grad_filter)
        logits = _logits_stand_in(hidden, weight, bias, axis)
        target, hard = checks.check_target(target, logits, axis)
        named = options._replace(axis=axis)
        given = target if hard else stand_in(target.shape, native(target.dtype))
        problem = Problem.of_options(logits, given, named, num_threads, grad_output)
        recipe = problem.reduction
        assert recipe is not None
        upstream = recipe.grad_output
        inputs = {
            "hidden": hidden,
            "linear_weight": weight,
            "linear_bias": bias,
            "target": target,
            "weight": recipe.class_mass,
            "sample_weight": recipe.row_weight,
            "grad_output": upstream if isinstance(upstream, np.ndarray) else None,
        }
        return cls(
            problem=replace(problem, given_target=target),
            hidden=hidden,
            weight=weight,
            bias=bias,
            soft=None if hard else target,
            out=checks.check_linear_out(out, inputs, asked, GRADS),
            asked=tuple(name for name in asked if name != "linear_bias" or bias is not None),
            grad_filter=eps if asked else 0.0,
            memory_budget=budget,
            num_threads=num_threads,
        )

    @property
    def features(self) -> int:
        """D, the features of a row."""
        return int(self.weight.shape[1])

    def new_grads(self) -> LinearGrads:
        """Memory for the gradients asked for: the caller's, or new and laid out as the inputs."""
        given = {"hidden": self.hidden, "linear_weight": self.weight, "linear_bias": self.bias}
        made: dict[str, Array] = {}
        for name in self.asked:
            like = given[name]
            assert like is not None
            made[name] = (
                self.out[name] if name in self.out else empty_like(like, native(like.dtype))
            )
        return LinearGrads(**made)


def stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Array of zeros that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _logits_stand_in(hidden: Array, weight: Array, bias: Array | None, axis: int) -> Array:
    """Logits in the dtype that computes: float64 where any of the arrays is."""
    arrays = (hidden, weight) if bias is None else (hidden, weight, bias)
    compute = np.result_type(*(_precision(array).compute for array in arrays))
    classes = weight.shape[0]
    return stand_in((*hidden.shape[:axis], classes, *hidden.shape[axis + 1 :]), compute)


def _precision(array: Array) -> Precision:
    precision = precision_of(array.dtype)
    assert precision is not None  # check_linear_arrays has passed
    return precision
