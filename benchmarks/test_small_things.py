"""What is not throughput: small calls, memory, the first call, the instructions of the loops.

Fresh processes measure them.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent.bench import children, memory, startup
from fastxent.bench.latency import WORKLOAD
from fastxent.bench.peers import adapters, others, own
from fastxent.bench.summary import COMPILED
from fastxent.bench.workloads import Workload, arrays

BIG = Workload(256, 128_256, threads=fx.get_num_threads())


def test_small_call(benchmark):
    benchmark.extra_info["latency"] = children.answer("latency")
    logits, target = arrays(WORKLOAD)
    benchmark(fx.cross_entropy_and_grad, logits, target, out=np.zeros_like(logits))


def test_peak_memory(benchmark):
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    peers = own(backends=COMPILED) + own(("out",), backends=("numpy",)) + adapters() + others()
    names = [peer.name for peer in peers if peer.why_not(BIG) is None]
    benchmark.extra_info["memory"] = memory.peak_bytes_of_all(names, BIG)
    logits, target = arrays(BIG)
    benchmark.pedantic(fx.cross_entropy_and_grad, (logits, target), rounds=3, warmup_rounds=1)


def test_startup(benchmark):
    first = startup.first_numba_call_seconds()
    benchmark.extra_info["startup"] = {"import": startup.import_seconds(), **first}
    benchmark.pedantic(startup.import_seconds, kwargs={"repeats": 1}, rounds=3)


def count_instructions():
    """Counts, and what could not be counted; some 25 seconds, most of them Numba's compiler."""
    script = Path(__file__).parent / "instructions.py"
    command = [sys.executable, str(script), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def test_instructions(benchmark):
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("loops are recognised in code for x86-64")
    found = benchmark.pedantic(count_instructions, rounds=1)
    benchmark.extra_info["instructions"] = found["counts"]
    if found["missing"]:  # what was counted is kept
        pytest.skip("; ".join(f"{name}: {why}" for name, why in found["missing"].items()))
