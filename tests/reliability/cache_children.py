"""Processes that call a kernel of Numba's, and tell whether it was loaded or compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import fastxent

__all__ = ["COMPILED", "LOADED", "Outcome", "call", "finish", "start", "stranger"]

ROOT = Path(fastxent.__file__).parent.parent
LOADED, COMPILED = "loaded", "compiled"
TOLD = "kernels are compiled without a cache"

# A user that no list of users knows: it has no home at all.
STRANGER = 54321

# What is inherited, but for what would change the outcome.
INHERITED = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("OMP_", "NUMBA_", "FASTXENT_", "XDG_"))
}

PROGRAM = """
import sys
import numpy as np
import fastxent as fx
from fastxent.backends import load
from fastxent.backends.contract import LABEL_CHUNK
from fastxent.backends.numba_cpu.kernels import CHECK_LABELS, FORWARD

def labels():
    with fx.use_backend("numba"):
        fx.check_labels([0, 2, -100], 3)
        try:
            fx.check_labels([0, 3], 3)
        except fx.LabelError as error:
            assert "target[1] is 3" in str(error), error
        else:
            raise SystemExit("a bad label was not found")
    return CHECK_LABELS

def count():
    labels = np.array([0, 2, -100, 1])
    found = load("numba").check_labels(labels, 3, -100, None, None, 1)
    print(found.live, file=sys.stderr)
    return CHECK_LABELS

def threads():
    labels = np.arange(8 * LABEL_CHUNK) % 7
    labels[[-1, 12_345]] = 7
    found = load("numba").check_labels(labels, 7, None, None, None, 3)
    assert found.bad_row == 12_345, found
    return CHECK_LABELS

def softmax():
    x = np.linspace(-9, 9, 90_000, dtype=np.float32).reshape(300, 300)
    found = fx.softmax(x, backend="numba", num_threads=3)
    np.testing.assert_allclose(found, fx.softmax(x, backend="numpy"), rtol=1e-5)
    return FORWARD

(body,) = locals()[sys.argv[1]]().compiled.values()
stats = body.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


class Outcome(NamedTuple):
    """What became of a process.

    Attributes
    ----------
    way : str
        "loaded" or "compiled"; for a process that failed, what it wrote to stderr.
    warnings : int
        How often it was told that there is no cache.
    stderr : str
        All that was written there.
    """

    way: str
    warnings: int
    stderr: str


def stranger() -> list[str] | None:
    """Command that runs another one as a user who may read everything and write nothing.

    Modes of files mean nothing to root; to anybody else they do, and the command is empty.
    None where root has no setpriv.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return None
    ids = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    # to read is a right that is needed where the interpreter lies in the home of root
    return [setpriv, *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def start(
    environment: Mapping[str, object],
    kernel: str = "labels",
    *,
    before: Sequence[str] = (),
    package: Path = ROOT,
    preparation: str = "",
) -> subprocess.Popen[str]:
    """Start a process.

    Parameters
    ----------
    environment : mapping
        Variables it gets beside those inherited; None takes one away.
    kernel : {"labels", "count", "threads", "softmax"}
        What it calls: a check of labels, the same that writes to stderr how many count, the same on
        threads, or what is compiled for longer.
    before : sequence of str
        A command to run it by.
    package : Path
        Directory that fastxent is imported from.
    preparation : str
        Code to run first.
    """
    told = {"NUMBA_NUM_THREADS": "8", "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    settings = INHERITED | told | dict(environment)
    return subprocess.Popen(
        # -P: what lies in the working directory is not imported
        [*before, sys.executable, "-P", "-W", "always", "-c", preparation + PROGRAM, kernel],
        env={name: str(value) for name, value in settings.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> Outcome:
    """Wait for a process; one that takes longer is killed, and that is a failure too."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        stderr += f"\nno end after {timeout} s"
    if process.returncode != 0:
        return Outcome(f"exit code {process.returncode}: {stderr}", stderr.count(TOLD), stderr)
    hits, misses = map(int, stdout.split())
    way = {(1, 0): LOADED, (0, 1): COMPILED}.get((hits, misses), f"{hits} hits, {misses} misses")
    return Outcome(way, stderr.count(TOLD), stderr)


def call(environment: Mapping[str, object], kernel: str = "labels", **options: object) -> Outcome:
    """Run a process to its end: the arguments of `start`."""
    return finish(start(environment, kernel, **options))
