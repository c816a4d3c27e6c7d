"""Programs that a machine may lack: what to install is said plainly, with exit code 2."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["ROOT", "lacking", "lines_of", "need", "need_module", "run"]

ROOT = Path(__file__).parents[2]

# The Debian packages of the programs.
PACKAGES = {
    "g++": "g++",
    "gcc": "gcc",
    "clang++": "clang libclang-rt-14-dev libomp-14-dev",
    "valgrind": "valgrind libc6-dbg",
}


def lacking(what: str, remedy: str) -> NoReturn:
    """End the program: something that it needs is not installed."""
    print(f"{what} is missing; install it: {remedy}", file=sys.stderr)
    raise SystemExit(2)


def need(program: str) -> str:
    """Give the path of a program, or end with the packages to install."""
    path = shutil.which(program)
    if path is None:
        lacking(program, f"apt-get install {PACKAGES[program]}")
    return path


def need_module(name: str, group: str) -> Any:
    """Import a module, or end with the dependency group to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        lacking(f"the Python package {name}", f"pip install --group {group}")


def run(
    command: Sequence[str | Path],
    timeout: float,
    expect: int | None = 0,
    where: Path = ROOT,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program with more environment variables; show what it said if it fails.

    Parameters
    ----------
    command : sequence
        Program and arguments.
    timeout : float
        Seconds after which it is killed.
    expect : int or None
        The exit code that it must have; None for any.
    where : Path
        Its working directory.

    Raises
    ------
    RuntimeError
        With its last words, where the exit code is another one.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=where,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if expect is not None and done.returncode != expect:
        words = " ".join(map(str, command))
        raise RuntimeError(f"exit code {done.returncode} of {words}\n{lines_of(done.stdout)}")
    return done


def lines_of(output: str, most: int = 60) -> str:
    """The first lines of an output and the last, where reports of sanitizers stand."""
    lines = output.splitlines()
    if len(lines) <= most:
        return output
    return "\n".join([*lines[: most // 2], "...", *lines[-most // 2 :]])
