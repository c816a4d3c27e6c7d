"""The verbs whose unit is a row of logits: forward, backward and softmax, on the device."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import KINDS, HessRule, Outputs
from fastxent.backends.cuda.arguments import address_of, skip_arguments
from fastxent.backends.cuda.layouts import row_table
from fastxent.backends.cuda.plan import Plan
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import Variant
from fastxent.device_array import DeviceArray

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["RowsCall", "backward", "forward", "partial_count", "put_vectors", "softmax"]

_FLOAT64 = np.dtype(np.float64)
_PLAIN_RULE = HessRule()

# Arrays of (rows.., C), in the order in which the layout table has them.
_MATRICES = ("logits", "grad", "soft", "target_grad", "proba", "hess")
_PITCHES = {name: f"{name}_pitch" for name in _MATRICES}

_variant = functools.lru_cache(maxsize=1024)(Variant)


class RowsCall:
    """One pass over the rows of a problem; most of a small call's time is spent here.

    Attributes
    ----------
    arguments : dict
        Of the kernel, by name.
    matrices : dict
        Arrays of (rows.., C) by name: the logits, then the gradient, or the softmax.
    vectors : dict
        Arrays of (N,) by the name of their argument.
    formula : tuple of str
        `Variant.kind`, `target`, `mass` and `transform`.
    """

    __slots__ = ("_place", "_problem", "_runtime", "arguments", "formula", "matrices", "vectors")

    def __init__(self, runtime: Runtime, problem: Problem, place: Any = None) -> None:
        """`place` is that of other arrays, where there are no logits."""
        self._runtime, self._problem = runtime, problem
        logits: Any = problem.logits
        self._place = logits.place if place is None else place
        self.matrices: dict[str, Any] = {"logits": logits} if place is None else {}
        self.vectors: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {"classes": problem.classes, "logit_scale": 1.0}
        self.formula = (problem.precision.kind, "none", "label", "plain")

    def _put(self, number: str, array: str, value: Any) -> bool:
        """A number, or the address of an array: whether it is one."""
        if isinstance(value, DeviceArray):
            self.arguments[array] = value.address
            return True
        self.arguments[number] = value
        return False

    def put_labels(self) -> None:
        """Class indices and the mass on them, and what belongs to rows as a whole."""
        problem, arguments, vectors = self._problem, self.arguments, self.vectors
        if problem.target is not None:
            vectors["labels"] = problem.target
            arguments["label_kind"] = KINDS.index(problem.target.dtype.name)
            arguments.update(skip_arguments(problem.skip))
            self._put("spike", "spike_of", problem.spike)
        arguments["z_loss"] = problem.z_loss
        if problem.row_weight_at is not None:
            vectors["row_weight"] = problem.row_weight_at

    def put_mass(self) -> None:
        """The sum of what all classes have of a target besides."""
        self._put("background_total", "background_total_at", self._problem.background_total)

    def put_formula(self) -> None:
        """Targets, their mass, and the way from logits to z."""
        problem, arguments, vectors = self._problem, self.arguments, self.vectors
        self.put_labels()
        if self._put("scale", "row_scale", problem.row_scale):
            vectors["row_scale"] = problem.row_scale
        target, mass, transform = "none", "label", "plain"
        if problem.soft_kind is not None:
            target = problem.soft_kind
            self.matrices["soft"] = problem.soft
        elif problem.target is not None:
            target = "label"
        if problem.background is not None or problem.gain is not None:
            background = 0.0 if problem.background is None else problem.background
            gain = 1.0 if problem.gain is None else problem.gain
            of_classes = self._put("background", "background_of", background)
            of_classes = self._put("gain", "gain_of", gain) or of_classes
            mass = "classes" if of_classes else "uniform"
            self.put_mass()
        if problem.softcap is not None:
            transform = "capped"
            arguments["softcap"] = problem.softcap
        elif problem.logit_scale != 1.0:
            transform = "scaled"
        arguments["logit_scale"] = problem.logit_scale
        if problem.denominator_at is not None:
            arguments["denominator"] = problem.denominator_at.address
        self.formula = (self.formula[0], target, mass, transform)

    def put_grad(self, grad: Any) -> None:
        """Rows of the gradient, or new ones: kernels write them before what lies beside them."""
        if grad is None:
            shape = self._problem.rows, self._problem.classes
            grad = self._place.scratch(shape, self._problem.precision.kernel)
        # after the logits, before the probabilities of the target
        self.matrices = {"logits": self._problem.logits, "grad": grad, **self.matrices}

    def plan(self, variant: Variant) -> Plan:
        """The kernel for these arrays."""
        problem, device = self._problem, self._place.device
        arrays = self.matrices.values()
        return self._runtime.plan(variant, problem.rows, problem.classes, arrays, device)

    def run(self, plan: Plan, partial: DeviceArray | None = None) -> None:
        """Start it."""
        if not plan.grid:
            return
        given, runtime, place = self.arguments, self._runtime, self._place
        given["rows"] = plan.rows
        given["partial"] = address_of(partial)
        for name, array in self.matrices.items():
            given[name] = array.address
        for name, array in self.vectors.items():
            given[name] = array.address
        if self.matrices and not plan.pitches:
            numbers = row_table([self.matrices.get(name) for name in _MATRICES])
            given["layout"] = runtime.table(numbers, place)
        for name, pitch in zip(self.matrices, plan.pitches, strict=False):
            given[_PITCHES[name]] = pitch
        if not plan.pieces:
            runtime.launch(plan.spec, plan.grid, place, given)
            return
        steps = {name: array.itemsize * plan.rows for name, array in self.vectors.items()}
        if partial is not None:
            steps["partial"] = partial.itemsize * (plan.partials // len(plan.pieces))
        for number, offsets in enumerate(plan.pieces):
            moved = dict(zip(self.matrices, offsets, strict=True))
            moved |= {name: number * step for name, step in steps.items()}
            piece = {name: given[name] + offset for name, offset in moved.items()}
            runtime.launch(plan.spec, plan.grid, place, {**given, **piece})


def forward(runtime: Runtime, problem: Problem, out: Outputs) -> None:
    """Fill the outputs that are not None, `partial` in the place of `total`.

    `partial` is another array afterwards, where its size is not that of the kernel that serves.
    """
    call = RowsCall(runtime, problem)
    call.put_formula()
    curvature = ""
    if out.hess is not None:
        rule = problem.hess_rule or _PLAIN_RULE
        curvature = rule.kind
        call.matrices["hess"] = out.hess
        call.arguments.update(hess_factor=rule.factor, hess_floor=rule.floor)
    if out.proba is not None:
        curvature = curvature or "proba"
        call.matrices["proba"] = out.proba
    if out.target_grad is not None:
        call.matrices["target_grad"] = out.target_grad
    task = "loss"
    if out.grad is not None or curvature or out.target_grad is not None:
        task = "grad"
        call.put_grad(out.grad)
    put_vectors(call, out)
    sides = out.argmax is not None or out.entropy is not None or out.correct is not None
    target_grad = out.target_grad is not None
    plan = call.plan(_variant(*call.formula, task, sides, target_grad, curvature))
    if out.partial is not None and out.partial.size != plan.partials:
        out.partial = out.partial.place.scratch((plan.partials,), _FLOAT64)
    call.run(plan, out.partial)


def put_vectors(call: RowsCall, out: Outputs) -> None:
    """The outputs with an entry a row, by the names of their arguments."""
    for name, array in (
        ("loss", out.loss),
        ("row_max", out.row_max),
        ("row_sum", out.row_sum),
        ("log_prob", out.log_prob),
        ("argmax", out.argmax),
        ("entropy", out.entropy),
        ("lse", out.lse),
        ("z_loss_of", out.z_loss),
        ("correct", out.correct),
    ):
        if array is not None:
            call.vectors[name] = array


def partial_count(runtime: Runtime, problem: Problem) -> int:
    """How many sums `forward` writes, the gradient lying as `problem.out`, or as the logits."""
    call = RowsCall(runtime, problem)
    call.put_formula()
    call.put_grad(problem.logits if problem.out is None else problem.out)
    return call.plan(_variant(*call.formula)).partials


def backward(runtime: Runtime, problem: Problem, row_max: Any, row_sum: Any, grad: Any) -> None:
    """Fill `grad` from the row statistics."""
    call = RowsCall(runtime, problem)
    call.put_formula()
    call.put_grad(grad)
    call.vectors.update(row_max=row_max, row_sum=row_sum)
    call.run(call.plan(_variant(*call.formula, "backward")))


def softmax(runtime: Runtime, problem: Problem, out: Outputs) -> None:
    """Fill `proba` or `log_proba`, and the row statistics."""
    tasks = {"softmax": out.proba, "log_softmax": out.log_proba}
    asked = {task: array for task, array in tasks.items() if array is not None}
    for task, array in asked.items() or {"loss": None}.items():
        call = RowsCall(runtime, problem)
        if array is not None:
            call.matrices["proba"] = array
        put_vectors(call, out)
        call.run(call.plan(_variant(*call.formula, task)))
