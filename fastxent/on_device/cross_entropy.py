"""The loss on a GPU, alone and with its gradient."""

from __future__ import annotations

from typing import Any

from fastxent import checks
from fastxent.backends.contract import Outputs
from fastxent.interchange import Home
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.loss import LossOnDevice
from fastxent.on_device.shortcut import plain_loss
from fastxent.options import Options

__all__ = ["cross_entropy", "cross_entropy_and_grad"]


def _check_threads(num_threads: Any) -> None:
    """A number that means nothing on a GPU is to be one all the same."""
    if num_threads is not None:
        checks.check_num_threads(num_threads)


def cross_entropy(
    home: Home, target: Any, options: Options, backend: str | None, num_threads: Any
) -> Any:
    """`fastxent.cross_entropy`."""
    _check_threads(num_threads)
    plain = plain_loss(home, target, options, backend, wants_grad=False)
    if plain is not None:
        return plain[0]
    arrays = Arrays.of_call(home, "logits", backend)
    call = LossOnDevice(arrays, target, options, num_threads)
    loss, aux = call.run(Outputs())
    return arrays.give(loss) if aux is None else (arrays.give(loss), arrays.give_each(aux))


def cross_entropy_and_grad(
    home: Home,
    target: Any,
    options: Options,
    backend: str | None,
    num_threads: Any,
    grad_output: Any,
    out: Any,
) -> Any:
    """`fastxent.cross_entropy_and_grad`."""
    _check_threads(num_threads)
    plain = plain_loss(home, target, options, backend, True, grad_output, out)
    if plain is not None:
        return plain
    arrays = Arrays.of_call(home, "logits", backend)
    into = arrays.read_out(out)
    call = LossOnDevice(arrays, target, options, num_threads, grad_output, into)
    grad = call.new_grad(into)
    loss, aux = call.run(Outputs(grad=grad.rows))
    given = arrays.give(loss), arrays.deliver(grad.array, out)
    return given if aux is None else (*given, arrays.give_each(aux))
