"""No memory: every array that a call asks for is refused in turn, on every CPU backend.

usage: python -m reliability.faults [--ways NAME ...] [--backends NAME ...]

Example: PYTHONPATH=.:tests python -m reliability.faults --backends cython numba

Each refusal has to end in a MemoryError (PyTorch and JAX have errors of their own), with nothing
left behind, and the next call has to give the right bits. Ways: "blocks" refuses the arrays of each
public function one by one, alone and with all that come after it, "torch", "jax" and "compiled
code" those of the adapters; "limit" lowers the limit of the address space (RLIMIT_AS) in a call.
Needs Linux with glibc and a C compiler, `cc`; takes about 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from reliability import records

__all__ = ["build", "main", "starve"]

BACKENDS = ("cython", "numba", "numpy")
# Ways, and the backends that they are of; None: all.
WAYS = {
    "blocks": BACKENDS,
    "limit": BACKENDS,
    "torch": BACKENDS,
    "jax": ("cython",),
    "compiled code": ("numba",),
}
SOURCE = Path(__file__).parent / "failing_malloc.c"
LONGEST = 1800.0


def build(folder: Path) -> Path | None:
    """Compile the library that refuses memory; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "failing_malloc.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return library


def starve(library: Path, way: str, backend: str, only: tuple[str, ...] = ()) -> Counter[str]:
    """Run the calls of one way on one backend in a process of their own.

    Returns
    -------
    Counter
        "refused" arrays or calls, how many ended in "errors" and how many were "unharmed";
        "faults: <text>" for each that is wrong.
    """
    command = [sys.executable, "-m", "reliability.starved", way, backend, *only]
    environment = {**os.environ, "LD_PRELOAD": str(library), "NUMBA_NUM_THREADS": "2"}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    if ended.returncode:
        return Counter({f"fault: code {ended.returncode}: {ended.stderr[-500:]}": 1})
    found = json.loads(ended.stdout.splitlines()[-1])
    counts = Counter({name: found.get(name, 0) for name in ("errors", "unharmed")})
    counts["refused"] = counts["errors"] + counts["unharmed"]
    counts.update(f"fault: {fault}" for fault in found["faults"])
    if not counts["errors"]:
        counts["fault: nothing was refused"] += 1
    return counts


def main(given: list[str]) -> int:
    """Starve the calls, print what came of it, keep it; 0 where all was well, 2 without tools."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Example: PYTHONPATH=.:tests python -m reliability.faults --backends cython numba",
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--calls", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    asked = parser.parse_args(given)
    pairs = [(way, name) for way in asked.ways for name in asked.backends if name in WAYS[way]]
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        if library is None:
            print("a C compiler is needed: apt install gcc")
            return 2
        with records.progress("no memory", total=len(pairs)) as advance:
            for way, backend in pairs:
                advance(0, f"{way}, {backend}")
                found = starve(library, way, backend, tuple(asked.calls))
                kind = "limited" if way == "limit" else "refused"
                counts[kind] += found.pop("refused", 0)
                for name, number in found.items():
                    is_fault = name.startswith("fault: ")
                    counts[f"{name} [{way}, {backend}]" if is_fault else name] += number
                advance()
    faults = [name for name in counts if name.startswith("fault: ")]
    figures = {name: counts[name] for name in ("refused", "limited", "errors", "unharmed")}
    figures |= {"wrong": len(faults), "processes": len(pairs)}
    records.keep("faults", figures, not faults, time.monotonic() - begin, faults, asked.out)
    for name, number in figures.items():
        print(f"{name:10s} {number:,}")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
