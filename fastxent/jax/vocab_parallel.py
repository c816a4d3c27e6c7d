"""The public loss over classes sharded along an axis of a mesh, for use inside `jax.shard_map`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fastxent import checks
from fastxent.checks.jax import check_padded_classes
from fastxent.jax.arguments import checked
from fastxent.jax.handlers import share_threads
from fastxent.jax.operands import Operands
from fastxent.jax.reading import fixed, labels_kept, stand_in
from fastxent.jax.shard_loss import ShardOptions, shard_loss
from fastxent.options import Options

__all__ = ["vocab_parallel_cross_entropy"]


def vocab_parallel_cross_entropy(
    local_logits: Any,
    target: Any,
    axis_name: Any,
    *,
    num_classes: int | None = None,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    all_ignored: str = "nan",
    merge: str = "reduce",
    num_threads: int | None = None,
) -> jax.Array:
    """Cross-entropy of logits whose classes are sharded over devices, inside `jax.shard_map`.

    Parameters
    ----------
    local_logits : array_like of float16, bfloat16, float32 or float64
        The logits of this device: its classes along `axis`, all rows.
    target : array_like
        The same class indices on every device, counted over all classes, shape of `local_logits`
        without `axis`; or this device's probabilities, shape of `local_logits`.
    axis_name : str or tuple of str
        Axis of the mesh along which the classes lie, in its order.
    num_classes : int, optional
        How many classes there are, if the last devices hold padding: shards of JAX have one size.
        By default the sizes of all shards. Logits of padding must be -inf and probabilities 0:
        nobody looks, and with anything else there the loss is wrong.
    weight : array_like of shape (num_classes,), optional
        Weights of all classes, the same on every device.
    ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap
        As in `cross_entropy`; smoothing is over all classes, and not over padding.
    logit_scale, axis, all_ignored, num_threads
        As in `cross_entropy`.
    merge : {"reduce", "in_order"}, default "reduce"
        How sums of devices are added up: by XLA's reduction, or in the order of the classes, so
        that the bits depend on the number of devices only; then every device receives the numbers
        of each other one. The order is one of devices, not of blocks of 1,024 classes: unlike
        ``merge="in_order"`` of `fastxent.mpi` and `fastxent.torch` it does not give the bits of a
        single call.

    Returns
    -------
    jax.Array
        As from `cross_entropy` of all logits, within 4 units in the last place, the same on every
        device.

    Raises
    ------
    ShapeError, OptionError, DTypeError, LabelError, BackendError
        As in `cross_entropy`; `num_classes` is more than the shards hold. With respect to anything
        else than `local_logits` there is no derivative: an OptionError.
    NameError
        From JAX: `axis_name` is no axis of a mesh here.
    jax.errors.JaxRuntimeError
        As in `cross_entropy`.

    Notes
    -----
    Devices exchange a maximum of each row and two or three sums, never logits. Forward and reverse
    mode of first order; the gradient is computed without another exchange.

    ``jax.grad`` may be outside `jax.shard_map` or inside. Inside, with ``check_vma=False``, the
    gradient is multiplied by the number of devices, as that of every ``jax.lax.psum`` is there: the
    devices' losses count as different numbers that are added up. Leave ``check_vma`` at True, or
    differentiate ``loss / jax.lax.axis_size(axis_name)``.

    Every device along `axis_name` checks the whole `target` of class indices, `weight`,
    `sample_weight` and `normalizer` before it waits for the others, so that all of them refuse a
    call. They have to be given the same. On a mesh with an axis of rows too, a group of rows that
    is refused leaves the other groups waiting in whatever they exchange with it (the ``psum`` of a
    mean, say), until XLA ends the process after its time-out: look at labels before, where they
    may be wrong.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> from jax.sharding import PartitionSpec as P
    >>> kind = jax.sharding.AxisType.Auto
    >>> mesh = jax.make_mesh((jax.device_count(),), ("classes",), axis_types=(kind,))
    >>> classes = 6 * mesh.size
    >>> def loss(logits, target):
    ...     return fastxent.jax.vocab_parallel_cross_entropy(logits, target, "classes")
    >>> sharded = jax.shard_map(
    ...     loss, mesh=mesh, in_specs=(P(None, "classes"), P()), out_specs=P()
    ... )
    >>> step = jax.jit(jax.value_and_grad(sharded))
    >>> value, grad = step(jnp.zeros((4, classes)), jnp.array([3, 1, 4, 1]))
    >>> bool(abs(value - jnp.log(classes)) < 1e-6), grad.shape == (4, classes)
    (True, True)

    Ten classes do not divide by the devices of most meshes: pad the logits.

    >>> def padded_loss(logits, target):
    ...     return fastxent.jax.vocab_parallel_cross_entropy(
    ...         logits, target, "classes", num_classes=10, label_smoothing=0.1
    ...     )
    >>> padding = -10 % mesh.size
    >>> logits = jnp.pad(jnp.zeros((4, 10)), ((0, 0), (0, padding)), constant_values=-jnp.inf)
    >>> sharded = jax.shard_map(
    ...     padded_loss, mesh=mesh, in_specs=(P(None, "classes"), P()), out_specs=P()
    ... )
    >>> round(float(jax.jit(sharded)(logits, jnp.array([3, 1, 4, 1]))), 4)
    2.3026
    """
    ignore_index = fixed(ignore_index, "ignore_index")
    logits, target = jnp.asarray(local_logits), jnp.asarray(labels_kept(target, ignore_index))
    shaped = checks.check_logits(stand_in(logits), "local_logits")
    axis = checks.check_axis(fixed(axis, "axis"), shaped, "local_logits")
    # a sum of a number over the axis is known when the function is traced
    devices = int(lax.psum(1, axis_name))
    held = devices * shaped.shape[axis]
    classes = check_padded_classes(fixed(num_classes, "num_classes"), held)
    in_order = checks.check_choice(merge, "merge", ("reduce", "in_order")) == "in_order"
    given = Options(
        *(weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight),
        *(z_loss, softcap, logit_scale, axis, all_ignored),
    )
    options, _, *factors = checked(given, shaped, axis, target, classes, num_threads)
    share_threads()
    name = tuple(axis_name) if isinstance(axis_name, list) else axis_name
    of_shards = ShardOptions(options, name, devices, classes, in_order)
    return shard_loss(of_shards, Operands(logits, target, *factors))
