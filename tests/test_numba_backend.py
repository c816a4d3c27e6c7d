"""The Numba backend: its disk cache, its threads, the code that it compiles to, and its exp."""

import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load

REASON = fx.backends()["numba"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}")

ROOT = Path(fx.__file__).parent.parent
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("OMP_", "NUMBA_", "FASTXENT_"))
}


def run(code, *, warnings="error", path="", **environment):
    """Run code in a process of its own, with 8 threads and only the variables that are given."""
    settings = {"NUMBA_NUM_THREADS": "8", "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, "-W", warnings, "-c", textwrap.dedent(code)],
        env=CLEAN | settings | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- what is imported, and what is said when it cannot be


def test_numba_is_imported_only_when_asked_for():
    run("""
        import importlib, sys
        import fastxent as fx
        backend = importlib.import_module("fastxent.backends.numba_cpu").BACKEND
        assert backend.name == "numba"
        assert "numba" not in sys.modules and "llvmlite" not in sys.modules
        assert backend.why_not() is None and "numba" in sys.modules
    """)


WHY = 'import fastxent as fx; print(fx.backends()["numba"]); fx.softmax([1.0], backend="numpy")'


def test_missing_or_broken_numba_is_a_reason_in_words(tmp_path):
    assert run("import sys; sys.modules['numba'] = None\n" + WHY) == "numba is not installed"
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 9.9 or less')")
    assert "NumPy 9.9 or less" in run(WHY, path=tmp_path)
    assert run(WHY, NUMBA_DISABLE_JIT=1) == "NUMBA_DISABLE_JIT is set"


def test_info_is_text():
    info = load("numba").info()
    assert all(isinstance(value, str) and value for value in info.values())
    assert {"numba", "llvmlite", "threading layer", "NUMBA_NUM_THREADS", "cache"} <= set(info)


# --- the disk cache; the check of labels is what compiles fastest

COUNT = """
    import fastxent as fx
    with fx.use_backend("numba"):
        fx.check_labels([0, 2, -100], 3)
        try:
            fx.check_labels([0, 3], 3)
        except fx.LabelError:
            pass
        else:
            raise SystemExit("wrong result")
    from fastxent.backends import load
    from fastxent.backends.numba_cpu.kernels import CHECK_LABELS
    stats = CHECK_LABELS.serial.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
LOADED, COMPILED = "1 0", "0 1"


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache directory after one process has run."""
    place = tmp_path_factory.mktemp("cache") / "not" / "there"
    assert run(COUNT, FASTXENT_CACHE_DIR=place) == COMPILED
    return place


@pytest.fixture
def cache_copy(filled_cache, tmp_path):
    return Path(shutil.copytree(filled_cache, tmp_path / "copy"))


def only_file(place):
    (file,) = place.glob("numba-*/*.nbc")
    return file


def test_second_process_loads_what_the_first_compiled(filled_cache):
    assert run(COUNT, FASTXENT_CACHE_DIR=filled_cache) == LOADED
    directory = only_file(filled_cache).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in directory.iterdir()] == [".nbc"]  # nothing half written


def test_parallel_kernels_are_cached_too(tmp_path):
    code = """
        import numpy as np
        import fastxent as fx
        from fastxent.backends.numba_cpu.kernels import FORWARD
        x = np.ones((100, 1000), np.float32)
        p = fx.softmax(x, backend="numba", num_threads=3)
        assert (p == np.float32(1) / 1000).all()
        print(sum(FORWARD.parallel.stats.cache_hits.values()))
    """
    assert [run(code, FASTXENT_CACHE_DIR=tmp_path) for _ in range(2)] == ["0", "1"]


def test_other_sources_or_versions_do_not_use_old_files(cache_copy):
    changed = """
    from fastxent.backends.numba_cpu import cache
    before = cache.stamp()
    cache.stamp = lambda: before[:{kept}] + bytes(32 - {kept})
    """
    # another directory; and, would two stamps begin alike, another checksum
    for kept in (0, 8):
        assert run(changed.format(kept=kept) + COUNT, FASTXENT_CACHE_DIR=cache_copy) == COMPILED


def test_stamp_covers_sources_and_versions(tmp_path, monkeypatch):
    from fastxent.backends.numba_cpu import cache

    first = cache.stamp()
    assert first == cache.stamp()
    package = shutil.copytree(ROOT / "fastxent", tmp_path / "fastxent")
    monkeypatch.setattr(cache, "__file__", str(package / "backends/numba_cpu/cache.py"))
    assert cache.stamp() == first
    for name in ("backends/numba_cpu/row.py", "backends/contract.py", "version.py"):
        before = cache.stamp()
        with (package / name).open("a") as file:
            file.write("\n")
        assert cache.stamp() != before, name
    before = cache.stamp()
    monkeypatch.setattr(cache.np, "__version__", "9.9")
    assert cache.stamp() != before


