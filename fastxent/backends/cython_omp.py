"""The compiled backend: C++ row math behind Cython, OpenMP threads, one build for all CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastxent import environment, threads
from fastxent.backends.contract import (
    KINDS,
    BinaryOutputs,
    HessRule,
    LabelSummary,
    Outputs,
    PartialSums,
)
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem
    from fastxent.jacobian import JacobianProblem
    from fastxent.problem import Problem

_missing: str | None = None
try:
    from fastxent.backends import _kernels
except ImportError as error:  # not built, or libgomp.so.1 is missing
    _missing = f"the compiled extension cannot be loaded ({error}); build it: pip install ."
else:
    _level = environment.instruction_level()
    if _level is not None:
        _kernels.lower_level(_level)
    if _kernels.openmp_version():
        threads.register_openmp(_kernels.openmp_limit, _kernels.in_openmp_region)

__all__ = ["BACKEND"]

_PLAIN_HESS = HessRule()


def _kind(name: str | None) -> int:
    return -1 if name is None else KINDS.index(name)


class CythonBackend:
    """See `fastxent.backends.contract.Backend`."""

    name = "cython"

    def why_not(self, problem: Problem | None = None) -> str | None:
        """Only a missing extension keeps it from running."""
        return _missing

    def info(self) -> dict[str, str]:
        """Facts for a bug report."""
        if _missing is not None:
            return {}
        built, supported = _kernels.levels()
        openmp = _kernels.openmp_version()
        return {
            "instruction level": _kernels.level(),
            "levels built": ", ".join(built),
            "levels this CPU runs": ", ".join(built[:supported]),
            "OpenMP": str(openmp) if openmp else "built without: one thread",
        }

    def check_labels(
        self,
        target: Array,
        num_classes: int,
        skip: int | None,
        class_mass: Array | None,
        row_mass: Array | None,
        num_threads: int,
    ) -> LabelSummary:
        """Find the first bad label, count the live rows and add up their mass."""
        labels = target, num_classes, skip, class_mass, row_mass
        if num_threads == 1:
            return LabelSummary(*_kernels.check_labels(*labels, 1))
        with threads.Team(num_threads) as size:
            return LabelSummary(*_kernels.check_labels(*labels, size))

    @threads.counted
    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `log_proba`, as far as they are not None."""
        _kernels.forward(
            problem.logits,
            KINDS.index(problem.precision.kind),
            problem.target,
            problem.skip,
            problem.soft,
            _kind(problem.soft_kind),
            problem.spike,
            problem.background,
            problem.background_total,
            problem.gain,
            problem.row_scale,
            problem.logit_scale,
            problem.softcap or 0.0,
            problem.z_loss,
            out.loss,
            out.total,
            out.grad,
            out.row_max,
            out.row_sum,
            out.proba,
            out.hess,
            problem.hess_rule or _PLAIN_HESS,
            out.log_prob,
            out.argmax,
            out.entropy,
            out.target_grad,
            _kind(problem.target_grad_kind),
            problem.num_threads,
        )

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` with the bits that `forward` gives it; the statistics are computed anew."""
        self.forward(problem, Outputs(grad=grad))

    @threads.counted
    def partial(self, problem: Problem, sums: PartialSums) -> None:
        """Fill what is not None with the sums of each block of `BLOCK` classes of `problem`."""
        _kernels.partial(
            problem.logits,
            KINDS.index(problem.precision.kind),
            problem.target,
            problem.skip,
            problem.soft,
            _kind(problem.soft_kind),
            problem.background,
            problem.gain,
            problem.logit_scale,
            problem.softcap or 0.0,
            problem.class_offset,
            problem.num_classes,
            sums,
            problem.num_threads,
        )

    @threads.counted
    def merge(self, problem: Problem, sums: PartialSums, out: Outputs) -> None:
        """Fill outputs of rows from the sums of all `num_classes` classes, in class order."""
        _kernels.merge(
            problem.rows,
            problem.precision.compute.itemsize,
            problem.target,
            problem.skip,
            problem.spike,
            problem.background_total,
            problem.z_loss,
            problem.num_classes,
            sums,
            out.loss,
            out.total,
            out.row_max,
            out.row_sum,
            out.log_prob,
            out.argmax,
            out.entropy,
            out.mass,
            problem.num_threads,
        )

    @threads.counted
    def partial_backward(
        self, problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
    ) -> None:
        """Fill `grad`, rows like those of `problem`, from the statistics of all classes."""
        _kernels.partial_backward(
            problem.logits,
            KINDS.index(problem.precision.kind),
            problem.target,
            problem.skip,
            problem.soft,
            _kind(problem.soft_kind),
            problem.spike,
            problem.background,
            problem.gain,
            problem.row_scale,
            problem.logit_scale,
            problem.softcap or 0.0,
            problem.z_loss,
            problem.class_offset,
            problem.num_classes,
            row_max,
            row_sum,
            row_mass,
            grad,
            problem.num_threads,
        )

    @threads.counted
    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""
        _kernels.softmax(
            problem.logits,
            KINDS.index(problem.precision.kind),
            out.proba,
            out.log_proba,
            out.row_max,
            out.row_sum,
            problem.num_threads,
        )

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """Mean loss and gradient of a call without options, or None."""
        if num_threads == 1:
            return _kernels.mean_loss(logits, target, skip, grad, 1)
        with threads.Team(num_threads) as size:
            return _kernels.mean_loss(logits, target, skip, grad, size)

    @threads.counted
    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1."""
        return _kernels.binary(
            problem.logits,
            KINDS.index(problem.logits_kind),
            problem.target,
            KINDS.index(problem.target_kind),
            problem.ones,
            problem.factor,
            problem.upstream,
            KINDS.index(problem.compute.name),
            problem.gain,
            problem.background,
            out.loss,
            out.grad,
            out.proba,
            out.hess,
            problem.hess_rule or _PLAIN_HESS,
            out.total,
            problem.num_threads,
        )

    @threads.counted
    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out` with the Jacobian product."""
        _kernels.softmax_backward(
            problem.proba,
            problem.log_proba,
            problem.grad,
            out,
            KINDS.index(problem.precision.kind),
            problem.num_threads,
        )

    def jax_handlers(self) -> dict[str, object]:
        """Give the handlers that XLA can call, as capsules."""
        return _kernels.jax_handlers()

    def share_threads(self, limit: int) -> None:
        """Tell them how many threads they may use, for they cannot ask; 0 in a forked child."""
        _kernels.jax_use(
            limit,
            threads.NANOSECONDS_PER_ROW,
            threads.NANOSECONDS_PER_BYTE,
            threads.NANOSECONDS_PER_THREAD,
        )


BACKEND = CythonBackend()
