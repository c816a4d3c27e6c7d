"""The short way of a call whose options are numbers and words: its launches are noted once.

The first call of its kind goes the long way with arrays that have no memory, and the launches that
come of it are made again for every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends import pick_on_device
from fastxent.backends.contract import Outputs
from fastxent.device_array import DeviceArray
from fastxent.interchange import Home, library_of
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.keys import is_known_again
from fastxent.on_device.loss import LossOnDevice
from fastxent.on_device.recorded import VECTOR, Recorded, keep, recorded
from fastxent.options import Options

__all__ = ["plain_loss"]

_BYTE = np.dtype(np.uint8)


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
        or not all(map(is_known_again, named))
    ):
        return None
    chosen = pick_on_device(backend)
    logits = checks.read_from(library, given, "logits")
    labels = checks.read_from(library, target, "target")
    place, there = logits.place, labels.place
    if not library.keeps_for_graphs:
        chosen.check_not_captured(place)
    if (
        place.device != there.device
        or place.stream != there.stream
        or not (logits.is_dense and labels.is_dense)
        or not (out is None or (logits.writeable and _are_apart(logits, labels)))
    ):
        return None
    distances = logits.address % VECTOR, labels.address % VECTOR
    shapes = logits.shape, labels.shape, logits.dtype, labels.dtype
    has_new_grad = wants_grad and out is None
    key = *shapes, distances, place.device, wants_grad, has_new_grad, types, *named
    plan = chosen.plans.get(key, chosen)
    if plan is chosen:
        plan = _plan(chosen, logits, labels, options, wants_grad, grad_output, has_new_grad)
        keep(chosen.plans, key, plan)
    if plan is None:
        return None
    beginnings = [logits.address - distances[0], labels.address - distances[1]]
    grad = place.allocate(logits.shape, logits.dtype) if has_new_grad else None
    if grad is not None:
        beginnings.append(grad.address)
    ((like,), (number,)) = plan.results, plan.numbers
    loss = place.allocate(like.shape, like.dtype)
    memory = place.allocate((plan.nbytes,), _BYTE)
    number += len(beginnings)
    beginnings += plan.beginnings(memory.address)
    beginnings[number] = loss.address
    plan.launch(place, tuple(beginnings))
    value = home.give_on_device(loss, chosen.wait)
    if out is not None:
        library.after_write(out)
        return value, out
    return value, None if grad is None else home.give_on_device(grad, chosen.wait)


def _are_apart(first: DeviceArray, second: DeviceArray) -> bool:
    """Whether two arrays without gaps have no byte in common."""
    return (
        first.address + first.nbytes <= second.address
        or second.address + second.nbytes <= first.address
    )


def _plan(
    backend: Any,
    logits: DeviceArray,
    labels: DeviceArray,
    options: Options,
    wants_grad: bool,
    grad_output: float | None,
    has_new_grad: bool,
) -> Recorded | None:
    """Go the long way, with all of its checks, once; None if that takes more than launches."""

    def calls(given: list[DeviceArray]) -> list[DeviceArray]:
        first, target, *new_grad = given
        arrays = Arrays(Home(None, first), "logits", backend, first)
        out = (new_grad or [first])[0] if wants_grad else None
        loss = LossOnDevice(arrays, target, options, None, grad_output, out)
        found: Any = loss.run(Outputs(grad=loss.new_grad(out).rows if wants_grad else None))[0]
        return [found]

    new_grad = DeviceArray(0, logits.shape, logits.dtype, logits.place, None)
    return recorded(backend, (logits, labels, new_grad)[: 2 + has_new_grad], calls)
