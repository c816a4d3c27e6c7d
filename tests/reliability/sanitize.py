"""Run the compiled kernels under sanitizers and valgrind: none may have anything to report.

    python -m reliability.sanitize                     everything: an hour on two cores
    python -m reliability.sanitize --only valgrind     one of extension, native, threads, valgrind
    python -m reliability.sanitize --only extension --levels v3 --tests tests/test_binary.py

- extension: AddressSanitizer and UndefinedBehaviorSanitizer (GCC) in the extension, which the
  test suite then uses, on every instruction level that this CPU runs.
- native: the same two (Clang) in a program that calls the kernels of the highest level with arrays
  that take no byte more than they need, and holds the results against plain loops.
- threads: that program under ThreadSanitizer, with the OpenMP runtime that tells it what it does.
- valgrind: that program under memcheck, which knows of every bit whether it was ever written.

Each is shown a planted fault first: the silence of a sanitizer that does not work means nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reliability import records
from reliability.builds import Build, levels_here, sanitized_package
from reliability.tools import ROOT, lacking, lines_of, need, run

__all__ = ["CHECKS", "main"]

# A null pointer that is used ends the program without a test of its own, of which there would be
# one for each of the accesses that templates and inlining multiply.
WATCHED = (
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size",
    "-fno-sanitize-recover=undefined",
)
RACES = ("-fsanitize=thread",)
TESTS = (
    *("tests/test_conformance.py", "tests/test_binary.py", "tests/test_softmax_backward.py"),
    *("tests/test_hessian.py", "tests/test_layouts.py", "tests/sharding/test_shard_kernels.py"),
)
# Leaks are valgrind's to find: Python itself keeps memory until the end.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",
}
FOUND = Path(__file__).parent / "corpora" / "rows"  # by the fuzzer
REPORT = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|==\d+== \w")
PLANTED_IN_PYTHON = """
import numpy as np
from fastxent.backends import _kernels
_kernels.check_labels(np.full(64, 99), 100, None, np.ones(3), None, 1)
"""


def _watches(command: Sequence[str | Path], what: str, **environment: str) -> None:
    """End the program unless the fault is found."""
    done = run(command, timeout=1800, expect=None, **environment)
    if done.returncode == 0 or not REPORT.search(done.stdout):
        raise RuntimeError(f"a planted {what} was not found:\n{lines_of(done.stdout)}")


def _calls(command: Sequence[str | Path], **environment: str) -> int:
    """Run the native program; give the number of its calls, if nothing was reported."""
    done = run(command, timeout=7200, **environment)
    if REPORT.search(done.stdout):
        raise RuntimeError(lines_of(done.stdout))
    return int(re.findall(r"(\d+) calls", done.stdout)[-1])


def _library(name: str) -> str:
    found = subprocess.run(
        [need("gcc"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        lacking(name, "apt-get install gcc")
    return found


def extension(levels: Sequence[str], calls: int, tests: Sequence[str]) -> dict[str, Any]:
    """Run tests with the extension that watches itself."""
    del calls
    preload = f"{_library('libasan.so')} {_library('libubsan.so')}"
    python = [sys.executable, "-P"]
    # `import fastxent.backends._kernels` would find the function that is called as the package is
    where = "from fastxent.backends import _kernels; print(_kernels.__file__)"
    passed = 0
    for level in levels:
        package = sanitized_package(level, WATCHED)
        environment = ENVIRONMENT | {"LD_PRELOAD": preload}
        environment["PYTHONPATH"] = os.pathsep.join([str(package), str(ROOT / "tests")])
        loaded = run([*python, "-c", where], 600, **environment).stdout
        if str(package) not in loaded:
            raise RuntimeError(f"another extension is loaded: {loaded}")
        _watches([*python, "-c", PLANTED_IN_PYTHON], "overflow", **environment)
        command = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        # a report goes to the file that pytest would keep to itself
        done = run([*command, "--capture=sys", "-k", "cython", *tests], 7200, **environment)
        passed += int(re.findall(r"(\d+) passed", done.stdout)[-1])
    return {"extension_tests": passed, "extension_levels": ", ".join(levels)}


def native(levels: Sequence[str], calls: int, tests: Sequence[str]) -> dict[str, Any]:
    """Call the kernels with arrays of exact size, under the same two sanitizers."""
    del tests
    level = levels[-1]  # Clang takes minutes for each
    driver = Build("clang++", "driver", level, WATCHED).path()
    _watches([driver, "--planted", "overflow"], "overflow", **ENVIRONMENT)
    done = _calls([driver, str(calls), "1", "6000"], **ENVIRONMENT)
    run([driver, "--files", *FOUND.iterdir()], timeout=1800, **ENVIRONMENT)
    return {"native_calls": done, "native_level": level}


def threads(levels: Sequence[str], calls: int, tests: Sequence[str]) -> dict[str, Any]:
    """Call the kernels on three threads, under ThreadSanitizer with the tool for OpenMP."""
    del tests
    # The tool tells ThreadSanitizer what the runtime's barriers order, without which correct loops
    # look like races; the runtime itself is not instrumented.
    tools = sorted(Path("/usr/lib").glob("llvm-*/lib/libarcher.so"))
    if not tools:
        lacking("libarcher.so", "apt-get install clang libclang-rt-14-dev libomp-14-dev")
    environment = {
        "OMP_TOOL_LIBRARIES": str(tools[-1]),
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=66",
        "OMP_NUM_THREADS": "3",
    }
    level = "v3" if "v3" in levels else levels[0]
    driver = Build("clang++", "driver", level, RACES, openmp=True).path()
    _watches([driver, "--planted", "race"], "race", **environment)
    # larger arrays than elsewhere: several chunks, or nothing is shared out
    return {"thread_calls": _calls([driver, str(max(1, calls // 10)), "2", "60000"], **environment)}


def valgrind(levels: Sequence[str], calls: int, tests: Sequence[str]) -> dict[str, Any]:
    """Call the kernels under memcheck, which has no AVX-512."""
    del tests
    program = need("valgrind")
    level = "v3" if "v3" in levels else levels[0]
    driver = Build("g++", "driver", level).path()
    memcheck = [program, "-q", "--error-exitcode=9", "--leak-check=full", driver]
    for what in ("overflow", "uninitialised", "leak"):
        _watches([*memcheck, "--planted", what], what)
    return {"valgrind_calls": _calls([*memcheck, str(max(1, calls // 20)), "3", "4000"])}


CHECKS: dict[str, Callable[[Sequence[str], int, Sequence[str]], dict[str, Any]]] = {
    "extension": extension,
    "native": native,
    "threads": threads,
    "valgrind": valgrind,
}

PROGRAMS = {
    "extension": ("gcc", "g++"),
    "native": ("clang++",),
    "threads": ("clang++",),
    "valgrind": ("valgrind", "g++"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, keep the record `sanitize`; 0 where nothing was reported."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.sanitize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument(
        "--levels", nargs="+", help="instruction levels; default: those of this CPU"
    )
    parser.add_argument(
        "--calls", type=int, default=20_000, help="of a native program; default 20000"
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, help="test files for the extension")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    given = parser.parse_args(arguments)
    for name in given.only:  # all of them before the first, which takes minutes
        for program in PROGRAMS[name]:
            need(program)
    levels = given.levels or levels_here()
    start = time.monotonic()
    nothing: dict[str, Any] = {"figures": {}, "faults": [], "seconds": 0}
    before = nothing  # or what the others found
    if set(given.only) != set(CHECKS):
        before = records.load("sanitize", given.out) or nothing
    figures: dict[str, Any] = before["figures"]
    faults = [one for one in before["faults"] if one.partition(":")[0] not in given.only]
    with records.progress("sanitizers", len(given.only)) as advance:
        for name in given.only:
            advance(0, name)
            try:
                found = CHECKS[name](levels, given.calls, given.tests)
                print(", ".join(f"{what.replace('_', ' ')}: {one}" for what, one in found.items()))
                figures |= found
            except RuntimeError as error:
                faults.append(f"{name}: {error}")
                print(faults[-1], file=sys.stderr)
            # what is done stays done, whatever becomes of the next
            seconds = before["seconds"] + time.monotonic() - start
            records.keep("sanitize", figures, not faults, seconds, faults, given.out)
            advance()
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
