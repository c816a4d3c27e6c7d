"""The verbs whose unit is a row of logits: forward, backward and softmax, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import KINDS, HessRule, Outputs
from fastxent.backends.cuda.arguments import address_of, skip_arguments
from fastxent.backends.cuda.layouts import row_table
from fastxent.backends.cuda.plan import Plan, Rows, plan_of
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import Variant
from fastxent.device_array import DeviceArray

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["backward", "forward", "partial_count", "softmax"]

_FLOAT64 = np.dtype(np.float64)

# Arrays of (rows.., C), in the order in which the layout table has them.
_MATRICES = ("logits", "grad", "soft", "target_grad", "proba", "hess")
_RESULTS = ("grad", "proba", "hess", "target_grad")

# Outputs of (N,) and the arguments that take their addresses.
_OF_ROWS = {
    **{name: name for name in ("loss", "row_max", "row_sum", "log_prob", "argmax", "entropy")},
    **{"lse": "lse", "z_loss": "z_loss_of", "correct": "correct"},
}


class RowsCall:
    """One launch over the rows of a problem.

    Attributes
    ----------
    arguments : dict
        Of the kernel, by name.
    matrices : dict
        Arrays of (rows.., C) by name: the logits, then the gradient, or the softmax.
    """

    def __init__(self, runtime: Runtime, problem: Problem) -> None:
        self._runtime, self._problem = runtime, problem
        logits: Any = problem.logits
        self._place = logits.place
        self.matrices: dict[str, Any] = {"logits": logits}
        self.arguments: dict[str, Any] = {"rows": problem.rows, "classes": problem.classes}
        self._variant = Variant(kind=problem.precision.kind, target="none")

    def vary(self, **fields: Any) -> None:
        """Fields of the variant."""
        self._variant = self._variant._replace(**fields)

    def put_factor(self, name: str, array_name: str, value: Any) -> None:
        """A number, or the address of an array with one a row or class."""
        if isinstance(value, DeviceArray):
            self.arguments[array_name] = value.address
        else:
            self.arguments[name] = value

    def put_formula(self) -> None:
        """Targets, their mass, and the way from logits to z."""
        problem = self._problem
        target: Any = problem.target
        self.put_factor("scale", "row_scale", problem.row_scale)
        self.put_factor("background_total", "background_total_at", problem.background_total)
        if problem.soft is not None:
            self.vary(target=problem.soft_kind)
            self.matrices["soft"] = problem.soft
        elif target is not None:
            self.vary(target="label")
            self.arguments["labels"] = target.address
            self.arguments["label_kind"] = KINDS.index(target.dtype.name)
            self.arguments.update(skip_arguments(problem.skip))
            self.put_factor("spike", "spike_of", problem.spike)
        self._put_mass()
        scale, cap = problem.logit_scale, problem.softcap
        if cap is not None:
            self.vary(transform="capped")
        elif scale != 1.0:
            self.vary(transform="scaled")
        self.arguments.update(logit_scale=scale, softcap=cap or 0.0, z_loss=problem.z_loss)
        self.arguments["denominator"] = address_of(problem.denominator_at)
        self.arguments["row_weight"] = address_of(problem.row_weight_at)

    def _put_mass(self) -> None:
        background: Any = self._problem.background
        gain: Any = self._problem.gain
        self.put_factor("background", "background_of", 0.0 if background is None else background)
        self.put_factor("gain", "gain_of", 1.0 if gain is None else gain)
        if isinstance(background, DeviceArray) or isinstance(gain, DeviceArray):
            self.vary(mass="classes")
        elif background is not None or gain is not None:
            self.vary(mass="uniform")

    def put_outputs(self, out: Outputs) -> None:
        """Addresses of what is written."""
        for name, argument in _OF_ROWS.items():
            self.arguments[argument] = address_of(getattr(out, name))
        written = {name: getattr(out, name) for name in _RESULTS}
        written = {name: array for name, array in written.items() if array is not None}
        self.matrices = {"logits": self._problem.logits, **written, **self.matrices}

    def put_scratch_grad(self) -> None:
        """A gradient that nobody asked for: kernels write it before what comes beside it."""
        shape = self._problem.rows, self._problem.classes
        scratch = self._place.allocate(shape, self._problem.precision.kernel)
        self.matrices = {"logits": self._problem.logits, "grad": scratch, **self.matrices}

    def plan(self) -> Plan:
        """The kernel for these arrays."""
        return plan_of(
            self._variant,
            self._problem.rows,
            self._problem.classes,
            [Rows.of(array) for array in self.matrices.values()],
            self._runtime.capability(self._place.device),
        )

    def run(self, plan: Plan) -> None:
        """Start it."""
        if not plan.grid:
            return
        given, place = self.arguments, self._place
        given.setdefault("logit_scale", 1.0)
        for name, array in self.matrices.items():
            given[name] = array.address
        if plan.spec.module == "strided":
            numbers = row_table([self.matrices.get(name) for name in _MATRICES])
            given["layout"] = self._runtime.table(numbers, place)
        else:
            for name, array in self.matrices.items():
                rows = Rows.of(array)
                assert rows.pitch is not None
                given[f"{name}_pitch"] = rows.pitch // rows.size
        self._runtime.launch(plan.spec, plan.grid, place, given)


def _forward_call(runtime: Runtime, problem: Problem, out: Outputs) -> RowsCall:
    call = RowsCall(runtime, problem)
    call.put_formula()
    call.put_outputs(out)
    rule = problem.hess_rule or HessRule()
    call.arguments.update(hess_factor=rule.factor, hess_floor=rule.floor)
    if out.hess is not None:
        call.vary(curvature=rule.kind)
    elif out.proba is not None:
        call.vary(curvature="proba")
    beside = any(array is not None for array in (out.hess, out.proba, out.target_grad))
    if beside and out.grad is None:
        call.put_scratch_grad()
    call.vary(
        task="grad" if beside or out.grad is not None else "loss",
        sides=any(array is not None for array in (out.argmax, out.entropy, out.correct)),
        target_grad=out.target_grad is not None,
    )
    return call


def forward(runtime: Runtime, problem: Problem, out: Outputs) -> None:
    """Fill the outputs that are not None, `partial` in the place of `total`.

    `partial` is another array afterwards, where its size is not that of the kernel that serves.
    """
    call = _forward_call(runtime, problem, out)
    plan = call.plan()
    if out.partial is not None:
        if out.partial.size != plan.partials:
            out.partial = out.partial.place.allocate((plan.partials,), _FLOAT64)
        call.arguments["partial"] = out.partial.address
    call.run(plan)


def partial_count(runtime: Runtime, problem: Problem) -> int:
    """How many sums `forward` writes, the gradient lying as `problem.out`, or as the logits."""
    grad = problem.logits if problem.out is None else problem.out
    return _forward_call(runtime, problem, Outputs(grad=grad)).plan().partials


def backward(runtime: Runtime, problem: Problem, row_max: Any, row_sum: Any, grad: Any) -> None:
    """Fill `grad` from the row statistics."""
    call = RowsCall(runtime, problem)
    call.put_formula()
    call.put_outputs(Outputs(row_max=row_max, row_sum=row_sum, grad=grad))
    call.vary(task="backward")
    call.run(call.plan())


def softmax(runtime: Runtime, problem: Problem, out: Outputs) -> None:
    """Fill `proba` or `log_proba`, and the row statistics."""
    tasks = {"softmax": out.proba, "log_softmax": out.log_proba}
    asked = {task: array for task, array in tasks.items() if array is not None}
    for task, array in asked.items() or {"loss": None}.items():
        call = RowsCall(runtime, problem)
        call.put_outputs(
            Outputs(proba=array, row_max=out.row_max, row_sum=out.row_sum, lse=out.lse)
        )
        call.vary(task=task)
        call.run(call.plan())
