"""The simulated machine has the real one's names, and its driver runs what is packed for it."""

import ast
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulated GPU needs greenlet")

import fastxent
from fastxent.backends.cuda.specs import (
    ARGUMENTS,
    KernelSpec,
    LoopGeometry,
    RowGeometry,
    SumsVariant,
    Variant,
)
from gpu.simulation import machine
from gpu.simulation.driver import SimulatedDriver
from gpu.simulation.fault import Fault
from gpu.simulation.loading import load, run_kernel
from gpu.simulation.memory import MEMORY


def of_real_machine():
    """The public names of the real one, and the parameters of those that say so in their source.

    Read, not imported: that would need numba.
    """
    path = Path(fastxent.__file__).parent / "backends" / "cuda" / "machine.py"
    return ast.parse(path.read_text())


def test_the_names_are_those_of_the_real_machine():
    for node in ast.walk(of_real_machine()):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = eval(compile(ast.Expression(node.value), "machine.py", "eval"))
    assert sorted(machine.__all__) == sorted(names)
    assert all(hasattr(machine, name) for name in names)


@pytest.fixture
def driver():
    return SimulatedDriver()


def copy_of(driver, array):
    address = driver.allocate(array.nbytes, 0)
    driver.upload(address, array, 0, 0)
    return address


def packed(module, **given):
    integers, reals = ARGUMENTS[module]
    values = [given.get(name, 0) for name in (*integers, *reals)]
    return struct.pack(f"={len(integers)}q{len(reals)}d", *values)


def test_a_launch(driver):
    numbers = np.arange(700, dtype=np.float64)
    there, total = copy_of(driver, numbers), driver.allocate(4, 0)
    spec = KernelSpec("sums", SumsVariant("float32"), LoopGeometry(128))
    arguments = packed("sums", partial=there, count=700, total=total, divisor=10.0)
    driver.launch(spec, 1, arguments, 0, 7)
    result = np.empty(1, np.float32)
    driver.download(result, total, 0, 0)
    assert result[0] == np.float32(numbers.sum() / 10)
    (launch,) = driver.launches
    assert launch.arguments["count"] == 700
    assert launch.arguments["divisor"] == 10.0
    assert (launch.spec, launch.grid, launch.stream, launch.written) == (spec, 1, 7, 4)
    assert launch.read >= numbers.nbytes
    assert launch.moved == {"partial": (launch.read, 0), "total": (0, 4)}
    driver.free(there, 0)
    with pytest.raises(Fault, match="given back"):
        driver.launch(spec, 1, arguments, 0, 0)
    driver.free(total, 0)


def test_wrong_launches(driver):
    spec = KernelSpec("sums", SumsVariant("float32"), LoopGeometry(128))
    with pytest.raises(Fault, match="8 bytes of arguments"):
        driver.launch(spec, 1, bytes(8), 0, 0)
    with pytest.raises(Fault, match="no launch"):
        driver.launch(spec, 0, packed("sums"), 0, 0)
    with pytest.raises(Fault, match="absent array"):
        driver.launch(spec, 1, packed("sums", count=1), 0, 0)
    cluster = KernelSpec("row", Variant(), RowGeometry(128, 1, 8, 2))
    with pytest.raises(Fault, match="no clusters"):
        SimulatedDriver((8, 0)).launch(cluster, 2, packed("row"), 0, 0)


def test_copies_are_checked(driver):
    address = driver.allocate(16, 0)
    for array in (np.zeros(5, np.float32), np.zeros((4, 2), np.float32)[:, 0]):
        with pytest.raises(Fault, match=r"copy of 20 bytes|contiguous"):
            driver.upload(address, array, 0, 0)
        with pytest.raises(Fault, match=r"copy of 20 bytes|contiguous"):
            driver.download(array, address, 0, 0)
    driver.free(address, 0)


def test_kernels_find_the_simulated_numbers_and_the_real_modules_stay():
    import math

    twin = load("sums")
    assert twin.np is not np
    assert twin.float64 is not np.float64
    assert twin.int64(2**63) == -(2**63)
    assert twin.load_f64 is machine.load_f64
    assert load("jacobian").math is not math
    assert twin not in sys.modules.values()


def test_kernels_are_loaded_without_numba():
    code = """if True:
        import sys
        for name in ("numba", "numba.cuda", "llvmlite", "cuda"):
            sys.modules[name] = None
        from fastxent.backends.cuda.specs import ARGUMENTS
        from gpu.simulation.loading import load
        for module in ARGUMENTS:
            load(module)
    """
    places = [str(Path(fastxent.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_arguments_by_name():
    numbers, total = np.arange(5.0), np.zeros(1)
    spec = ("sums", SumsVariant("float64"), LoopGeometry(32))
    run_kernel(*spec, 1, {"partial": numbers, "count": 5, "total": total}, {"divisor": 2.0})
    assert total[0] == 5
    assert not any(one.foreign for one in MEMORY.live)
    with pytest.raises(Fault, match="no arguments"):
        run_kernel(*spec, 1, {"partials": numbers})
