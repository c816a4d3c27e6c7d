"""Inside `jax.shard_map`: which mesh axes an array varies along, under every supported JAX."""

from __future__ import annotations

import inspect
from typing import Any

import jax

__all__ = ["alike", "gathered"]


def _varying(x: Any) -> frozenset[Any]:
    aval = jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)
    if manual is not None:
        return frozenset(manual.varying)
    return frozenset(getattr(aval, "vma", ()))


def _vary(x: Any, axes: tuple[Any, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)


def alike(operands: list[Any], shapes: list[Any]) -> tuple[list[Any], list[Any]]:
    """Operands that vary along the same mesh axes, and what results of a call with them are.

    A foreign call wants them alike; a class weight, say, is often the same on every device.
    """
    varying = [_varying(x) for x in operands]
    axes = frozenset().union(*varying)
    operands = [
        _vary(x, tuple(sorted(axes - own))) if axes - own else x
        for x, own in zip(operands, varying, strict=True)
    ]
    if not axes:
        return operands, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    like = jax.typeof(operands[0])
    return operands, [
        like.update(shape=shape, dtype=dtype, weak_type=False) for shape, dtype in shapes
    ]


def gathered(value: Any, axis_name: Any, devices: int) -> Any:
    """The array of every device along an axis, first to last; the same on each of them.

    Only newer versions of JAX know the latter of `all_gather`. Before, each device sends its own
    array among zeros, which no sum rounds.
    """
    if "to" in inspect.signature(jax.lax.all_gather).parameters:
        return jax.lax.all_gather(value, axis_name, to="invarying")
    place = jax.lax.axis_index(axis_name)
    alone = jax.numpy.zeros((devices, *value.shape), value.dtype).at[place].set(value)
    return jax.lax.psum(alone, axis_name)
