"""The short way of a call whose options are numbers and words: its launches are noted once.

The checks, the algebra and the choice of kernels take the host longer than a small call takes the
GPU, and depend on shapes, dtypes, alignment and options only: the first call of its kind goes the
long way with arrays that have no memory, and the launches that come of it are made again for every
call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends import pick_on_device
from fastxent.backends.contract import ADDRESS_STEP, Outputs
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import Home, library_of
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.loss import LossOnDevice
from fastxent.options import Options

__all__ = ["plain_loss"]

# What kernels ask of the beginning of an array, and what every library gives to new ones.
_ALIGNMENT = 16
_GRANULE = 256

# Options that a key can hold, and labels that cannot be taken for an address.
_PLAIN = {float, int, str, bool, type(None)}
_MOST_LABEL = 1 << 48

# Kinds of calls that are remembered; batches of varying sizes make many.
_MOST_PLANS = 512

_BYTE = np.dtype(np.uint8)


class _Plan(NamedTuple):
    """What a call of some shapes has to do.

    Attributes
    ----------
    launch : callable
        See `DeviceBackend.record`.
    loss : DeviceArray
        Of the shape and dtype of the result, and no memory.
    loss_number : int
        Among the new arrays of the call, from 0.
    offsets : tuple of int
        Where each of the others lies in one piece of memory; -1 for the loss.
    nbytes : int
        Of that piece.
    """

    launch: Callable[[Place, tuple[int, ...]], None]
    loss: DeviceArray
    loss_number: int
    offsets: tuple[int, ...]
    nbytes: int


def plain_loss(
    home: Home,
    target: Any,
    options: Options,
    backend: str | None,
    wants_grad: bool,
    grad_output: Any = None,
    out: Any = None,
) -> tuple[Any, Any] | None:
    """Loss, and the gradient, in `out` if that is the logits.

    None where anything is not plain, and nothing has been written.
    """
    library, given = home.library, home.like
    *named, aux = *options[:-1], grad_output, options.aux
    types = tuple(map(type, named))
    if (
        library is None
        or not library.allocates
        or library_of(target) is not library
        or not library.is_on_device(target)
        or not (out is None or (out is given and library.why_not_written() is None))
        or type(aux) is not tuple
        or aux
        or not _PLAIN.issuperset(types)
        or (type(options.ignore_index) is int and abs(options.ignore_index) >= _MOST_LABEL)
        or library.why_not_on_device(given, "logits") is not None
        or library.why_not_on_device(target, "target") is not None
    ):
        return None
    chosen = pick_on_device(backend)
    logits, labels = library.read_on_device(given), library.read_on_device(target)
    place, there = logits.place, labels.place
    if not library.keeps_for_graphs:
        chosen.check_not_captured(place)
    if (
        place.device != there.device
        or place.stream != there.stream
        or not (logits.is_dense and labels.is_dense and (out is None or logits.writeable))
    ):
        return None
    distances = logits.address % _ALIGNMENT, labels.address % _ALIGNMENT
    shapes = logits.shape, labels.shape, logits.dtype, labels.dtype
    has_new_grad = wants_grad and out is None
    key = *shapes, distances, place.device, wants_grad, has_new_grad, types, *named
    plan = chosen.plans.get(key, chosen)
    if plan is chosen:
        plan = _plan(chosen, logits, labels, options, wants_grad, grad_output, has_new_grad)
        if len(chosen.plans) >= _MOST_PLANS:
            chosen.plans.clear()
        chosen.plans[key] = plan
    if plan is None:
        return None
    beginnings = [logits.address - distances[0], labels.address - distances[1]]
    grad = place.allocate(logits.shape, logits.dtype) if has_new_grad else None
    if grad is not None:
        beginnings.append(grad.address)
    loss = place.allocate(plan.loss.shape, plan.loss.dtype)
    memory = place.allocate((plan.nbytes,), _BYTE)
    for number, offset in enumerate(plan.offsets):
        beginnings.append(loss.address if number == plan.loss_number else memory.address + offset)
    plan.launch(place, tuple(beginnings))
    value = home.give_on_device(loss, chosen.wait)
    if out is not None:
        library.after_write(out)
        return value, out
    return value, None if grad is None else home.give_on_device(grad, chosen.wait)


def _plan(
    backend: Any,
    logits: DeviceArray,
    labels: DeviceArray,
    options: Options,
    wants_grad: bool,
    grad_output: float | None,
    has_new_grad: bool,
) -> _Plan | None:
    """Go the long way, with all of its checks, once; None if that takes more than launches."""
    found: list[DeviceArray] = []
    numbers = itertools.count(1)

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
        found.append(DeviceArray(next(numbers) * ADDRESS_STEP, shape, dtype, place, None))
        return found[-1]

    place = Place(logits.place.device, logits.place.stream, allocate)

    def shown(array: DeviceArray, distance: int) -> DeviceArray:
        address = next(numbers) * ADDRESS_STEP + distance
        return DeviceArray(address, array.shape, array.dtype, place, None)

    first = shown(logits, logits.address % _ALIGNMENT)
    target = shown(labels, labels.address % _ALIGNMENT)
    grad = shown(first, 0) if has_new_grad else first
    losses: list[Any] = []

    def call() -> None:
        arrays = Arrays(Home(None, first), "logits", backend, first)
        out = grad if wants_grad else None
        loss = LossOnDevice(arrays, target, options, None, grad_output, out)
        losses.append(loss.run(Outputs(grad=loss.new_grad(out).rows if wants_grad else None))[0])

    launch = backend.record(call)
    if launch is None:
        return None
    loss_number = [array.address for array in found].index(losses[0].address)
    offsets, nbytes = [], 0
    for number, array in enumerate(found):
        offsets.append(-1 if number == loss_number else nbytes)
        if number != loss_number:
            nbytes += math.ceil(array.nbytes / _GRANULE) * _GRANULE
    return _Plan(launch, losses[0], loss_number, tuple(offsets), nbytes)
