"""fastxent for boosting and in scikit-learn, beside what their users would call.

`fastxent.torch` and `fastxent.jax` are measured in test_workloads.py, in the rounds of the others.
"""

import os

import pytest

import fastxent as fx
from fastxent.bench import kept_memory
from fastxent.bench.contest import FASTXENT, hold
from fastxent.bench.contests import BOOSTING, FITTING, XGBOOST, boosting, fitting
from fastxent.bench.document import FULL_SECONDS
from fastxent.bench.peers import openmp
from fastxent.bench.timer import Plan

SECONDS = float(os.environ.get("BENCH_SECONDS", FULL_SECONDS))
PLAN = Plan(seconds=SECONDS, fewest=3, most=21)


def record(benchmark, title, contestants):
    openmp.share()
    contest = hold(title, contestants, PLAN)
    benchmark.extra_info["contests"] = [contest.as_dict()]
    benchmark.pedantic(contestants[FASTXENT].run, rounds=1)
    assert not contest.skipped


@pytest.mark.parametrize("title", BOOSTING)
def test_gradient_and_hessian(benchmark, title):
    pytest.importorskip("xgboost" if title == XGBOOST else "lightgbm", reason="not installed")
    record(benchmark, title, boosting.contestants(title))


def test_jax_with_kept_memory(benchmark):
    held = benchmark.pedantic(kept_memory.contests, (PLAN, fx.get_num_threads()), rounds=1)
    benchmark.extra_info["contests"] = [contest.as_dict() for contest in held]
    assert not any(contest.skipped for contest in held)


@pytest.mark.parametrize("title", FITTING)
def test_fit(benchmark, title):
    record(benchmark, title, fitting.contestants(title))
