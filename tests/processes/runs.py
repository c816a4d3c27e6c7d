"""Start a program of this folder in a process of its own, and tell how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastxent as fx

__all__ = ["answers_of", "environment", "run"]

_TESTS = Path(__file__).parent.parent
_ROOT = Path(fx.__file__).parent.parent


def environment(layer: str | None, **more: str) -> dict[str, str]:
    """Variables of a process with eight Numba threads, this layer, and no other limit."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "NUMBA_", "FASTXENT_NUM_THREADS"))
    }
    clean["PYTHONPATH"] = os.pathsep.join([str(_TESTS), str(_ROOT)])
    clean["NUMBA_NUM_THREADS"] = "8"
    if layer is not None:
        clean["NUMBA_THREADING_LAYER"] = layer
    return clean | more


def run(arguments: Sequence[str], variables: dict[str, str], timeout: float) -> tuple[str, str]:
    """What a Python process prints, and why it did not end well: "" if it did."""
    command = [sys.executable, "-X", "faulthandler", *arguments]
    # a session of its own: what it started goes with it, should it hang
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        return out, f"not done in {timeout} s\n{errors[-2000:]}"
    code = process.returncode
    if code != 0:
        with suppress(ProcessLookupError):  # children of one that failed
            os.killpg(process.pid, signal.SIGKILL)
    if code < 0:
        return out, f"killed by {signal.Signals(-code).name}\n{errors[-2000:]}"
    if code == 0:
        return out, ""
    last = (errors.strip() or "nothing said").splitlines()[-1]
    return out, f"exit status {code}: {last}\n{errors[-2000:]}"


def answers_of(
    layer: str | None, backends: Sequence[str], ways: Sequence[str], timeout: float = 400
) -> list[dict[str, Any]]:
    """Rows of `processes.program`; a way that did not end well, and all behind it, have a fault."""
    arguments = ["-m", "processes.program", "--backends", *backends, "--ways", *ways]
    if layer is not None:
        arguments += ["--layer", layer]
    out, fault = run(arguments, environment(layer), timeout)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    rows = [line | {"layer": layer, "fault": ""} for line in lines if "way" in line]
    if fault:
        begun = [line["begin"] for line in lines if "begin" in line]
        place = f"in {begun[-1]}" if begun else "before any way"
        done = {(row["way"], row["backend"]) for row in rows}
        rows += [
            {"way": way, "backend": backend, "layer": layer, "fault": f"{place}: {fault}"}
            for way in ways
            for backend in backends
            if (way, backend) not in done
        ]
    return rows
