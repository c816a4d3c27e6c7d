"""The same bits whatever the threads, the schedule, the process, the order of rows and the level.

A fixed corpus of calls on every CPU backend: each call on every way of `fastxent.determinism`, in
one process that can have 64 threads; then its digest again in fresh processes with other settings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from processes.answers import tbb_library

import fastxent as fx
from fastxent.cases import Case
from fastxent.cases.drawn import FLOATS
from fastxent.determinism import THREADS, Sample, corpus, digest, levels_of_equal_bits, ways
from reliability import records

__all__ = ["main"]

BACKENDS = ("cython", "numba", "numpy")

# Most threads that a process can have follows from these; whoever waits does not spin.
MANY = {"OMP_NUM_THREADS": "64", "NUMBA_NUM_THREADS": "64", "OMP_WAIT_POLICY": "passive"}

# Fresh processes: what is set in each, and the number of threads of its calls.
PROCESSES: dict[str, dict[str, tuple[dict[str, str], int]]] = {
    "cython": {
        "a fresh process, 1 thread": ({}, 1),
        "a fresh process, 64 threads": ({}, 64),
        "OMP_SCHEDULE=static": ({"OMP_SCHEDULE": "static"}, 4),
        "OMP_SCHEDULE=dynamic,1": ({"OMP_SCHEDULE": "dynamic,1"}, 4),
        "OMP_DYNAMIC=true": ({"OMP_DYNAMIC": "true"}, 7),
        "OMP_PROC_BIND=true": ({"OMP_PROC_BIND": "true"}, 3),
        "OMP_THREAD_LIMIT=2": ({"OMP_THREAD_LIMIT": "2"}, 16),
    },
    "numba": {
        "a fresh process, 1 thread": ({}, 1),
        "NUMBA_THREADING_LAYER=omp": ({"NUMBA_THREADING_LAYER": "omp"}, 64),
        "NUMBA_THREADING_LAYER=workqueue": ({"NUMBA_THREADING_LAYER": "workqueue"}, 7),
    },
    "numpy": {"a fresh process, 1 thread": ({}, 1)},
}

EXAMPLES = """\
examples:
  PYTHONPATH=.:tests python -m reliability.determinism
  PYTHONPATH=.:tests python -m reliability.determinism --dtype float32 --threads 1 2 5
"""


def _parser(able: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", choices=able, default=able)
    parser.add_argument("--dtype", nargs="+", choices=FLOATS, default=list(FLOATS))
    parser.add_argument("--threads", nargs="+", type=int, default=list(THREADS))
    parser.add_argument("--every", type=int, default=1, help="one sample in so many")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="directory of the record")
    parser.add_argument("--digests-with", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _samples(arguments: argparse.Namespace) -> list[Sample]:
    dtypes = [name for name in arguments.dtype if Case(5, 10).why_not(name) is None]
    return corpus(dtypes)[:: arguments.every]


def _print_digests(arguments: argparse.Namespace) -> int:
    """What a fresh process does."""
    (backend,) = arguments.backend
    for sample in _samples(arguments):
        print(digest(sample.outputs(backend, arguments.digests_with)), flush=True)
    return 0


def _digests(
    arguments: argparse.Namespace, backend: str, environment: dict[str, str], threads: int
) -> list[str]:
    command = [sys.executable, "-W", "error", "-m", "reliability.determinism"]
    command += ["--backend", backend, "--dtype", *arguments.dtype]
    command += ["--every", str(arguments.every), "--digests-with", str(threads)]
    paths = [str(Path(fx.__file__).parent.parent), str(Path(__file__).parent.parent)]
    settings = {**os.environ, **MANY, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{environment}: {done.stderr[-2000:]}")
    return done.stdout.split()


def _processes(backend: str, missing: Counter[str]) -> dict[str, tuple[dict[str, str], int]]:
    """Fresh processes of a backend; instruction levels too."""
    found = dict(PROCESSES[backend])
    if backend == "cython":
        for level in levels_of_equal_bits():
            found[f"FASTXENT_ISA={level}"] = ({"FASTXENT_ISA": level}, 2)
    if backend == "numba":
        library = tbb_library()
        if library is None:
            missing["NUMBA_THREADING_LAYER=tbb: the package tbb is not installed"] += 1
        else:
            loaded = {"NUMBA_THREADING_LAYER": "tbb", "LD_PRELOAD": str(library)}
            found["NUMBA_THREADING_LAYER=tbb"] = (loaded, 7)
    return found


class _Tally:
    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.faults: list[str] = []
        self.missing: Counter[str] = Counter()

    def count(self, backend: str, sample: Sample, way: str, same: bool) -> None:
        self.compared[backend] += 1
        if not same:
            self.faults.append(f"{backend}, {way}: other bits for {sample}")


def _run(arguments: argparse.Namespace) -> tuple[_Tally, dict[str, object]]:
    tally, samples = _Tally(), _samples(arguments)
    plain: dict[str, list[str]] = {}
    steps = {name: _processes(name, tally.missing) for name in arguments.backend}
    total = sum(len(samples) * (1 + len(one)) for one in steps.values())
    with records.progress("the same bits", total) as advance:
        for backend, processes in steps.items():
            plain[backend] = []
            for sample in samples:
                plain[backend].append(digest(sample.outputs(backend, 1)))
                for way, same in ways(sample, backend, arguments.threads):
                    tally.count(backend, sample, way, same)
                advance(1, f"{backend}, {len(tally.faults)} mismatches")
            for way, (environment, threads) in processes.items():
                found = _digests(arguments, backend, environment, threads)
                for sample, one, other in zip(samples, plain[backend], found, strict=True):
                    tally.count(backend, sample, way, one == other)
                advance(len(samples), f"{backend}, {len(tally.faults)} mismatches")
    figures: dict[str, object] = {"calls": len(samples)}
    if {"cython", "numba"} <= plain.keys():
        pairs = zip(plain["cython"], plain["numba"], strict=True)
        figures["equal_twins"] = sum(one == other for one, other in pairs)
    return tally, figures


def main(argv: list[str] | None = None) -> int:
    """Run the program; 1 if a bit differed."""
    able = [name for name in BACKENDS if fx.backends()[name] is None]
    arguments = _parser(able).parse_args(argv)
    if arguments.digests_with is not None:
        return _print_digests(arguments)
    if not arguments.child:  # the number of threads is read when libraries are loaded
        command = [sys.executable, "-m", "reliability.determinism", *(argv or sys.argv[1:])]
        done = subprocess.run([*command, "--child"], env={**os.environ, **MANY}, check=False)
        return done.returncode
    start = time.perf_counter()
    tally, figures = _run(arguments)
    figures |= {
        "cases": sum(tally.compared.values()),
        "mismatches": len(tally.faults),
        "backends": dict(tally.compared),
        "thread_counts": ", ".join(map(str, arguments.threads)),
        "dtypes": list(arguments.dtype),
        "levels": list(levels_of_equal_bits()),
        "missing": list(tally.missing),
    }
    for fault in tally.faults:
        print(f"WRONG {fault}")
    print(
        f"{figures['calls']} calls, {figures['cases']:,} comparisons of bits, "
        f"{figures['mismatches']} mismatches"
    )
    if "equal_twins" in figures:
        print(f"cython and numba give the same bits in {figures['equal_twins']} of them")
    for text in tally.missing:
        print(f"not tried: {text}")
    passed = not tally.faults and bool(figures["cases"])
    seconds = time.perf_counter() - start
    records.keep("determinism", figures, passed, seconds, tally.faults[:20], arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
