"""One benchmark a workload: fastxent, its peers and the ceilings, interleaved.

The interleaved times are in `extra_info`; what pytest-benchmark records itself is the default call
of fastxent, on its own.
"""

import os

import numpy as np
import pytest

import fastxent as fx
from fastxent.bench.document import FULL_SECONDS
from fastxent.bench.measure import measure
from fastxent.bench.peers import others, own
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import SHAPES, SOFT_SHAPES, Workload, arrays

# BENCH_SECONDS=0.02 makes a run that shows that everything works; its results are not kept.
SECONDS = float(os.environ.get("BENCH_SECONDS", FULL_SECONDS))
PLAN = Plan(seconds=SECONDS, fewest=3, most=41)
THREADS = fx.get_num_threads()

KINDS = (
    [Workload(*shape, threads=THREADS) for shape in SHAPES]
    + [Workload(*shape, labels="soft", threads=THREADS) for shape in SOFT_SHAPES]
    + [Workload(*shape, dtype="float64", threads=THREADS) for shape in SHAPES]
    + [Workload(*shape, "soft", "float64", threads=THREADS) for shape in SOFT_SHAPES]
)


def record(benchmark, measurement, machine_facts, num_threads=None):
    """Keep the interleaved times, and time the default call alone."""
    benchmark.group = str(measurement.workload)
    benchmark.extra_info["measurement"] = measurement.as_dict()
    benchmark.extra_info["machine"] = machine_facts
    benchmark.extra_info["seconds"] = SECONDS
    logits, target = arrays(measurement.workload)
    out = np.zeros_like(logits)
    benchmark.pedantic(
        fx.cross_entropy_and_grad,
        (logits, target),
        {"out": out, "num_threads": num_threads},
        rounds=5,
        warmup_rounds=1,
    )
    assert not measurement.wrong, measurement.skipped


@pytest.mark.parametrize("workload", KINDS, ids=str)
def test_all_threads(benchmark, machine_facts, workload):
    scaling = own(("out",), threads=1) if workload.dtype == "float32" else []
    measurement = measure(workload, own() + scaling + others(), PLAN)
    record(benchmark, measurement, machine_facts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_thread(benchmark, machine_facts, one_cpu, shape):
    measurement = one_cpu.measure(Workload(*shape, threads=1), PLAN)
    record(benchmark, measurement, machine_facts, num_threads=1)
