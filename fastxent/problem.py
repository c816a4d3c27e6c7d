"""Problem: the public arguments turned into the one formula that kernels know.

    z[i,k]      = softcap * tanh(logit_scale * x[i,k] / softcap), or logit_scale * x[i,k]
    t[i,k]      = [k = label] * spike[label] + background[k] + gain[k] * soft[i,k]
    loss[i]     = T * log s - sum_k t[i,k] * (z[k] - m) + z_loss * L^2        T = sum_k t[i,k]
    dz[i,k]     = (T + 2 * z_loss * L) * exp(z[k] - m) / s - t[i,k]           L = m + log s
    grad[i,k]   = row_scale[i] * logit_scale * (1 - (z[i,k] / softcap)^2) * dz[i,k]

with m the row's maximum and s = sum_k exp(z[k] - m); docs/math.md derives it. Weights, smoothing,
soft labels, ignored labels, row weights and reductions only choose these factors.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent import checks, threads
from fastxent.layout import OutputRows, output_rows, rows_of, vector_of
from fastxent.mass import mass_of, of_classes, representable
from fastxent.options import Options
from fastxent.precision import Array, Precision, kernel_dtype, kind_of, precision_of
from fastxent.reduction import REDUCTIONS, WHEN_ALL_IGNORED, Reduction

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend, Forward, HessRule, Outputs
    from fastxent.device_array import DeviceArray

__all__ = ["ASIDES", "Problem"]

# What `aux` may name, and what of it backends compute.
ASIDES = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss", "target_grad")
_SIDE_OUTPUTS = ("log_prob", "argmax", "entropy", "target_grad")


@functools.lru_cache(maxsize=256)
def _outputs_for(asked: tuple[str, ...]) -> tuple[str, ...]:
    names = {"argmax" if name == "correct" else name for name in asked}
    return tuple(name for name in _SIDE_OUTPUTS if name in names)


@dataclass(slots=True)
class Problem:
    """One call, in the form that backends compute.

    Attributes
    ----------
    given : array
        The caller's logits, in their own shape.
    logits : (rows.., C) array
        A view of `given` with two to five dimensions, the classes last: the leading ones in C order
        of the caller's rows, adjacent ones merged where a view can, so that the usual case is
        (N, C). Any byte strides (negative, 0, no multiple of the element), maybe unaligned, maybe
        read-only; native byte order. Half precision as its bits, uint16.
    precision : Precision
        `precision.kind` says what the logits are.
    axis : int
        Where the classes are in the caller's arrays.
    num_threads : int
    rows, classes : int
        N, and how many classes `logits`, `soft`, `background` and `gain` have.
    class_offset, num_classes : int
        Of how many classes in all these are a run, and where it begins. Labels and `spike` count
        all classes; other problems than those of shards have all of them.
    target : (N,) contiguous integer array or None
        Class indices, in the caller's dtype.
    soft : (rows.., C) array or None
        Probabilities, as `logits` are given but with dimensions and strides of their own.
    soft_kind : {"uint8", "float16", "bfloat16", "float32", "float64"} or None
        What they are; uint8 for booleans, 0 and 1.
    skip : int or None
        The label whose rows count for nothing; their logits are not read.
    spike : float or (num_classes,) float64 array
        Mass on the label itself.
    background : float, (C,) array of the compute dtype, or None
        Mass on every class.
    background_total : float
        Sum of `background` over all `num_classes` classes.
    gain : float, (C,) array of the compute dtype, or None for 1
        Factor of `soft`.
    row_scale : float or (N,) float64 array
        Factor of each row's gradient; that of the logits gets `logit_scale` besides.
    logit_scale : float
    softcap : float or None
    z_loss : float
        lambda, the factor of L^2.
    hess_rule : HessRule or None
        What `Outputs.hess` holds; None for p * (1 - p).
    out : (rows.., C) array or None
        The caller's own memory for the gradient or the softmax, like `logits`; None for new memory.
    given_target : array or None
        The caller's target, in its own shape.
    asked : tuple of str
        Not for kernels: the names in the caller's `aux`.
    denominator : float
        Not for kernels: what the sum of the losses is divided by; `row_scale` has it already.
    reduction : Reduction or None
        Not for kernels: what becomes of the rows' losses.
    denominator_at : (1,) float64 DeviceArray or None
        On a GPU, whose sums the host does not know: a divisor of `row_scale`. Where it is 0 all
        gradients are 0.
    row_weight_at : (N,) float64 DeviceArray or None
        On a GPU: factor of each row's loss.
    """

    given: Array
    logits: Array
    precision: Precision
    axis: int
    num_threads: int
    rows: int
    classes: int
    class_offset: int
    num_classes: int
    target: Array | None = None
    soft: Array | None = None
    soft_kind: str | None = None
    skip: int | None = None
    spike: float | Array = 0.0
    background: float | Array | None = None
    background_total: float = 0.0
    gain: float | Array | None = None
    row_scale: float | Array = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0
    hess_rule: HessRule | None = None
    out: Array | None = None
    given_target: Array | None = None
    asked: tuple[str, ...] = ()
    denominator: float = 1.0
    reduction: Reduction | None = None
    denominator_at: DeviceArray | None = None
    row_weight_at: DeviceArray | None = None

    @property
    def target_grad_kind(self) -> str | None:
        """Kind of the gradient with respect to `soft`: its own, that of the logits for booleans."""
        return self.precision.kind if self.soft_kind == "uint8" else self.soft_kind

    @property
    def aux(self) -> tuple[str, ...]:
        """The outputs besides loss, gradient and row statistics that the call will ask for."""
        return _outputs_for(self.asked) if self.asked else ()

    @property
    def is_bare(self) -> bool:
        """Whether the mass of the targets is the targets themselves."""
        return self.gain is None and self.background is None

    def bare(self) -> Problem:
        """The same rows with the targets as their mass: no factors, nothing added."""
        return replace(self, gain=None, background=None, background_total=0.0, z_loss=0.0)

    @classmethod
    def of_array(
        cls, x: Any, axis: Any, num_threads: Any, out: Any = None, storage: Any = None
    ) -> Problem:
        """Problem without a target: softmax and its relatives over one axis."""
        storage = checks.check_storage(storage)
        x = checks.check_logits(x, "x", storage)
        axis = checks.check_axis(axis, x, "x")
        precision = _precision(x, storage)
        checks.check_out(out, x, {}, x.shape, precision.storage, "x")
        classes = x.shape[axis]
        return cls(
            given=x,
            logits=rows_of(x, axis, precision.kernel),
            precision=precision,
            axis=axis,
            num_threads=threads.plan(num_threads, x.size // classes, x.nbytes),
            rows=x.size // classes,
            classes=classes,
            class_offset=0,
            num_classes=classes,
            out=None if out is None else rows_of(out, axis, precision.kernel),
        )

    @classmethod
    def build(
        cls,
        logits: Any,
        target: Any,
        *,
        num_threads: Any = None,
        grad_output: Any = None,
        out: Any = None,
        storage: Any = None,
        **options: Any,
    ) -> Problem:
        """Check every public argument and do the algebra; labels are checked by `with_labels`.

        `storage` ("float16" or "bfloat16") says what the bits in uint16 arrays are: of the logits,
        of probabilities, and of what comes back.
        """
        return cls.of_options(
            logits, target, Options(**options), num_threads, grad_output, out, storage
        )

    @classmethod
    def of_options(
        cls,
        logits: Any,
        target: Any,
        options: Options,
        num_threads: Any,
        grad_output: Any = None,
        out: Any = None,
        storage: Any = None,
        shard: tuple[Any, Any] | None = None,
    ) -> Problem:
        """Do what `build` does, with the options in one tuple.

        `shard` is `class_offset` and `num_classes` where `logits`, probabilities and `out` have
        some of the classes only, or none. Labels and weights are those of all.
        """
        storage = checks.check_storage(storage)
        logits = checks.check_logits(logits, storage=storage)
        axis = checks.check_axis(options.axis, logits, may_be_empty=shard is not None)
        precision = _precision(logits, storage)
        rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
        classes = logits.shape[axis]
        class_offset, num_classes = 0, classes
        if shard is not None:
            class_offset, num_classes = checks.check_shard(*shard, classes)
        target, hard = checks.check_target(target, logits, axis, storage)
        weights = checks.check_weight(options.weight, num_classes, precision.compute)
        smoothing = checks.check_label_smoothing(options.label_smoothing)
        kind = checks.check_choice(options.reduction, "reduction", REDUCTIONS)
        row_weight = checks.check_sample_weight(options.sample_weight, rows_shape)
        skip = checks.check_ignore_index(options.ignore_index, hard)
        upstream = checks.check_grad_output(grad_output, rows_shape)
        recipe = Reduction(
            kind=kind,
            normalizer=checks.check_normalizer(options.normalizer, kind),
            all_ignored=checks.check_choice(options.all_ignored, "all_ignored", WHEN_ALL_IGNORED),
            rows_shape=rows_shape,
            class_mass=weights if hard else None,
            row_weight=row_weight,
            grad_output=upstream,
        )
        z_loss = checks.check_z_loss(options.z_loss)
        logit_scale = checks.check_logit_scale(options.logit_scale, precision.compute)
        softcap = checks.check_softcap(options.softcap, logit_scale, precision.compute)
        asked = checks.check_aux(options.aux, ASIDES, hard)
        if out is not None:
            others = {
                "target": target,
                "weight": weights,
                "sample_weight": row_weight,
                "grad_output": upstream if isinstance(upstream, np.ndarray) else None,
            }
            checks.check_out(out, logits, others, logits.shape, precision.storage)

        soft_kind = None if hard else kind_of(target.dtype, storage)
        soft = None
        if soft_kind is not None:
            soft = rows_of(target, axis, kernel_dtype(target.dtype, soft_kind))
        mass = mass_of(weights, smoothing, num_classes, hard, precision.compute)
        if classes < num_classes:
            mass = of_classes(mass, slice(class_offset, class_offset + classes))
        return cls(
            given=logits,
            logits=rows_of(logits, axis, precision.kernel),
            precision=precision,
            axis=axis,
            num_threads=threads.plan(num_threads, math.prod(rows_shape), logits.nbytes),
            rows=math.prod(rows_shape),
            classes=classes,
            class_offset=class_offset,
            num_classes=num_classes,
            target=vector_of(target) if hard else None,
            soft=soft,
            soft_kind=soft_kind,
            given_target=target,
            skip=representable(skip, target.dtype) if hard else None,
            **mass,
            logit_scale=logit_scale,
            softcap=softcap,
            z_loss=z_loss,
            asked=asked,
            out=None if out is None else rows_of(out, axis, precision.kernel),
            reduction=recipe,
        )

    def with_labels(self, backend: Backend) -> Problem:
        """Check the labels; this problem, now with the mean's denominator and its `row_scale`."""
        assert self.reduction is not None
        recipe = self.reduction
        rows, num_classes = self.rows, self.num_classes
        if self.target is not None:
            summary = backend.check_labels(
                self.target,
                num_classes,
                self.skip,
                recipe.class_mass if recipe.needs_mass else None,
                recipe.row_weight if recipe.needs_mass else None,
                self.num_threads,
            )
            if summary.bad_row >= 0:
                target = self.target.reshape(recipe.rows_shape)
                checks.raise_bad_label(target, summary.bad_row, num_classes, self.skip)
            mass = summary.mass
        elif recipe.row_weight is not None:
            mass = float(np.sum(recipe.row_weight))
        else:
            mass = float(rows)
        self.denominator = recipe.denominator(mass)
        if self.denominator != 0.0:
            self.row_scale = recipe.row_scale(self.denominator)
        return self

    def reduced_loss(self, backend: Forward, outputs: Outputs) -> Any:
        """Run the forward verb, with a loss for each row where they are needed, and reduce it."""
        recipe, loss_dtype, denominator = self.reduction, self.precision.loss, self.denominator
        assert recipe is not None
        if denominator == 0.0:
            if outputs.grad is not None:
                outputs.grad.fill(0)
            return recipe.nothing_counted(loss_dtype.type)
        if recipe.needs_total_only:
            outputs.total = np.empty(1)
            backend.forward(self, outputs)
            return recipe.of_total(float(outputs.total[0]), denominator, loss_dtype.type)
        outputs.loss = np.empty(self.rows, loss_dtype)
        backend.forward(self, outputs)
        return recipe.finish(outputs.loss, denominator)

    def later_grad(
        self,
        backend: Backend,
        row_max: Array,
        row_sum: Array,
        grad_output: Any = None,
        out: Any = None,
    ) -> Array:
        """Gradient from the row statistics of a forward pass: the bits that pass would have given.

        For frameworks that run backward apart from forward. `grad_output` is the upstream gradient
        that is known only now, a number or one a row; it multiplies one that was given before.
        """
        assert self.reduction is not None
        others = {"target": self.given_target}
        checks.check_out(out, self.given, others, self.given.shape, self.precision.storage)
        upstream = checks.check_grad_output(grad_output, self.reduction.rows_shape)
        grad = self.new_output(out)
        if self.denominator == 0.0:
            grad.rows.fill(0)
        else:
            scale = self.reduction.row_scale(self.denominator, upstream)
            backend.backward(replace(self, row_scale=scale), row_max, row_sum, grad.rows)
        return grad.deliver()

    def new_output(self, out: Array | None) -> OutputRows:
        """Output of the shape and dtype of the logits: in `out`, or new and laid out alike."""
        return output_rows(
            self.given, self.axis, out, self.precision.storage, self.precision.kernel
        )


def _precision(logits: Array, storage: str | None) -> Precision:
    precision = precision_of(logits.dtype, storage)
    assert precision is not None  # check_logits has passed
    return precision
