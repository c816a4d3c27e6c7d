"""One benchmark a workload: fastxent, its peers and the ceilings, interleaved.

The interleaved times are in `extra_info`; what pytest-benchmark records itself is the default call
of fastxent, on its own.
"""

import os
from dataclasses import replace

import pytest

import fastxent as fx
from fastxent.bench.aims_of_frameworks import FRAMEWORK_SHAPES
from fastxent.bench.document import FULL_SECONDS
from fastxent.bench.measure import measure
from fastxent.bench.peers import adapters, others, own
from fastxent.bench.peers.own import Own
from fastxent.bench.summary import COMPILED
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import (
    BINARY_ELEMENTS,
    CLASS_AXIS_SHAPES,
    HALF_SHAPES,
    HALVES,
    OPTIONS,
    OPTIONS_SHAPE,
    SHAPES,
    SOFT_SHAPES,
    SOFTMAX_SHAPES,
    Workload,
    class_axis_1,
)

# BENCH_SECONDS=0.02 makes a run that shows that everything works; its results are not kept.
SECONDS = float(os.environ.get("BENCH_SECONDS", FULL_SECONDS))
PLAN = Plan(seconds=SECONDS, fewest=3, most=41)
THREADS = fx.get_num_threads()

KINDS = (
    [Workload(*shape, threads=THREADS) for shape in SHAPES]
    + [Workload(*shape, labels="soft", threads=THREADS) for shape in SOFT_SHAPES]
    + [Workload(*shape, dtype="float64", threads=THREADS) for shape in SHAPES]
    + [Workload(*shape, "soft", "float64", threads=THREADS) for shape in SOFT_SHAPES[:2]]
)
INSIDE_FRAMEWORKS = [Workload(*shape, threads=THREADS) for shape in FRAMEWORK_SHAPES]
SOFTMAX = [
    Workload(*shape, threads=THREADS, operation=operation)
    for operation in ("softmax", "log_softmax")
    for shape in SOFTMAX_SHAPES
]


def record(benchmark, measurement, machine_facts, num_threads=None):
    """Keep the interleaved times, and time the default call alone."""
    benchmark.group = str(measurement.workload)
    benchmark.extra_info["measurement"] = measurement.as_dict()
    benchmark.extra_info["machine"] = machine_facts
    benchmark.extra_info["seconds"] = SECONDS
    call = Own(None, threads=num_threads).prepare(measurement.workload)
    benchmark.pedantic(call.run, rounds=5, warmup_rounds=1)
    assert not measurement.wrong, measurement.skipped


def beside(workload, options):
    """The same call with each of the options, to be timed in the same rounds."""
    peers = own(("out",), backends=COMPILED)
    return {option: (replace(workload, option=option), peers) for option in options}


@pytest.mark.parametrize("workload", KINDS, ids=str)
def test_all_threads(benchmark, machine_facts, workload):
    scaling = own(("out",), threads=1) if workload.dtype == "float32" else []
    plain = Workload(*OPTIONS_SHAPE, threads=THREADS)
    inside = adapters() if workload in INSIDE_FRAMEWORKS else []
    options = beside(workload, OPTIONS) if workload == plain else {}
    measurement = measure(workload, own() + inside + scaling + others(), PLAN, others=options)
    record(benchmark, measurement, machine_facts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_thread(benchmark, machine_facts, one_cpu, shape):
    measurement = one_cpu.measure(Workload(*shape, threads=1), PLAN)
    record(benchmark, measurement, machine_facts, num_threads=1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", HALF_SHAPES, ids=str)
def test_half_precision(benchmark, machine_facts, shape, dtype):
    peers = own(("out",), backends=COMPILED)
    workload = Workload(*shape, dtype=dtype, threads=THREADS)
    wide = {"float32": (replace(workload, dtype="float32"), peers)}
    measurement = measure(workload, peers + others(), PLAN, others=wide)
    record(benchmark, measurement, machine_facts)


@pytest.mark.parametrize("shape", CLASS_AXIS_SHAPES, ids=str)
def test_classes_on_axis_1(benchmark, machine_facts, shape):
    workload = class_axis_1(shape, threads=THREADS)
    measurement = measure(workload, own(("out",), backends=COMPILED) + others(), PLAN)
    record(benchmark, measurement, machine_facts)


@pytest.mark.parametrize("workload", SOFTMAX, ids=str)
def test_softmax(benchmark, machine_facts, workload):
    measurement = measure(workload, own(("out", "new"), backends=COMPILED) + others(), PLAN)
    record(benchmark, measurement, machine_facts)


def test_binary(benchmark, machine_facts):
    workload = Workload(BINARY_ELEMENTS, 1, threads=THREADS, operation="binary")
    measurement = measure(workload, own(("out",), backends=COMPILED) + others(), PLAN)
    record(benchmark, measurement, machine_facts)
