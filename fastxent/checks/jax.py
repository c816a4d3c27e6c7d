"""What only callers from another framework can get wrong."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastxent.checks.options import check_num_classes
from fastxent.errors import BackendError, DTypeError, LabelError, OptionError, ShapeError

__all__ = [
    "check_differentiable",
    "check_fixed_sizes",
    "check_foreign",
    "check_kept",
    "check_padded_classes",
    "raise_not_on_cpu",
    "raise_traced",
]


def check_kept(
    target: npt.NDArray[Any], kept: np.dtype[np.integer[Any]], ignore_index: int | None
) -> None:
    """Integers that a framework converts to fewer bits, which would make other labels of some."""
    what = f"JAX makes {kept} of target's {target.dtype}, which does not hold"
    then = "pass labels of that dtype, or enable 64 bits: jax.config.update('jax_enable_x64', True)"
    given, kept_range = np.iinfo(target.dtype), np.iinfo(kept)
    if target.size and not kept_range.min <= target.min() <= target.max() <= kept_range.max:
        bad = (target < kept_range.min) | (target > kept_range.max)
        row = int(np.argmax(bad))
        raise LabelError(f"{what} the label {target.reshape(-1)[row]} of row {row}: {then}")
    if (
        ignore_index is not None
        and given.min <= ignore_index <= given.max
        and not kept_range.min <= ignore_index <= kept_range.max
    ):
        raise OptionError(f"{what} ignore_index = {ignore_index}: {then}")


def check_fixed_sizes(name: str, shape: tuple[Any, ...]) -> None:
    """Sizes that are numbers: what is planned when a function is traced needs them."""
    if not all(isinstance(size, int) for size in shape):
        raise ShapeError(
            f"{name} of shape ({', '.join(map(str, shape))}) has symbolic sizes, and the chunks of "
            "rows are planned from fixed ones: export the function once for each size"
        )


def check_foreign(function: str, why_not: str | None) -> None:
    """That XLA can call the kernels, for what has no other way to them."""
    if why_not is not None:
        raise BackendError(
            f"fastxent.jax.{function} needs kernels that XLA calls through its foreign function "
            f"interface, and cannot: {why_not}"
        )


def check_differentiable(moved: list[str]) -> None:
    """That nothing is differentiated but the logits."""
    if moved:
        raise OptionError(
            f"the loss over shards of the classes has no derivative with respect to "
            f"{' and '.join(moved)}: only with respect to local_logits; jax.lax.stop_gradient "
            "holds the others constant"
        )


def check_padded_classes(value: Any, held: int) -> int:
    """How many classes there are among those that the shards hold, which may be padded."""
    if value is None:
        return held
    num_classes = check_num_classes(value)
    if num_classes > held:
        raise OptionError(
            f"num_classes = {num_classes} is more than the {held} classes that the shards of all "
            "devices hold"
        )
    return num_classes


def raise_not_on_cpu(platforms: str) -> NoReturn:
    """Report a program for a device that no handler is registered for."""
    raise BackendError(
        f"fastxent.jax computes on the CPU only, and this program is compiled for {platforms}: "
        "keep its arrays on the CPU (jax.device_put(x, jax.devices('cpu')[0]), or "
        "jax.default_device), or compute this loss there with optax"
    )


def raise_traced(name: str) -> NoReturn:
    """Report an option that has to be known when a function is traced."""
    raise DTypeError(
        f"{name} is a traced JAX value and has to be a Python number: close over it, or name it in "
        "static_argnames of jax.jit"
    )
