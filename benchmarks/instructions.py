"""Count the instructions an element takes in the loops over long rows, from the disassembly.

usage: python benchmarks/instructions.py [--step] [--check] [--json] [--backend cython|numba]

A row goes through three passes: maximum, exponentials, closing. Of each the innermost loop is
taken that handles the most elements an iteration (a compiler's loops for the rest handle fewer),
the worst if functions differ. --step executes the kernels one instruction at a time, and shows
what an element takes with everything around the loops; it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import instructions_loops as parsed
import instructions_step as step
from instructions_loops import PASSES, Function, Loop
from rich.console import Console
from rich.progress import Progress

import fastxent as fx
from fastxent.bench.aims import HALF_INSTRUCTIONS, INSTRUCTIONS
from fastxent.bench.aims import LEVELS as FACTORS
from fastxent.bench.workloads import HALVES

AIMS = INSTRUCTIONS | HALF_INSTRUCTIONS
REGISTERS = {"AVX-512": "zmm", "AVX2": "ymm"}
LEVELS = {"AVX-512": "v4", "AVX2": "v3"}
# Functions of the extension, by the template arguments in their names (spaces left out).
TARGETS = {"hard": r"only_on_label", "soft": r"on_soft<{0}>"}
# Half precision is widened on the way in and narrowed on the way out, and float32 in between.
WIDENING, NARROWING = "prepare<float>", "deliver<float,true>"
SCALARS = dict.fromkeys(("float32", *HALVES), "float") | {"float64": "double"}
# `haswell` has AVX2 and no AVX-512.
NUMBA_CPUS = {"AVX-512": {}, "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}}
NUMBA_CODE = """
import sys, numpy as np, fastxent as fx
from fastxent.backends.numba_cpu.kernels import FORWARD
from fastxent.bench.workloads import dtype_of
labels, dtype = sys.argv[1:]
logits = np.zeros((1, 2048), dtype_of(dtype))
target = np.zeros(1, int) if labels == "hard" else np.full_like(logits, 1 / 2048)
fx.cross_entropy_and_grad(logits, target, backend="numba", num_threads=1, reduction="sum")
print(FORWARD.assembly())
"""


@dataclass(frozen=True)
class Passes:
    """The loops that a long row goes through."""

    backend: str
    labels: str
    dtype: str
    instructions: str  # AVX-512 or AVX2
    loops: tuple[Loop, ...]

    @property
    def each(self) -> float:
        """Instructions an element in all loops together."""
        return sum(loop.each for loop in self.loops)

    @property
    def missing(self) -> list[str]:
        """Passes of which no loop was found."""
        return [name for name in PASSES if name not in {loop.kind for loop in self.loops}]

    @property
    def aim(self) -> float:
        """Most instructions an element that are aimed at."""
        return FACTORS[self.instructions] * AIMS[self.backend, self.labels, self.dtype]

    @property
    def key(self) -> str:
        """The name of the path in the results of the benchmarks."""
        return f"{self.backend} {self.labels} {self.dtype} {self.instructions}"

    @property
    def met(self) -> bool:
        """Whether all loops were found and the aim is met."""
        return not self.missing and self.each <= self.aim


def is_of(loop: Loop, dtype: str) -> bool:
    """Whether a loop is one that an array of this dtype goes through."""
    if dtype not in HALVES:
        return loop.dtype == dtype and not loop.half
    name = loop.function.replace(" ", "")
    if loop.kind == "exp":  # the loops that widen have one for the soft cap
        return loop.dtype == "float32" and loop.half in ("", dtype) and WIDENING not in name
    return loop.half == dtype and (loop.kind == "max" or WIDENING not in name)


def hot_loops(functions: list[Function], dtype: str) -> tuple[Loop, ...]:
    """One loop for each pass: the main one of its function, the worst of all functions."""
    worst: dict[str, Loop] = {}
    for function in functions:
        candidates = [loop for loop in parsed.loops(function) if is_of(loop, dtype)]
        for name in PASSES:
            # fewest arrays: other loops are those of targets with weights or background mass
            main = min(
                (loop for loop in candidates if loop.kind == name),
                key=lambda loop: (loop.streams, -loop.elements, -loop.each),
                default=None,
            )
            if main and (name not in worst or worst[name].each < main.each):
                worst[name] = main
    return tuple(worst[name] for name in PASSES if name in worst)


def levels_of(labels: str, dtype: str) -> list[str]:
    """Levels on which a path has an aim."""
    half = ("cython", labels, dtype) in HALF_INSTRUCTIONS
    return ["AVX-512"] if half else list(REGISTERS)


def of_extension(library: Path) -> Iterator[Passes]:
    """Paths of the compiled extension on each level."""
    functions = parsed.disassembled(library)
    for backend, labels, dtype in AIMS:
        if backend != "cython":
            continue
        wanted = TARGETS[labels].format(SCALARS[dtype])
        if dtype in HALVES:
            wanted += f"|{WIDENING}|{NARROWING}"
        for instructions in levels_of(labels, dtype):
            registers = REGISTERS[instructions]
            chosen = [
                function
                for function in functions
                if re.search(wanted, name := function.name.replace(" ", ""))
                and not re.search(r"tile|softmax", name)
                and function.registers == registers
            ]
            yield Passes(backend, labels, dtype, instructions, hot_loops(chosen, dtype))


def of_numba(labels: str, dtype: str, instructions: str) -> Passes:
    """One path as Numba compiles it, in a process of its own: the CPU is chosen at import."""
    done = subprocess.run(
        [sys.executable, "-c", NUMBA_CODE, labels, dtype],
        env=os.environ | {"FASTXENT_NUMBA_CACHE": "0"} | NUMBA_CPUS[instructions],
        capture_output=True,
        text=True,
        check=True,
    )
    functions = [
        function
        for function in parsed.assembled(done.stdout)
        if function.registers == REGISTERS[instructions]
    ]
    return Passes("numba", labels, dtype, instructions, hot_loops(functions, dtype))


def library() -> Path:
    """The extension's file."""
    from fastxent.backends import _kernels

    return Path(_kernels.__file__)