@pytest.mark.parametrize("damage", ["empty", "cut", "altered", "not ours"])
def test_damaged_file_is_compiled_again(cache_copy, damage):
    file = only_file(cache_copy)
    good = file.read_bytes()
    middle = len(good) // 2
    damaged = {
        "empty": b"",
        "cut": good[:middle],
        "altered": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "not ours": b"x" * 1000,
    }
    file.write_bytes(damaged[damage])
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy) == COMPILED
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy) == LOADED


def test_directory_that_cannot_be_written(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    # asked for: one warning. Not asked for: none.
    told = "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n" + COUNT
    told += '    assert ["no directory to write" in str(w.message) for w in seen] == [True]'
    assert run(told, FASTXENT_CACHE_DIR=in_the_way, warnings="always") == COMPILED
    assert run(COUNT, XDG_CACHE_HOME=in_the_way) == COMPILED


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no file modes")
def test_directory_that_others_can_write_is_refused(cache_copy):
    only_file(cache_copy).parent.chmod(0o777)
    assert run(COUNT, FASTXENT_CACHE_DIR=cache_copy, warnings="ignore") == COMPILED


def test_cache_can_be_turned_off(tmp_path):
    assert run(COUNT, FASTXENT_CACHE_DIR=tmp_path, FASTXENT_NUMBA_CACHE=0) == COMPILED
    assert not list(tmp_path.iterdir())


def test_global_settings_are_left_alone():
    run("""
        import os
        import numba
        def settings():
            return {k: v for k, v in vars(numba.config).items() if k.isupper()}, dict(os.environ)
        before = settings()
        import fastxent as fx
        fx.softmax([1.0, 2.0], backend="numba")
        assert settings() == before
    """)


# --- threads

THREADED = """
    import os, signal, sys, threading
    import numpy as np
    import fastxent as fx
    x = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
    serial = fx.softmax(x, backend="numba", num_threads=1)
    def check(num_threads=8):
        assert np.array_equal(fx.softmax(x, backend="numba", num_threads=num_threads), serial)
"""

FORKS = """
    check()
    def child(work):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            try:
                work()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    def grandchild():
        check()
        child(check)
    child(check)
    child(grandchild)
    check()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_forked_children_compute_the_same_bits(layer):
    # Python 3.12 warns about any fork of a process with threads
    run(THREADED + FORKS, NUMBA_THREADING_LAYER=layer, warnings="ignore::DeprecationWarning")


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_many_callers_at_once(layer):
    code = """
    failed = []
    barrier = threading.Barrier(8)
    def caller():
        try:
            barrier.wait()
            for _ in range(50):
                check()
        except BaseException as error:
            failed.append(error)
    callers = [threading.Thread(target=caller) for _ in range(8)]
    for thread in callers: thread.start()
    for thread in callers: thread.join()
    assert not failed, failed
    import numba
    print(numba.threading_layer())
    """
    assert run(THREADED + code, NUMBA_THREADING_LAYER=layer) == layer


def test_too_many_threads_are_clamped():
    code = """
    import numba
    numba.set_num_threads(3)
    check(10_000)
    assert numba.get_num_threads() == 3
    """
    run(THREADED + code)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_gil_is_released(num_threads):
    logits = np.broadcast_to(np.zeros(30_000, np.float32), (20_000, 30_000))
    warm_up = fx.logsumexp(logits[:3], backend="numba", num_threads=num_threads)
    assert warm_up.shape == (3,)
    span = []

    def call():
        start = time.perf_counter()
        fx.logsumexp(logits, backend="numba", num_threads=num_threads)
        span.extend([start, time.perf_counter()])

    thread = threading.Thread(target=call)
    thread.start()
    ticks = []
    while thread.is_alive():
        ticks.append(time.perf_counter())
    start, end = span
    middle = [tick for tick in ticks if start + 0.25 * (end - start) < tick < end]
    # holding the GIL, the call would leave none
    assert len(middle) > 100


# --- what is compiled


def has_avx2():
    if REASON is not None:
        return False
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx2") and features.get("fma"))


needs_avx2 = pytest.mark.skipif(not has_avx2(), reason="the CPU has no AVX2")

# 0.88 ULP with a fused multiply-add, 1.17 on the x86 CPUs that have none
ULPS = 1.0 if has_avx2() or platform.machine() not in ("x86_64", "AMD64") else 1.25


@pytest.fixture(scope="module")
def exp_kernel():
    """exp of an array, by the lanes that the kernels use."""
    import numba

    from fastxent.backends.numba_cpu.elementary import exp_of_negative
    from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, store

    @numba.njit
    def kernel(x, y, n, zero):
        source, result = pointer(x, 0, zero), pointer(y, 0, zero)
        whole = n - n % lane_count(zero)
        for k in range(0, whole, lane_count(zero)):
            store(result, k, None, exp_of_negative(load(source, k, None, 0.0, zero)))
        if whole < n:
            some = n - whole
            store(result, whole, some, exp_of_negative(load(source, whole, some, 0.0, zero)))

    return kernel


def exp_of(kernel, x):
    result = np.full(len(x) + 1, 7, x.dtype)
    kernel(x.ctypes.data, result.ctypes.data, len(x), x.dtype.type(0))
    assert result[-1] == 7  # nothing is written beyond the end
    return result[:-1]


def ulps(value, exact):
    return np.abs(value.astype(np.longdouble) - exact) / np.spacing(exact.astype(value.dtype))


def test_exp_of_float32_is_good_to_about_one_ulp(exp_kernel):
    # every 199th number from -0 to -87.3, and all of the last 100,000
    last = int(np.float32(-87.3).view(np.uint32))
    bits = np.r_[np.arange(1 << 31, last, 199), np.arange(last - 100_000, last)]
    x = bits.astype(np.uint32).view(np.float32)
    assert ulps(exp_of(exp_kernel, x), np.exp(x.astype(np.float64))).max() < ULPS


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no wider type to compare with")
def test_exp_of_float64_is_good_to_about_one_ulp(exp_kernel):
    x = np.r_[np.linspace(-708, 0, 1_000_003), -np.logspace(-20, 0, 100_001)]
    assert ulps(exp_of(exp_kernel, x), np.exp(x.astype(np.longdouble))).max() < ULPS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_of_special_values(exp_kernel, dtype):
    x = np.array([0.0, -0.0, np.nan, -np.inf, -np.finfo(dtype).max, -800.0], dtype)
    assert np.array_equal(exp_of(exp_kernel, x), [1, 1, np.nan, 0, 0, 0], equal_nan=True)


@needs_avx2
def test_vector_instructions_are_used():
    code = """
        import numpy as np
        import fastxent as fx
        from fastxent.backends.numba_cpu.kernels import FORWARD
        for classes in (5, 200):
            fx.softmax(np.ones((1, classes), np.float32), backend="numba", num_threads=1)
        print(*FORWARD.serial.inspect_asm().values())
    """
    assembly = run(code, FASTXENT_NUMBA_CACHE=0)
    for instruction in ("vfmadd", "vmaxps", "vpslld"):
        lines = [line for line in assembly.splitlines() if instruction in line]
        assert any("%zmm" in line or "%ymm" in line for line in lines), instruction
    assert not re.search(r"\bexpf?\b", assembly)  # nothing is left to a library


@needs_avx2
def test_bits_do_not_depend_on_the_width_of_registers():
    code = """
        import hashlib
        import numpy as np
        import fastxent as fx
        x = 5 * np.random.default_rng(0).normal(size=(20, 3003)).astype(np.float32)
        print(hashlib.sha256(fx.softmax(x, backend="numba", num_threads=1)).hexdigest())
    """
    haswell = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # AVX2, no AVX-512
    assert run(code, **haswell, FASTXENT_NUMBA_CACHE=0) == run(code)


def test_layouts_share_one_signature():
    logits = np.zeros((6, 40), np.float32)
    for view in (
        logits,
        logits[:, ::-1],
        logits[::2],
        logits.T,
        np.broadcast_to(logits[0], (5, 40)),
    ):
        for dtype in (np.uint8, np.int64):
            labels = np.zeros(len(view), dtype)
            fx.cross_entropy_and_grad(view, labels, backend="numba", num_threads=1)
    from fastxent.backends.numba_cpu.kernels import FORWARD

    chosen = [signature[1:] for signature in FORWARD.serial.signatures]
    assert len(chosen) == len(set(chosen))  # the numbers never make a variant, dtypes alone do


# --- the verbs, where the conformance suite does not look


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32,
                                   np.int64, np.uint64])  # fmt: skip
def test_check_labels_at_the_ends_of_the_dtype(dtype):
    limits = np.iinfo(dtype)
    ours, plain = load("numba").check_labels, load("numpy").check_labels
    labels = np.array([3, 0, limits.max, 1, limits.min], dtype)
    for skip in (None, 0, 3, limits.max, limits.min):
        for target in (labels, labels[:2], labels[:3], labels[3:], labels[:0]):
            found, expected = (
                ours(target, 4, skip, None, None, 1),
                plain(target, 4, skip, None, None, 1),
            )
            assert found.bad_row == expected.bad_row
            assert found.bad_row >= 0 or found == expected


def test_label_masses_have_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 100_001).astype(np.int16)
    masses = rng.random(50), rng.random(len(labels))
    found = {load("numba").check_labels(labels, 50, 7, *masses, threads) for threads in (1, 2, 5)}
    assert len(found) == 1
    labels[[70_000, 90_000]] = -1, 50
    for threads in (1, 2, 5):
        assert load("numba").check_labels(labels, 50, 7, *masses, threads).bad_row == 70_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 17, 64, 100, 101, 129, 511, 1023, 1025, 5000])
def test_the_compiled_twin_gives_the_same_bits(dtype, classes):
    if fx.backends()["cython"] is not None:
        pytest.skip("cython: " + str(fx.backends()["cython"]))
    if load("cython").info()["instruction level"] not in ("v3", "v4"):
        pytest.skip("the compiled backend runs without a fused multiply-add")
    rng = np.random.default_rng(classes)
    rows = 21  # a whole tile and part of one
    logits = (4 * rng.normal(size=(rows, classes))).astype(dtype)
    labels, soft = rng.integers(0, classes, rows), rng.random((rows, classes)).astype(dtype)
    labels[[4, 20]] = -100
    weight, row_weight = np.linspace(0.5, 1.5, classes), rng.random(rows)
    smooth = {"label_smoothing": 0.1}
    for target in (labels, soft, soft.astype(np.float64), soft.astype(np.float32), soft > 0.5):
        for options in ({}, smooth, {"weight": weight, "sample_weight": row_weight, **smooth}):
            for reduction in ("none", "mean"):
                results = [
                    fx.cross_entropy_and_grad(
                        logits, target, backend=name, reduction=reduction, **options
                    )
                    for name in ("cython", "numba")
                ]
                for ours, other in zip(*results, strict=True):
                    assert np.array_equal(ours, other)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        assert np.array_equal(function(logits, backend="cython"), function(logits, backend="numba"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_shared_among_threads_have_the_same_bits(dtype):
    rng = np.random.default_rng(1)
    logits = (4 * rng.normal(size=(4, 70_001))).astype(dtype)
    logits[0, :2000] = -np.inf
    labels = np.array([3_000, -100, 70_000, 0])
    soft = rng.random(logits.shape)
    for target in (labels, soft):
        for options in ({}, {"label_smoothing": 0.1, "reduction": "sum"}, {"reduction": "none"}):
            results = [
                fx.cross_entropy_and_grad(
                    logits, target, backend="numba", num_threads=threads, **options
                )
                for threads in (1, 2, 5)
            ]
            for loss, grad in results[1:]:
                assert np.array_equal(loss, results[0][0], equal_nan=True)
                assert np.array_equal(grad, results[0][1])
    results = [fx.log_softmax(logits, backend="numba", num_threads=n) for n in (1, 2, 5)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("classes", [10, 200, 70_000])
def test_mean_loss_gives_the_same_bits_on_all_its_ways(classes):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20, classes)).astype(np.float32)
    labels = rng.integers(0, min(classes, 100), 20)
    labels[3] = -100
    read_only = logits.copy()
    read_only.flags.writeable = False
    mean_loss, found = load("numba").mean_loss, set()
    for z, y, threads in (
        (logits, labels, 1),
        (logits, labels.astype(np.int16), 1),
        (read_only, labels, 1),
        (logits, labels, 2),
        (logits, labels, 5),
    ):
        grad = np.empty_like(logits)
        found.add((mean_loss(z, y, -100, grad, threads), grad.tobytes()))
        found.add((mean_loss(z, y, -100, None, threads), grad.tobytes()))
    assert len(found) == 1


def test_unusual_arrays_make_no_variants_of_mean_loss():
    from fastxent.backends.numba_cpu.launch import MEAN_LOSS

    logits, labels = np.zeros((6, 40), np.float32), np.zeros(6, np.int64)
    fx.cross_entropy(logits, labels, backend="numba")
    fx.cross_entropy_and_grad(logits, labels, backend="numba")
    before = len(MEAN_LOSS.signatures)
    read_only = logits.copy()
    read_only.flags.writeable = False
    fixed = labels.copy()
    fixed.flags.writeable = False
    for z, y in (
        (read_only, labels),
        (logits, fixed),
        (np.zeros((6, 80), np.float32)[:, ::2], labels),
        (logits.T.copy().T, labels),
        (logits, labels.astype(np.int32)),
        (logits, np.zeros(12, np.int64)[::2]),
        (np.zeros(961, np.uint8)[1:].view(np.float32).reshape(6, 40), labels),
    ):
        fx.cross_entropy_and_grad(z, y, backend="numba", ignore_index=None)
    assert len(MEAN_LOSS.signatures) == before
