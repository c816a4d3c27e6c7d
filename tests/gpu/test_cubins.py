"""Kernels as cubins: how they are compiled, and the cache on the disk."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import fastxent
from fastxent.backends import disk_cache
from fastxent.backends.cuda import cubins
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, RowGeometry
from gpu.disassembly import disassemble
from gpu.own_kernels import compiled_as

PACKAGE = Path(fastxent.__file__).parent
SPEC = KernelSpec("own", None, LoopGeometry(64))
HOPPER = (9, 0)


@pytest.fixture(scope="module")
def machine():
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    from fastxent.backends.cuda import machine

    return machine


@pytest.fixture(autouse=True)
def forgets_the_place():
    cubins.directory.cache_clear()
    yield
    cubins.directory.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def compilations(monkeypatch):
    """Specs and capabilities that were compiled; the code made is a number."""
    made = []

    def compiled(spec, capability):
        made.append((spec, capability))
        return b"code %d" % len(made)

    monkeypatch.setattr(cubins, "compiled", compiled)
    return made


def only_file(place):
    (file,) = place.glob("cuda-*/*")
    return file


# --- the disk


def test_second_call_reads_what_the_first_compiled(cache, compilations):
    assert cubins.cubin(SPEC, HOPPER) == cubins.cubin(SPEC, HOPPER) == (b"code 1", "fastxent_own")
    assert compilations == [(SPEC, HOPPER)]
    file = only_file(cache)
    assert file.name.startswith("own-sm_90-")
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_each_spec_and_capability_has_its_file(cache, compilations):
    specs = [SPEC, SPEC._replace(module="other"), SPEC._replace(geometry=LoopGeometry(128))]
    specs += [SPEC._replace(variant=("loss",)), SPEC._replace(geometry=RowGeometry(64, 1, 1))]
    wanted = [(spec, HOPPER) for spec in specs] + [(SPEC, (8, 0))]
    first = [cubins.cubin(*each) for each in wanted]
    assert compilations == wanted
    assert [cubins.cubin(*each) for each in wanted] == first
    assert compilations == wanted


@pytest.mark.parametrize("damage", ["empty", "cut", "altered", "not ours"])
def test_damaged_file_is_compiled_again(cache, compilations, damage):
    cubins.cubin(SPEC, HOPPER)
    file = only_file(cache)
    good = file.read_bytes()
    damaged = {
        "empty": b"",
        "cut": good[:-1],
        "altered": good[:-1] + bytes([good[-1] ^ 1]),
        "not ours": b"x" * 1000,
    }
    file.write_bytes(damaged[damage])
    assert cubins.cubin(SPEC, HOPPER).code == b"code 2"
    assert cubins.cubin(SPEC, HOPPER).code == b"code 2"


@pytest.mark.parametrize("kept", [0, 8])
def test_code_of_other_sources_is_not_used(cache, compilations, monkeypatch, kept):
    cubins.cubin(SPEC, HOPPER)
    stamp = cubins.stamp()
    # another directory; and, would two stamps begin alike, another checksum
    monkeypatch.setattr(cubins, "stamp", lambda: stamp[:kept] + bytes(32 - kept))
    cubins.directory.cache_clear()
    assert cubins.cubin(SPEC, HOPPER).code == b"code 2"


def test_stamp_covers_sources_and_versions(tmp_path, monkeypatch):
    package = shutil.copytree(
        PACKAGE, tmp_path / "fastxent", ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    sources = package / "backends" / "cuda"
    seen = {cubins.stamp()}
    assert {cubins.stamp(sources)} == seen
    files = ("backends/cuda/machine.py", "backends/cuda/kernels/__init__.py")
    for name in (*files, "backends/contract.py", "version.py"):
        with (package / name).open("a") as file:
            file.write("\n")
        seen.add(cubins.stamp(sources))
    (sources / "kernels" / "another.py").touch()
    seen.add(cubins.stamp(sources))
    monkeypatch.setattr(cubins, "_version", lambda package: "9.9")
    seen.add(cubins.stamp(sources))
    assert len(seen) == 7


def test_directory_that_cannot_be_written(tmp_path, monkeypatch, compilations):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(in_the_way))
    with pytest.warns(RuntimeWarning, match="no directory to write"):  # it was asked for
        cubins.cubin(SPEC, HOPPER)
    cubins.cubin(SPEC, HOPPER)  # there is no second warning
    monkeypatch.delenv("FASTXENT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    cubins.directory.cache_clear()
    cubins.cubin(SPEC, HOPPER)
    assert len(compilations) == 3
    assert cubins.directory()[1].startswith("no directory to write")


def test_full_disk_takes_nothing_from_the_call(cache, compilations, monkeypatch):
    def full(path, stamp, content):
        raise OSError("no space left")

    monkeypatch.setattr(disk_cache, "write", full)
    assert cubins.cubin(SPEC, HOPPER).code == b"code 1"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no file modes")
def test_directory_that_others_can_write_is_refused(cache, compilations):
    cubins.cubin(SPEC, HOPPER)
    only_file(cache).parent.chmod(0o777)
    cubins.directory.cache_clear()
    with pytest.warns(RuntimeWarning, match="other users could write"):
        assert cubins.cubin(SPEC, HOPPER).code == b"code 2"


def test_cache_can_be_turned_off(cache, compilations, monkeypatch):
    monkeypatch.setenv("FASTXENT_NUMBA_CACHE", "0")
    cubins.cubin(SPEC, HOPPER)
    assert not list(cache.iterdir())


# --- in processes of their own: what is imported, and what a user gets to see

CALL = """
    import sys, types
    from fastxent.backends.cuda import cubins, specs
    specs.ARGUMENTS["own"] = (("a",), ("x",))
    {kernel}
    spec = specs.KernelSpec("own", None, specs.LoopGeometry(64))
    code, name = cubins.cubin(spec, (9, 0))
    assert code.startswith(b"\\x7fELF") and name == "fastxent_own"
    print(*sorted({{"numba", "llvmlite", "cuda"}} & set(sys.modules)))