def why_not(backend: str) -> str | None:
    """What is missing for a count, if anything is."""
    if fx.backends()[backend] is not None:
        return fx.backends()[backend]
    if backend == "cython" and shutil.which("objdump") is None:
        return "objdump (binutils) is not installed"
    return None


def has_avx512() -> bool:
    """Whether this CPU runs AVX-512."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512vl" in flags.read_text(encoding="utf-8")


def counted(backends: list[str], progress: Progress) -> Iterator[Passes]:
    """All paths of these backends that can be had here."""
    if "cython" in backends:
        task = progress.add_task("disassembling the extension", total=None)
        yield from of_extension(library())
        progress.update(task, total=1, completed=1)
    if "numba" in backends:
        asked = [key[1:] for key in AIMS if key[0] == "numba"]
        levels = [name for name in REGISTERS if name == "AVX2" or has_avx512()]
        for labels, dtype in progress.track(asked, description="compiling with Numba"):
            for instructions in [one for one in levels_of(labels, dtype) if one in levels]:
                yield of_numba(labels, dtype, instructions)


def stepped(path: Passes) -> float:
    """Instructions an element executes, those around the loops included."""
    environment = NUMBA_CPUS[path.instructions]
    if path.backend == "cython":
        environment = {"FASTXENT_ISA": LEVELS[path.instructions]}
    return step.executed(path.backend, path.labels, path.dtype, environment)


def main(arguments: list[str]) -> int:
    """Print the table and where its numbers come from."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", choices=("cython", "numba"), help="only this one")
    parser.add_argument("--step", action="store_true", help="execute them, too")
    parser.add_argument("--check", action="store_true", help="exit 1 if an aim is missed")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON, no table")
    asked = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, stderr=asked.json)
    backends, missing = [], {}
    for backend in [asked.backend] if asked.backend else ["cython", "numba"]:
        reason = why_not(backend)
        if reason is None:
            backends.append(backend)
        else:
            missing[backend] = reason
            console.print(f"{backend}: not counted: {reason}")
    no_steps = step.why_not() if asked.step else None
    if no_steps:
        console.print(f"not executed: {no_steps}")
    with Progress(console=console, transient=True) as progress:
        paths = list(counted(backends, progress))
        found: dict[Passes, float] = {}
        if asked.step and not no_steps:
            runnable = [p for p in paths if p.instructions == "AVX2" or has_avx512()]
            for path in progress.track(runnable, description="executing"):
                found[path] = stepped(path)

    if asked.json:
        counts = {path.key: round(path.each, 3) for path in paths if not path.missing}
        print(json.dumps({"counts": counts, "missing": missing}))
        return 1 if asked.check and not all(path.met for path in paths) else 0

    head = f"{'backend':8}{'labels':7}{'dtype':9}{'level':9}"
    console.print(f"{head}{'max':>7}{'exp':>7}{'close':>7}{'loops':>8}{'aim':>6}  {'':9}executed")
    for path in paths:
        by_pass = {loop.kind: f"{loop.each:7.2f}" for loop in path.loops}
        cells = "".join(by_pass.get(name, f"{'none':>7}") for name in PASSES)
        verdict = "met" if path.met else "[bold red]missed[/]   "
        executed = f"{found[path]:.2f}" if path in found else ""
        console.print(
            f"{path.backend:8}{path.labels:7}{path.dtype:9}{path.instructions:9}{cells}"
            f"{path.each:8.2f}{path.aim:6.1f}  {verdict:9}{executed}"
        )
    console.print("\nThe loops:")
    for path in paths:
        console.print(f"{path.backend} {path.labels} {path.dtype} {path.instructions}")
        for loop in path.loops:
            name = re.sub(r"^void |\(.*", "", loop.function)[:50]
            console.print(
                f"  {loop.kind:6}{loop.instructions:4} instructions for {loop.elements:3} elements "
                f"at {loop.address:#x} in {name}",
                markup=False,
            )
    return 1 if asked.check and not all(path.met for path in paths) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
