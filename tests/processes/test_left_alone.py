"""What a call leaves as it found it: environment, global settings, floating-point mode, stacks."""

import ast
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastxent as fx

ROOT = Path(fx.__file__).parent.parent
COMPILED = [name for name in ("cython", "numba") if fx.backends()[name] is None]


def run(code, *, backend="", **environment):
    """Run code in a process of its own, in which every warning is an error."""
    settings = {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": str(ROOT), "BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- import

ADAPTERS = {
    "boosting": "numpy",
    "dask": "dask.array",
    "jax": "jax",
    "keras": "keras",
    "mpi": "mpi4py",
    "numba": "numba",
    "on_disk": "numpy",
    "sklearn": "sklearn",
    "tensorflow": "tensorflow",
    "torch": "torch",
}


def test_import_says_and_leaves_nothing():
    run("""
        import atexit, os, signal, sys
        import numpy as np

        def settings():
            handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
            return dict(os.environ), handlers, atexit._ncallbacks(), np.geterr(), sys.excepthook

        before = settings()
        import fastxent as fx
        assert settings() == before
        fx.cross_entropy_and_grad(np.ones((300, 1000)), [1] * 300, backend="numpy")
        assert settings() == before
    """)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_imported_without_a_warning(name):
    framework = ADAPTERS[name]
    if importlib.util.find_spec(framework.partition(".")[0]) is None:
        pytest.skip(f"{framework} is not installed")
    # what a framework says of itself is not ours
    run(f"""
        import importlib, os, signal, warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module({framework!r})
            except ImportError:  # Keras without an engine
                raise SystemExit(0)
        environment = dict(os.environ)
        handlers = {{s: signal.getsignal(s) for s in signal.valid_signals()}}
        importlib.import_module("fastxent.{name}")
        assert dict(os.environ) == environment
        assert {{s: signal.getsignal(s) for s in signal.valid_signals()}} == handlers
    """)


# --- calls

SETTINGS = """
    import ctypes, os, signal, sys, threading
    import numpy as np
    import fastxent as fx

    backend = os.environ["BACKEND"]
    x = np.random.default_rng(1).standard_normal((600, 1000)).astype("f4")
    labels = np.arange(600)
    libm = ctypes.CDLL("libm.so.6")
    UPWARD = 0x800

    def call(num_threads=3):
        options = {"backend": backend, "num_threads": num_threads}
        loss, grad = fx.cross_entropy_and_grad(x, labels, **options)
        p = fx.softmax(x, **options)
        q = fx.softmax_backward(p, x, **options)
        of_two = fx.binary_cross_entropy_with_logits_and_grad(x, p, **options)
        fx.partial_stats(x, labels, class_offset=0, num_classes=1000, **options)
        return [np.asarray(one).tobytes() for one in (loss, grad, p, q, *of_two)]

    def control_words():
        # glibc's fenv_t on x86-64: the control word of the x87, and MXCSR but for its sticky flags
        memory = (ctypes.c_uint32 * 8)()
        assert libm.fegetenv(memory) == 0
        return memory[0] & 0xFFFF, memory[7] & ~0x3F

    def of_openmp():
        try:
            omp = ctypes.CDLL("libgomp.so.1")
        except OSError:
            return []
        kind, size = ctypes.c_int(), ctypes.c_int()
        omp.omp_get_schedule(ctypes.byref(kind), ctypes.byref(size))
        found = [kind.value, size.value, omp.omp_get_max_threads(), omp.omp_get_dynamic()]
        return found + [omp.omp_get_max_active_levels(), omp.omp_get_thread_limit()]
"""


@pytest.mark.parametrize("backend", COMPILED)
def test_a_call_changes_no_setting(backend):
    run(
        SETTINGS
        + """
    def settings():
        handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
        found = [dict(os.environ), handlers, np.geterr(), sys.getswitchinterval()]
        if "numba" in sys.modules:
            import numba
            found.append({k: v for k, v in vars(numba.config).items() if k.isupper()})
            found.append(numba.get_num_threads())
        return found + of_openmp()

    if backend == "numba":
        import numba
        numba.set_num_threads(2)
    fx.backends()
    before = settings()
    call()
    assert settings() == before
    seen = []
    def worker():
        mine = settings()
        call()
        seen.append(settings() == mine)
    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    assert seen == [True]
    """,
        backend=backend,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp.so.1 is Linux's")
@pytest.mark.skipif("numba" not in COMPILED, reason=f"numba: {fx.backends()['numba']}")
@pytest.mark.parametrize("first", ["the main thread", "another thread"])
def test_a_call_that_starts_numbas_threads_changes_nothing_of_openmp(first):
    """Numba's layer omp sets the limit and the nesting of the thread that starts it."""
    run(
        SETTINGS
        + """
    from numba.np.ufunc import parallel
    import numba

    seen = []
    def first_call():
        ctypes.CDLL("libgomp.so.1").omp_set_num_threads(3)  # not Numba's number
        before = of_openmp()
        assert not parallel._is_initialized
        fx.cross_entropy_and_grad(x, labels, backend="numba", num_threads=2)
        assert parallel._is_initialized and numba.threading_layer() == "omp"
        assert of_openmp() == before
        seen.append(True)
    if os.environ["FIRST"] == "the main thread":
        first_call()
    else:
        thread = threading.Thread(target=first_call)
        thread.start()
        thread.join()
    assert seen == [True]
    """,
        NUMBA_THREADING_LAYER="omp",
        FIRST=first,
    )


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="fenv_t")
@pytest.mark.parametrize("backend", COMPILED)
def test_a_call_leaves_the_floating_point_mode(backend):
    run(
        SETTINGS
        + """
    seen = []
    def worker():
        before = control_words()
        call()
        assert control_words() == before
        assert sys.float_info.min / 2 > 0
        assert (np.full(1000, np.finfo("f4").tiny) / np.float32(2) > 0).all()
        # the caller's own mode stays, too
        assert libm.fesetround(UPWARD) == 0
        changed = control_words()
        assert changed != before
        call(1)
        assert control_words() == changed
        assert libm.fesetround(0) == 0
        seen.append(True)
    worker()
    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    assert seen == [True, True]
    """,
        backend=backend,
    )


@pytest.mark.parametrize("backend", COMPILED)
def test_stacks_of_64_kib_are_enough(backend):
    run(
        SETTINGS
        + """
    expected = call()  # what is compiled here takes the compiler's stack
    assert call(1) == expected
    found = []
    threading.stack_size(65536)
    for num_threads in (1, 3):
        thread = threading.Thread(target=lambda: found.append(call(num_threads)))
        thread.start()
        thread.join()
    assert found == [expected, expected]
    """,
        backend=backend,
        OMP_STACKSIZE="64k",
    )


# --- what Numba compiles


@pytest.mark.skipif("numba" not in COMPILED, reason=f"numba: {fx.backends()['numba']}")
def test_layouts_share_their_kernels():
    """One variant for arrays that lie as they are computed, and one for all others."""
    count = run("""
        import numpy as np
        import fastxent as fx
        from fastxent.backends.numba_cpu.kernels import FORWARD

        rng = np.random.default_rng(3)
        x = rng.standard_normal((20, 300)).astype("f4")
        wide = np.zeros((40, 600), "f4")
        wide[::2, ::2] = x
        raw = np.zeros(x.nbytes + 1, np.uint8)
        unaligned = raw[1:].view("f4").reshape(x.shape)
        unaligned[...] = x
        fixed = x.copy()
        fixed.flags.writeable = False
        layouts = [x, np.asfortranarray(x), wide[::2, ::2], x[::-1].copy()[::-1], fixed]
        layouts += [x[:, ::-1].copy()[:, ::-1], x.astype(">f4"), unaligned]
        layouts += [np.ascontiguousarray(x.T).T, np.broadcast_to(x[:1], x.shape)]
        for logits in layouts:
            for labels in (np.zeros(20, kind) for kind in ("i8", "i4", "u1", "u8")):
                fx.cross_entropy_and_grad(
                    logits, labels, reduction="sum", backend="numba", num_threads=1
                )
        print(len(FORWARD.compiled))
    """)
    assert int(count) <= 3  # rows that lie in columns are taken as tiles


def test_no_kernel_raises():
    """A raise makes a parallel loop serial, or is lost in it."""
    compilers = {"inlined", "once", "serial", "parallel"}
    kernels = 0
    for path in sorted((ROOT / "fastxent" / "backends" / "numba_cpu").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            names = {one.id for one in node.decorator_list if isinstance(one, ast.Name)}
            if not names & compilers:
                continue
            kernels += 1
            raising = [n for n in ast.walk(node) if isinstance(n, ast.Raise | ast.Assert | ast.Try)]
            assert not raising, f"{path.name}: {node.name}"
    assert kernels > 100


# --- masked logits


@pytest.mark.slow  # it measures times
@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("low", ["-inf", "-1e4", "-90"])
def test_masked_logits_cost_no_more(backend, low):
    """Exponentials that vanish take no slow path: at most 1.3 times, the best of many calls."""
    ratio = run(
        f"""
        import os, time
        import numpy as np
        import fastxent as fx

        plain = np.random.default_rng(4).standard_normal((64, 4000)).astype("f4")
        masked = plain.copy()
        masked[:, ::2] = {low!r}
        labels, out = np.ones(64, int), np.empty_like(plain)
        options = {{"backend": os.environ["BACKEND"], "num_threads": 1, "out": out}}

        def seconds(logits):
            start = time.perf_counter()
            fx.cross_entropy_and_grad(logits, labels, **options)
            return time.perf_counter() - start

        best = [float("inf")] * 2
        for _ in range(400):
            best = [min(old, seconds(z)) for old, z in zip(best, (plain, masked))]
        print(best[1] / best[0])
        """,
        backend=backend,
    )
    assert float(ratio) <= 1.3
