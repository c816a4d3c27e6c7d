"""A process in which many Python threads call at once, from their very first call on.

    python -m processes.callers --backends cython numba --layer workqueue --threads 32 --rounds 20

Nothing is imported, compiled or started before: the threads meet in all of it. It prints a line of
JSON with what they got, of which every bit must be that of a call on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.backends import load
from processes import answers  # the library of the layer tbb, where it is asked for

__all__ = ["main"]

_INPUTS = 8


def _inputs() -> list[tuple[Any, Any]]:
    found = []
    for seed in range(_INPUTS):
        rng = np.random.default_rng(seed)
        found.append((rng.standard_normal((400, 300), np.float32), rng.integers(0, 300, 400)))
    return found


def _loss(given: tuple[Any, Any], backend: str, num_threads: int) -> bytes:
    loss, grad = fx.cross_entropy_and_grad(*given, backend=backend, num_threads=num_threads)
    return np.asarray(loss).tobytes() + bytes(grad.tobytes())


def _labels(given: tuple[Any, Any], backend: str, num_threads: int) -> bytes:
    """The kernel that compiles fastest, on labels of many chunks."""
    labels = np.zeros(1_000_000, np.int64)
    labels[-1] = 1 + given[1][0]
    found = load(backend).check_labels(labels, 1, None, None, None, num_threads)
    return repr(found).encode()


CALLS: dict[str, Callable[[tuple[Any, Any], str, int], bytes]] = {"loss": _loss, "labels": _labels}


def _work(call: str, backends: Sequence[str], threads: int, rounds: int) -> dict[str, Any]:
    inputs, run = _inputs(), CALLS[call]
    barrier = threading.Barrier(threads)
    found: list[set[bytes]] = [set() for _ in range(threads)]
    errors: list[str] = []

    def caller(number: int) -> None:
        backend = backends[number % len(backends)]
        try:
            barrier.wait(60)
            for _ in range(rounds):
                found[number].add(run(inputs[number % _INPUTS], backend, 3))
        except BaseException as error:
            errors.append(f"{backend}: {type(error).__name__}: {error}")

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(threads)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    wrong = 0
    for number, bits in enumerate(found):
        backend = backends[number % len(backends)]
        wrong += bits != {run(inputs[number % _INPUTS], backend, 1)}
    return {"calls": threads * rounds, "callers_with_wrong_bits": wrong, "errors": errors}


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the threads, and print what they got."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", required=True)
    parser.add_argument("--layer", choices=answers.LAYERS, help="that Numba must have")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--call", choices=CALLS, default="loss")
    given = parser.parse_args(arguments)
    result = _work(given.call, given.backends, given.threads, given.rounds)
    if "numba" in given.backends and given.layer is not None:
        answers.check_layer(given.layer)
    print(json.dumps(result))
    sys.exit(bool(result["errors"] or result["callers_with_wrong_bits"]))


if __name__ == "__main__":
    main()
