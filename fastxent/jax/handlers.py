"""The kernels as JAX calls them: through XLA's FFI, or through a callback where that fails.

XLA calls the handlers of the compiled extension (src_cython/jax_handlers.c) with pointers to its
buffers: nothing is copied, and neither Python nor its lock has a part in the call. A small call at
import proves that it works.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastxent import environment, threads
from fastxent.backends import load
from fastxent.checks.jax import check_foreign
from fastxent.jax import host
from fastxent.jax.manual_axes import alike
from fastxent.jax.operands import LOSS_ALONE, LossOptions, Operands, Wants
from fastxent.jax.platform import on_cpu
from fastxent.jax.wide import float64
from fastxent.precision import precision_of

__all__ = [
    "call_denominator",
    "call_loss",
    "call_partial",
    "call_partial_backward",
    "call_rows",
    "call_softmax",
    "info",
    "share_threads",
]

_REDUCTIONS = ("none", "sum", "mean")
_FORMS = ("softmax", "log_softmax", "logsumexp", "logsumexp and softmax")
_ASKED_FOR = "FASTXENT_JAX_FFI=0 asks for the callback"


def share_threads() -> None:
    """Tell the handlers the limit of this process: they run where no Python can be asked."""
    if _why_callback is None:
        _compiled().share_threads(0 if threads.forked() else threads.get_num_threads())


def _compiled() -> Any:
    return load("cython")


def info() -> str:
    """Tell how kernels are called, for a bug report.

    Returns
    -------
    str
        "XLA FFI", or "jax.pure_callback" and why that is needed.

    Examples
    --------
    >>> import fastxent.jax
    >>> fastxent.jax.info()
    'XLA FFI'
    """
    if _why_callback is None:
        return "XLA FFI"
    return f"jax.pure_callback ({_why_callback})"


def call_loss(
    options: LossOptions,
    operands: Operands,
    wants: Wants = LOSS_ALONE,
    in_place: bool = False,
) -> list[Any]:
    """Loss, and the gradients that are wanted, of one pass; the first over the logits, if asked."""
    logits, target = operands.logits, operands.target
    compute = _compute(logits)
    at = logits.ndim + options.axis
    rows_shape = logits.shape[:at] + logits.shape[at + 1 :]
    shapes = [(rows_shape if options.reduction == "none" else (), compute)]
    if wants.grad:
        shapes.append((logits.shape, logits.dtype))
    if wants.target_grad:
        shapes.append((target.shape, target.dtype))
    if wants.sums:
        shapes += [(rows_shape, compute)] * 2
    given = [operand for operand in operands if operand is not None]
    if _why_callback is not None:
        names = tuple(name for name, x in operands._asdict().items() if x is not None)
        return _callback(functools.partial(host.loss, options, names, wants), given, shapes)
    smoothing = options.label_smoothing
    numbers = (
        *(1.0 - smoothing, smoothing),
        *(options.logit_scale, options.softcap or 0.0, options.z_loss),
    )
    same = {0: 1} if in_place and wants.grad else None
    return _foreign(
        "cross_entropy", given, shapes, _integers(options, operands, wants), numbers, same
    )


def _integers(options: LossOptions, operands: Operands, wants: Wants) -> tuple[int, ...]:
    skip = options.ignore_index or 0
    return (
        *(options.rank, options.trailing, _REDUCTIONS.index(options.reduction)),
        *(options.ignore_index is not None, skip - (1 << 64) if skip >= 1 << 63 else skip),
        options.all_ignored == "zero",
        *(factor is not None for factor in operands[2:]),
        *(*wants, options.num_threads or 0),
    )


def call_denominator(
    options: LossOptions, operands: Operands, classes: int, compute: np.dtype[Any]
) -> list[Any]:
    """What the mean of rows is divided by, without their logits; class indices also.

    Labels and weights are checked. What is computed from the class indices that come back is
    computed after that.
    """
    target, hard = operands.target, operands.target.ndim == 1
    options = replace(options, rank=2, trailing=0)
    shapes = [((), compute)] + ([(target.shape, target.dtype)] if hard else [])
    given = [operand for operand in operands[1:] if operand is not None]
    if _why_callback is not None:
        names = tuple(name for name, x in operands._asdict().items() if x is not None)
        call = functools.partial(host.denominator, options, names, classes, compute)
        return _callback(call, given, shapes, "sequential")
    integers = (*_integers(options, operands, LOSS_ALONE), classes)
    same = {0: 1} if hard else None
    return _foreign("denominator", given, shapes, integers, (), same, "sequential")


def call_rows(matrix: Any, places: Any) -> Any:
    """Rows of a matrix of bfloat16 in float32; 0 for places that it does not have."""
    shapes = [((*places.shape, matrix.shape[1]), np.dtype(np.float32))]
    if _why_callback is not None:
        return _callback(host.rows, [matrix, places], shapes, "sequential")[0]
    return _foreign("brain_rows", [matrix, places], shapes, (0,), (), None, "sequential")[0]


def call_partial(
    options: LossOptions, num_classes: int, spread: float, logits: Any, target: Any, *others: Any
) -> dict[str, Any]:
    """What rows hand up of some classes, by the names of src_cython/jax_shard.hpp.

    `others` are the number of the first class, and the weights of these classes if there are any;
    `spread` is the mass that is spread evenly over `num_classes`. All results are float64.
    """
    names = ["max", "sum"]
    if spread or target.ndim == logits.ndim:
        names += ["mass", "dot"]
    if target.ndim < logits.ndim:
        names.append("label_logit")
    at = logits.ndim + options.axis
    shape = logits.shape[:at] + logits.shape[at + 1 :]
    shapes = [(shape, np.dtype(np.float64))] * len(names)
    given = [logits, target, *others]
    settings = _of_shard(options, num_classes, spread, len(others) > 1)
    with float64():
        return dict(zip(names, _foreign("partial", given, shapes, *settings), strict=True))


def call_partial_backward(
    options: LossOptions, num_classes: int, spread: float, logits: Any, target: Any, *others: Any
) -> Any:
    """Gradient of the logits of some classes.

    `others` are the number of the first class, then of each row max, sum, mass of its target and
    factor of its gradient, in float64, and the weights of these classes if there are any.
    """
    settings = _of_shard(options, num_classes, spread, len(others) > 5)
    given, shapes = [logits, target, *others], [(logits.shape, logits.dtype)]
    with float64():
        return _foreign("partial_backward", given, shapes, *settings)[0]


def _of_shard(
    options: LossOptions, num_classes: int, spread: float, has_weight: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    check_foreign("vocab_parallel_cross_entropy", _why_callback)
    skip = options.ignore_index or 0
    integers = (
        *(options.rank, options.trailing, options.ignore_index is not None),
        *(skip - (1 << 64) if skip >= 1 << 63 else skip, has_weight),
        *(options.num_threads or 0, num_classes),
    )
    numbers = (
        *(1.0 - options.label_smoothing, spread),
        *(options.logit_scale, options.softcap or 0.0, options.z_loss),
    )
    return integers, numbers


def call_softmax(form: str, x: Any, trailing: int, num_threads: int | None) -> list[Any]:
    """The softmax, its logarithm, or logsumexp, that maybe with the softmax beside it."""
    at = x.ndim - 1 - trailing
    rows_shape = x.shape[:at] + x.shape[at + 1 :]
    shapes = [(rows_shape, _compute(x))] if form.startswith("logsumexp") else []
    if form != "logsumexp":
        shapes.append((x.shape, x.dtype))
    if _why_callback is not None:
        call = functools.partial(host.softmax, form, trailing, num_threads)
        return _callback(call, [x], shapes)
    integers = (trailing, _FORMS.index(form), num_threads or 0)
    return _foreign("softmax", [x], shapes, integers, ())


def _compute(logits: Any) -> np.dtype[Any]:
    precision = precision_of(np.dtype(logits.dtype))
    assert precision is not None  # the door has looked
    return precision.compute


def _prepared(operands: list[Any], shapes: list[Any]) -> tuple[list[Any], list[Any]]:
    return alike([on_cpu(operands[0]), *operands[1:]], shapes)


def _foreign(
    name: str,
    operands: list[Any],
    shapes: list[Any],
    integers: Any,
    numbers: Any,
    same: dict[int, int] | None = None,
    vmap_method: str = "broadcast_all",
) -> list[Any]:
    operands, results = _prepared(operands, shapes)
    call = jax.ffi.ffi_call(
        f"fastxent_{name}", results, vmap_method=vmap_method, input_output_aliases=same
    )
    return list(
        call(
            *operands,
            integers=np.array(integers, np.int64),
            numbers=np.array(numbers or (0.0,), np.float64),
        )
    )


def _callback(
    call: Any, operands: list[Any], shapes: list[Any], vmap_method: str = "broadcast_all"
) -> list[Any]:
    operands, results = _prepared(operands, shapes)
    found = jax.pure_callback(call, tuple(results), *operands, vmap_method=vmap_method)
    # a callback's results are not known to vary along the axes of a mesh, whatever was asked for
    return alike([operands[0], *found], [])[0][1:]


def _why_not() -> str | None:
    """Why XLA cannot call the handlers, None if a call of two rows came out right."""
    if not environment.jax_ffi():
        return _ASKED_FOR
    reason: str | None = _compiled().why_not()
    if reason is not None:
        return reason
    share_threads()
    try:
        # first: a handler that is refused while the platform starts would take the platform down
        cpu = jax.devices("cpu")[0]
        for name, handler in _compiled().jax_handlers().items():
            jax.ffi.register_ffi_target(f"fastxent_{name}", handler, platform="cpu")
        loss, grad = _two_rows(cpu)
    except Exception as error:  # whatever another version of JAX may say
        return f"{type(error).__name__}: {error}"
    expected = np.array([[-2.0, 1.0, 1.0], [1.0, -2.0, 1.0]]) / 6
    right = np.allclose(loss, np.log(3)) and np.allclose(grad, expected)
    return None if right else "a call of two rows gave wrong numbers"


def _two_rows(cpu: jax.Device) -> tuple[Any, Any]:
    options = LossOptions(2, 0, None, 0.0, "mean", 0.0, None, 1.0, "nan", 1)
    with jax.ensure_compile_time_eval(), jax.default_device(cpu):
        operands = Operands(jnp.zeros((2, 3), jnp.float32), jnp.array([0, 1], jnp.int32))
        loss, grad = call_loss(options, operands, Wants(grad=True))
    return np.asarray(loss), np.asarray(grad)


_why_callback: str | None = None
_why_callback = _why_not()
if _why_callback is None:
    threads.on_change(share_threads)
elif _why_callback != _ASKED_FOR:
    warnings.warn(
        f"XLA's FFI cannot call fastxent's kernels, jax.pure_callback does: {_why_callback}",
        RuntimeWarning,
        stacklevel=2,
    )
