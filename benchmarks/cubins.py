"""What the kernels for cards are compiled to: registers, spills, vectors, seconds; without a card.

usage: python benchmarks/cubins.py [--check]

Compiles the kernel that serves each length of row, and writes the table of docs/cuda.md. With
--check nothing is written, and the exit status says whether a plain kernel spills.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from fastxent.backends.cuda import cubins
from fastxent.backends.cuda.plan import spec_of
from fastxent.backends.cuda.specs import KernelSpec, Variant
from fastxent.bench.card.disassembly import Disassembly, disassemble
from fastxent.bench.markdown import replaced
from fastxent.bench.tables import table

PAGE = Path(__file__).parent.parent / "docs" / "cuda.md"
CAPABILITY = (9, 0)
SIZES = {"bfloat16": 2, "float32": 4}
CLASSES = (10, 32, 100, 1000, 8192, 32000, 50257, 128256, 262144, 1000000)


def served(classes: int, kind: str) -> KernelSpec:
    """The kernel for contiguous rows with class indices and a gradient."""
    aligned = classes * SIZES[kind] % 16 == 0 or classes <= 32
    return spec_of(Variant(kind), classes, aligned, True, CAPABILITY)


def shape(spec: KernelSpec) -> str:
    """How many threads share a row."""
    geometry = spec.geometry
    if spec.module == "tile":
        return f"a tile of {geometry.rows} rows"
    if spec.module == "two_pass":
        return f"two passes, {geometry.threads} threads"
    threads = f"{geometry.threads} threads x {geometry.vectors}"
    return threads if spec.cluster == 1 else f"{spec.cluster} blocks x {threads}"


def line(classes: int, kind: str, found: Disassembly, seconds: float) -> list[str]:
    """One line of the table."""
    spec = served(classes, kind)
    counts = (found.count("LDG", "128"), found.count("STG", "128"), found.count("BAR"))
    return [
        f"{classes:,} {kind}",
        shape(spec),
        str(found.registers),
        str(found.spills),
        *map(str, counts),
        f"{seconds:.1f}",
    ]


def main(arguments: list[str]) -> int:
    """Compile, count, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(arguments)
    cubins.compiled(served(5, "float32"), CAPABILITY)  # the compilers are loaded once a process
    rows, spills = [], 0
    chosen = [(classes, kind) for classes in CLASSES for kind in SIZES]
    for classes, kind in track(chosen, "compiling", console=Console(stderr=True)):
        begin = time.perf_counter()
        code = cubins.compiled(served(classes, kind), CAPABILITY)
        seconds = time.perf_counter() - begin
        found = disassemble(code)
        spills += found.spills
        rows.append(line(classes, kind, found, seconds))
    headings = ["C", "a row", "registers", "spills", "16-byte loads", "stores", "barriers", "s"]
    text = table(headings, rows)
    print(text)
    if not asked.check:
        PAGE.write_text(replaced(PAGE.read_text(), text, "cubins"))
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
