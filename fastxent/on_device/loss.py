"""One call of the loss on a GPU: its checked arguments, and the verbs that it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.contract import Forward, Outputs
from fastxent.layout import OutputRows, output_rows
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.factors import Given, put_class_factors, put_row_factors
from fastxent.options import Options
from fastxent.precision import kernel_dtype
from fastxent.problem import Problem
from fastxent.side_outputs import Aux

__all__ = ["LossOnDevice"]

_FLOAT64, _INT64 = np.dtype(np.float64), np.dtype(np.int64)
_BOOL, _BYTE = np.dtype(np.bool_), np.dtype(np.uint8)


class LossOnDevice:
    """The checked arguments of one call.

    Attributes
    ----------
    arrays : Arrays
    problem : Problem
        All of its arrays are on the GPU, and nothing of it is left to be found out.
    """

    def __init__(
        self,
        arrays: Arrays,
        target: Any,
        options: Options,
        num_threads: Any,
        grad_output: Any = None,
        out: Any = None,
        shard: tuple[Any, Any] | None = None,
    ) -> None:
        self.arrays = arrays
        given = Given.read(arrays, options, grad_output)
        # labels have to be dense; of probabilities any strides are read
        there = arrays.read(target, "target")
        if there.dtype.kind in "iu" and not there.is_dense:
            there = arrays.read_dense(target, "target")
        first: Any = arrays.first
        axis = checks.check_axis(
            options.axis, checks.check_logits(first), may_be_empty=shard is not None
        )
        for array, name in ((first, "logits"), (there, "target"), (out, "out")):
            if array is not None and array.shape == first.shape:
                checks.check_view(array, (axis,), name)
        problem = Problem.of_options(
            first,
            there,
            given.without(options),
            num_threads,
            None if given.grad_output is not None else grad_output,
            out,
            shard=shard,
        )
        if out is not None:
            others = {**given._asdict(), "target": there}
            shape, dtype = first.shape, problem.precision.storage
            checks.check_out(out, first, others, shape, dtype)
        smoothing = checks.check_label_smoothing(options.label_smoothing)
        put_class_factors(arrays, problem, given.weight, smoothing)
        self._divisor, self._bad_row = put_row_factors(arrays, problem, given)
        self.problem = problem

    def new_grad(self, out: Any) -> OutputRows:
        """The gradient: in the caller's memory, or new and laid out as the logits."""
        problem = self.problem
        if out is None:
            out = self.arrays.empty_like(problem.given, problem.precision.storage)
        return problem.new_output(out)

    def run(self, outputs: Outputs, source: Forward | None = None) -> tuple[Any, Aux | None]:
        """Start everything; the loss, reduced, and the side outputs that were asked for.

        The rows' outputs are those of the backend, or of another `source`.
        """
        problem, arrays, backend = self.problem, self.arrays, self.arrays.backend
        rows = backend if source is None else source
        recipe, precision = problem.reduction, problem.precision
        assert recipe is not None
        outputs_of: Any = outputs
        target_grad = self._allocate(outputs_of)
        log_prob = outputs.log_prob
        if log_prob is not None and problem.soft is not None and not problem.is_bare:
            # the loss is not that of the bare probabilities; first, as the gradient may go over
            # the logits
            rows.forward(replace(problem.bare(), row_weight_at=None), Outputs(log_prob=log_prob))
            outputs.log_prob = None
        if recipe.kind == "none":
            outputs_of.loss = arrays.empty((problem.rows,), precision.loss)
            rows.forward(problem, outputs)
            loss = outputs_of.loss.reshape(recipe.rows_shape)
        else:
            outputs_of.partial = arrays.scratch((backend.partial_count(problem),), _FLOAT64)
            rows.forward(problem, outputs)
            total = arrays.empty((1,), precision.loss)
            backend.finish_sum(
                outputs_of.partial,
                self._divisor,
                problem.denominator_at,
                recipe.all_ignored == "zero",
                self._bad_row,
                total,
            )
            loss = total.reshape(())
        outputs_of.log_prob = log_prob
        return loss, self._aux(outputs_of, target_grad)

    def _allocate(self, outputs: Any) -> OutputRows | None:
        """Put arrays for what `aux` names into the outputs."""
        problem, loss = self.problem, self.problem.precision.loss
        dtypes = dict.fromkeys(("lse", "log_prob", "entropy", "z_loss"), loss)
        dtypes |= {"argmax": _INT64, "correct": _BYTE}
        for name in problem.asked:
            if name in dtypes:
                setattr(outputs, name, self.arrays.empty((problem.rows,), dtypes[name]))
        if "target_grad" not in problem.asked:
            return None
        given, kind = problem.given_target, problem.target_grad_kind
        assert given is not None
        assert kind is not None
        dtype = problem.precision.storage if given.dtype == _BOOL else given.dtype
        place = self.arrays.empty_like(given, dtype)
        result = output_rows(given, problem.axis, place, dtype, kernel_dtype(dtype, kind))
        outputs.target_grad = result.rows
        return result

    def _aux(self, outputs: Any, target_grad: OutputRows | None) -> Aux | None:
        """The side outputs in the caller's shapes."""
        problem = self.problem
        if not problem.asked:
            return None
        assert problem.reduction is not None
        shape = problem.reduction.rows_shape
        found = {
            name: getattr(outputs, name).reshape(shape)
            for name in problem.asked
            if name != "target_grad"
        }
        if "correct" in found:
            found["correct"] = found["correct"].view(_BOOL)
        if target_grad is not None:
            found["target_grad"] = target_grad.array
        return Aux(**found)