"""
KERNEL = """
    def make(variant, geometry):
        from fastxent.backends.cuda import machine
        def kernel(a, x):
            machine.store_f64(a, x)
        return kernel
    sys.modules["fastxent.backends.cuda.kernels.own"] = types.SimpleNamespace(make=make)
"""


def run(code, **environment):
    """Standard output of a process in which warnings are errors, and nothing else is written."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.usefixtures("machine")
def test_cached_start_does_not_import_numba(tmp_path):
    place = {"FASTXENT_CACHE_DIR": str(tmp_path)}
    assert "numba" in run(CALL.format(kernel=KERNEL), **place)
    assert run(CALL.format(kernel=""), **place) == []
    assert only_file(tmp_path).suffix == ".cubin"


# --- compiling


def compiled(kernel, spec=SPEC, capability=HOPPER):
    with compiled_as(spec.module, kernel):
        return cubins.ptx(spec, capability)


def test_entry_takes_the_arguments_and_nothing_else(machine):
    def kernel(a, x):
        machine.store_f64(a, x)

    text = compiled(kernel)
    head = text[text.index(".visible .entry") : text.index("\n{")]
    assert " ".join(head.split()) == (
        ".visible .entry fastxent_own( .param .u64 fastxent_own_param_0, "
        ".param .f64 fastxent_own_param_1 ) .maxntid 64, 1, 1 .minnctapersm 1"
    )


def test_products_and_sums_are_not_contracted(machine):
    def kernel(a, x):
        machine.store_f64(a, machine.load_f64(a) * x + machine.load_f64(a + 8))
        two = np.float32(2)
        machine.store_f32(a, machine.load_f32(a) * machine.load_f32(a + 4) + two)

    text = compiled(kernel)
    assert "fma" not in text
    assert text.count("mul.rn") == text.count("add.rn") == 2
    made = disassemble(cubins.link(text, HOPPER))
    assert (made.count("FFMA"), made.count("DFMA")) == (0, 0)


def test_helpers_are_compiled_in_without_a_gpu(machine):
    from numba.cuda.extending import register_jitable

    @register_jitable
    def doubled(value):
        return value + value

    def kernel(a, x):
        machine.store_f64(a, doubled(x))

    for capability in ((7, 5), HOPPER):
        text = compiled(kernel, capability=capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text
        assert "call" not in text
        assert "add.rn.f64" in text


def test_size_of_a_cluster_is_in_the_code(machine):
    def kernel(a, x):
        machine.store_f64(a + 8 * machine.cluster_rank(), x)

    spec = SPEC._replace(geometry=RowGeometry(64, 1, 1, cluster=4, min_blocks=2))
    text = compiled(kernel, spec)
    assert ".reqnctapercluster 4, 1, 1\n" in text
    assert ".minnctapersm 2\n" in text
    assert cubins.link(text, HOPPER)
    assert "reqnctapercluster" not in compiled(kernel)


def test_other_arguments_than_declared_are_an_error(machine):
    def kernel(x, a):
        machine.store_f64(a, x)

    with pytest.raises(TypeError, match="arguments of kernel 'own'"):
        compiled(kernel)


def test_refused_ptx_says_why(machine):
    def kernel(a, x):
        machine.store_f64(a, x)

    text = compiled(kernel).replace("st.global.f64", "st.global.f65")
    with pytest.raises(Exception, match="PTX_COMPILE") as caught:
        cubins.link(text, HOPPER)
    assert any(".f65" in note for note in caught.value.__notes__)


@pytest.fixture
def collector():
    """The garbage collector, afterwards as it was."""
    enabled = gc.isenabled()
    yield gc
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_not_collected_during_a_compilation(
    machine, monkeypatch, collector, enabled, fails
):
    from numba import cuda

    seen = []

    def compile_or_fail(*arguments, compile=cuda.compile, **options):
        seen.append(gc.isenabled())
        if fails:
            raise RuntimeError("no such kernel")
        return compile(*arguments, **options)

    def kernel(a, x):
        machine.store_f64(a, x)

    monkeypatch.setattr(cuda, "compile", compile_or_fail)
    (collector.enable if enabled else collector.disable)()
    with pytest.raises(RuntimeError, match="such") if fails else contextlib.nullcontext():
        compiled(kernel)
    assert seen == [False]
    assert collector.isenabled() == enabled


def test_numpy_without_row_stack_has_it_while_a_kernel_is_compiled(monkeypatch):
    name = "row_stack"
    monkeypatch.delattr(np, name, raising=False)
    with cubins._row_stack():
        assert getattr(np, name) is np.vstack
    assert not hasattr(np, name)


def test_other_threads_keep_what_is_replaced():
    class Owner:
        @staticmethod
        def answer():
            return "before"

    found = []
    with cubins._replaced(Owner, "answer", lambda: "instead"):
        thread = threading.Thread(target=lambda: found.append(Owner.answer()))
        thread.start()
        thread.join()
        assert (Owner.answer(), *found) == ("instead", "before")
    assert Owner.answer() == "before"
