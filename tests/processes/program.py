"""A process that uses backends on many threads, then takes one way after the other.

    python -m processes.program --backends cython numba --ways fork pool_fork

It prints a line of JSON before each way, and one for each backend after it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import fastxent as fx
from processes.answers import answers, check_layer
from processes.ways import WAYS, Answer

__all__ = ["main"]


def _row(way: str, backend: str, expected: str, found: list[Answer]) -> dict[str, Any]:
    own = [answer for answer in found if answer["backend"] == backend]
    return {
        "way": way,
        "backend": backend,
        "answers": len(own),
        "wrong": sum(answer["digest"] != expected for answer in own),
        "threads": max((answer["threads"] for answer in own), default=0),
        "seconds": max((answer["seconds"] for answer in own), default=0.0),
        "cpu_seconds": max((answer["cpu_seconds"] for answer in own), default=0.0),
    }


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the ways that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", required=True)
    parser.add_argument("--layer", default="omp", help="that Numba must have")
    parser.add_argument("--ways", nargs="+", choices=WAYS, required=True)
    given = parser.parse_args(arguments)
    for backend in given.backends:
        reason = fx.backends()[backend]
        if reason is not None:
            sys.exit(f"{backend}: {reason}")
    expected = {backend: answers(backend) for backend in given.backends}
    if "numba" in given.backends:
        check_layer(given.layer)
    for way in given.ways:
        _say({"begin": way})
        found = WAYS[way](given.backends)
        for backend in given.backends:
            _say(_row(way, backend, expected[backend], found))
            if answers(backend) != expected[backend]:
                sys.exit(f"after {way} the parent itself has other bits from {backend}")
    for backend in given.backends:
        if answers(backend, 1) != expected[backend]:
            sys.exit(f"{backend} has other bits on one thread")


if __name__ == "__main__":
    main()
