"""Fuzz the public functions and the kernels: no crash, no wrong result, no undocumented error.

    python -m reliability.fuzz                         five minutes, three engines; the first time
                                                       the kernels are compiled for five before
    python -m reliability.fuzz --minutes 60            longer
    python -m reliability.fuzz --only rows --minutes 1 --executions 0

- rows: libFuzzer on the kernels with AddressSanitizer and UndefinedBehaviorSanitizer; arrays of
  exact size in any layout, results held against plain loops, one thread against three.
- door: Atheris on the public functions; arrays and options of any kind, results held against the
  reference.
- cases: Hypothesis on combinations of options, on every backend that runs, against the reference.

What is found is kept in `tests/reliability/corpora/`: the test suite runs the inputs of `door` ever
after, `make sanitize` and this program as it starts those of `rows`. A case is printed, and kept in
the record.
Fewer executions than `--executions` are a fault: a record that says little does not pass.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reliability import records
from reliability.builds import Build
from reliability.sanitize import ENVIRONMENT, WATCHED
from reliability.tools import ROOT, lines_of, need, need_module, run

__all__ = ["CORPORA", "ENGINES", "main"]

CORPORA = Path(__file__).parent / "corpora"
# Of the time: a call of a kernel takes 0.1 ms, one of a public function 1 ms.
SHARES = {"rows": 0.5, "door": 0.35, "cases": 0.15}
# Inputs are draws, in which no constant has to be guessed: reporting every comparison of a kernel
# took a third of the time.
COVERAGE = ("-fno-sanitize-coverage=trace-cmp",)


def _libfuzzer(command: Sequence[str | Path], name: str, seconds: float, **environment: str) -> Any:
    """Run a libFuzzer; give executions, inputs that reach new code, and what was found."""
    stored = CORPORA / name
    with tempfile.TemporaryDirectory() as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        corpus.mkdir(), found.mkdir()
        options = [f"-max_total_time={max(1, int(seconds))}", f"-artifact_prefix={found}/"]
        options += ["-max_len=256", "-print_final_stats=1", "-timeout=60", "-rss_limit_mb=2048"]
        options += ["-report_slow_units=60"]  # Numba compiles for longer than the usual 10 seconds
        try:
            done = run(
                [*command, corpus, stored, *options], seconds + 600, expect=None, **environment
            )
        finally:  # of a run that was interrupted too
            kept = [Path(shutil.copy2(path, stored)) for path in found.iterdir()]
        executed = re.findall(r"stat::number_of_executed_units: (\d+)", done.stdout)
        faults = [f"{name}: {path.relative_to(ROOT)}\n{lines_of(done.stdout)}" for path in kept]
        if not faults and (done.returncode or not executed):
            faults.append(f"{name}: exit code {done.returncode}\n{lines_of(done.stdout)}")
        inputs = len(list(corpus.iterdir()))
    return int(executed[-1]) if executed else 0, inputs, faults


def rows(seconds: float, level: str) -> Any:
    """LibFuzzer on the kernels."""
    sanitizers = ",".join(["fuzzer-no-link", WATCHED[0].partition("=")[2]])
    kernel_flags = (f"-fsanitize={sanitizers}", *WATCHED[1:], *COVERAGE)
    program_flags = (WATCHED[0].replace("address", "fuzzer,address"), *WATCHED[1:], *COVERAGE)
    program = Build("clang++", "fuzz_rows", level, kernel_flags, program_flags).path()
    return _libfuzzer([program], "rows", seconds, **ENVIRONMENT)


def door(seconds: float, level: str) -> Any:
    """Atheris on the public functions."""
    command = [sys.executable, "-W", "error", "-m", "reliability.fuzz_door"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return _libfuzzer(command, "door", seconds, PYTHONPATH=path, FASTXENT_ISA=level)


def cases(seconds: float, level: str) -> Any:
    """Combine options by Hypothesis, with no example kept from one run to the next."""
    del level
    import hypothesis
    from test_properties import ANY_OPTIONS

    import fastxent as fx
    from fastxent.conformance import run_case

    backends = [name for name in ("cython", "numba", "numpy") if fx.backends()[name] is None]
    end = time.monotonic() + seconds
    executed = 0

    @hypothesis.settings(
        max_examples=500,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=ANY_OPTIONS,
        dtype=hypothesis.strategies.sampled_from(["float32", "float64", "float16"]),
        backend=hypothesis.strategies.sampled_from(backends),
    )
    def check(case: Any, dtype: str, backend: str) -> None:
        nonlocal executed
        if case.why_not(dtype) is None and time.monotonic() < end:
            executed += 1
            result = run_case(case, dtype, backend)
            if not result.passed:
                raise AssertionError(f"{result.explain()}\n{case!r}")

    faults = []
    while time.monotonic() < end and not faults:
        try:
            check()
        except Exception as error:  # any kind is a finding
            faults.append(f"cases: {error!r}")
    return executed, 0, faults


ENGINES: dict[str, Callable[[float, str], Any]] = {"rows": rows, "door": door, "cases": cases}
NEEDED: dict[str, Callable[[], Any]] = {
    "rows": lambda: need("clang++"),
    "door": lambda: need_module("atheris", "fuzz"),
    "cases": lambda: need_module("hypothesis", "test"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engines, keep the record `fuzz`; 0 where nothing was found in inputs enough."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="in all; default 5")
    parser.add_argument(
        "--executions",
        type=int,
        default=0,
        help="how many there are to be in all recorded runs, fewer are a fault; default 0",
    )
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--level", default="v3", help="instruction level; default v3")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="folder of the record")
    given = parser.parse_args(arguments)
    for name in given.only:  # all of them, before any engine has run for minutes
        NEEDED[name]()
    start = time.monotonic()
    figures: dict[str, Any] = {"level": given.level}
    found: list[str] = []
    interrupted: list[str] = []
    try:
        _run_engines(given, figures, found)
    except BaseException as error:
        interrupted.append(f"interrupted by {error!r}")
        raise
    finally:  # what there is until then is kept
        passed = _keep(given, figures, found, interrupted, time.monotonic() - start)
    return 0 if passed else 1


def _run_engines(given: argparse.Namespace, figures: dict[str, Any], found: list[str]) -> None:
    """Give each engine its share of the time; figures and findings are added to as they come."""
    whole = sum(SHARES[name] for name in given.only)
    with records.progress("fuzzing", len(given.only)) as advance:
        for name in given.only:
            advance(0, name)
            seconds = 60 * given.minutes * SHARES[name] / whole
            executed, inputs, faults = ENGINES[name](seconds, given.level)
            figures |= {f"{name}_executions": executed, f"{name}_inputs": inputs}
            found += faults
            advance()


def _keep(
    given: argparse.Namespace,
    figures: dict[str, Any],
    found: list[str],
    interrupted: list[str],
    seconds: float,
) -> bool:
    """Add to the record of earlier runs; whether there were inputs enough and none was bad."""
    now = sum(figures.get(f"{name}_executions", 0) for name in ENGINES)
    earlier = records.load("fuzz", given.out) or {"figures": {}, "seconds": 0.0}
    seconds += earlier["seconds"]
    for name in (f"{engine}_executions" for engine in ENGINES):
        figures[name] = figures.get(name, 0) + earlier["figures"].get(name, 0)
    executions = sum(figures[f"{name}_executions"] for name in ENGINES)
    all_found = earlier["figures"].get("found", 0) + len(found)
    figures |= {"executions": executions, "found": all_found, "open": len(found)}
    figures["minutes"] = round(seconds / 60)
    figures["runs"] = earlier["figures"].get("runs", 0) + 1
    figures["stored"] = sum(path.name[0] != "." for path in CORPORA.glob("*/*"))
    faults = [*found, *interrupted]
    if executions < given.executions:
        faults.append(f"asked {given.executions:,} executions, there were {executions:,}")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{now:,} executions, {executions:,} with earlier runs; {len(found)} findings")
    records.keep("fuzz", figures, not faults, seconds, faults, given.out)
    return not faults


if __name__ == "__main__":
    raise SystemExit(main())
