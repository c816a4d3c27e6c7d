"""Random calls of every function on every CPU backend, against the float64 reference and PyTorch.

Trial number i of a seed is always the same trial, whatever came before it and however many
processes share the work: a run that was broken off goes on with ``--first``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import fastxent as fx
from fastxent.cases import Case
from fastxent.cases.drawn import FLOATS
from fastxent.comparison import Comparison
from fastxent.trials import Trial, drawn_trial
from reliability import records

__all__ = ["Found", "main", "trial_of", "try_all"]

BACKENDS = ("cython", "numba", "numpy")
SEED = 8
TRIALS = 100_000
BATCH = 250  # trials that a process makes before it reports

EXAMPLES = """\
examples:
  PYTHONPATH=.:tests python -m reliability.differential
  PYTHONPATH=.:tests python -m reliability.differential --trials 1000 --seed 5
  PYTHONPATH=.:tests python -m reliability.differential --first 40000 --jobs 4
  PYTHONPATH=.:tests python -m reliability.differential --only 4711

A trial that fails prints the expression that makes it again:
  from fastxent.cases import Case
  from fastxent.trials import Trial
  print(Trial(...).run().explain())
"""


@dataclass
class Found:
    """What came of some trials; of two parts of a run the sum."""

    counts: Counter[str] = field(default_factory=Counter)
    by_backend: Counter[str] = field(default_factory=Counter)
    by_dtype: Counter[str] = field(default_factory=Counter)
    by_function: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    largest: float = 0.0  # error, as a share of what is allowed
    largest_of: str = ""
    faults: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Add what another part of the run found."""
        for name in ("counts", "by_backend", "by_dtype", "by_function", "differences"):
            getattr(self, name).update(getattr(other, name))
        if other.largest > self.largest:
            self.largest, self.largest_of = other.largest, other.largest_of
        self.faults += other.faults

    def measure(self, comparisons: list[Comparison], trial: Trial) -> None:
        """Count numbers compared, and keep the largest error."""
        self.counts["comparisons"] += len(comparisons)
        for one in comparisons:
            share = one.error / one.tolerance if one.tolerance else 0.0
            if one.passed and share > self.largest:
                self.largest, self.largest_of = share, f"{one.name} of {trial!r}"


def trial_of(seed: int, number: int, backends: list[str], dtypes: list[str]) -> Trial:
    """Draw trial number `number` of a seed."""
    return drawn_trial(np.random.default_rng([seed, number]), backends, dtypes)


def try_all(
    seed: int, first: int, last: int, backends: list[str], dtypes: list[str], by_torch: bool
) -> Found:
    """Make the trials ``[first, last)`` of a seed."""
    peer = _torch_peer() if by_torch else None
    found = Found()
    for number in range(first, last):
        trial = trial_of(seed, number, backends, dtypes)
        found.counts["trials"] += 1
        found.by_backend[trial.backend] += 1
        found.by_dtype[trial.dtype] += 1
        found.by_function[trial.function] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning is a fault
            result = trial.run()
        found.measure(list(result.comparisons), trial)
        if not result.passed:
            found.faults.append(f"seed {seed}, trial {number}: {trial!r}\n  {result.explain()}")
            continue
        if peer is None or trial.function not in peer.FUNCTIONS:
            continue
        difference = peer.difference(trial)
        if difference is not None:
            found.differences[difference] += 1
            continue
        beside = peer.compare(trial, result.comparisons[:2])
        found.counts["beside PyTorch"] += 1
        found.measure(beside, trial)
        wrong = [str(one) for one in beside if not one.passed]
        if wrong:
            found.faults.append(f"seed {seed}, trial {number}: {trial!r}\n  " + "\n  ".join(wrong))
    return found


def _torch_peer():
    import torch

    from reliability import torch_peer

    torch.set_num_threads(1)
    return torch_peer


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def _run(arguments: argparse.Namespace, by_torch: bool) -> Found:
    dtypes = [dtype for dtype in FLOATS if Case(5, 10).why_not(dtype) is None]
    # processes of their own: a fork would inherit threads; and whoever waits does not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    last = arguments.first + arguments.trials
    batches = range(arguments.first, last, BATCH)
    found = Found()
    with (
        ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool,
        records.progress("random calls", arguments.trials) as advance,
    ):
        parts = {
            pool.submit(
                try_all,
                *(arguments.seed, first, min(first + BATCH, last)),
                *(arguments.backend, dtypes, by_torch),
            ): min(first + BATCH, last) - first
            for first in batches
        }
        for part in as_completed(parts):
            these = part.result()
            for fault in these.faults:
                print(f"WRONG {fault}", flush=True)
            found.add(these)
            advance(parts[part], f"random calls, {len(found.faults)} wrong")
    return found


def _figures(arguments: argparse.Namespace, found: Found) -> dict[str, object]:
    return {
        "seed": arguments.seed,
        "first": arguments.first,
        "trials": found.counts["trials"],
        "comparisons": found.counts["comparisons"],
        "beside_torch": found.counts["beside PyTorch"],
        "known_differences": sum(found.differences.values()),
        "differences": dict(found.differences),
        "backends": dict(found.by_backend),
        "dtypes": dict(found.by_dtype),
        "functions": dict(found.by_function),
        "largest_share": round(found.largest, 3),
        "largest_of": found.largest_of,
        "wrong": len(found.faults),
    }


def _parser(able: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="explain this trial")
    parser.add_argument("--backend", nargs="+", choices=able, default=able)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="directory of the record")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the program; 1 if anything was wrong."""
    able = [name for name in BACKENDS if fx.backends()[name] is None]
    arguments = _parser(able).parse_args(argv)
    if arguments.only is not None:
        dtypes = [dtype for dtype in FLOATS if Case(5, 10).why_not(dtype) is None]
        trial = trial_of(arguments.seed, arguments.only, arguments.backend, dtypes)
        result = trial.run()
        print(repr(trial), result.explain(), sep="\n")
        return 0 if result.passed else 1
    by_torch = _has_torch()
    start = time.perf_counter()
    found = _run(arguments, by_torch)
    figures = _figures(arguments, found)
    passed = not found.faults and figures["trials"] == arguments.trials
    print(
        f"{figures['trials']:,} random calls, {figures['comparisons']:,} results compared, "
        f"{figures['beside_torch']:,} calls beside PyTorch too; "
        f"largest error {found.largest:.0%} of what is allowed; {len(found.faults)} wrong"
    )
    if not by_torch:
        print("PyTorch is not installed: nothing was held against it")
    seconds = time.perf_counter() - start
    records.keep("differential", figures, passed, seconds, found.faults[:20], arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
