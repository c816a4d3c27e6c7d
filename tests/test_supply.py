"""Nothing in the package runs data as code, starts programs or opens connections, but as listed."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastxent
from fastxent import on_disk

PACKAGE = Path(fastxent.__file__).parent
ROOT = PACKAGE.parent
SOURCES = Path(__file__).parent.parent / "src_cython"

# Modules that make code of data, or reach outside the process.
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"yaml", "runpy", "codeop", "pty", "subprocess", "multiprocessing", "socket"}
MODULES |= {"socketserver", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp"}
MODULES |= {"ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser", "asyncio", "zipimport"}
# Of concurrent.futures, whose threads are used: what starts processes, and sends them pickles.
PROCESSES = {"ProcessPoolExecutor", "concurrent.futures.process"}
CALLS = {"eval", "exec", "compile", "__import__"}
OF_OS = ("system", "popen", "exec", "spawn", "posix_spawn", "fork", "startfile")

# The places where one of them stands, and why it may.
ALLOWED = {
    # What Numba compiled, as Numba's own cache keeps it. `disk_cache` reads a file only if it and
    # its directory are this user's alone, and if the checksum is that of its name and the sources.
    ("backends/numba_cpu/cache.py", "pickle"),
    # Kernels written out with the names of their arguments, constants of the package: Numba takes
    # no function of a *tuple.
    ("backends/cuda/kernels/arguments.py", "exec"),
    ("backends/cuda/kernels/unrolled.py", "exec"),
    # `fastxent bench`: peers are measured in processes of their own, of this interpreter,
    ("bench/children.py", "subprocess"),
    # and the assembler's listing of a kernel is asked of NVIDIA's disassembler.
    ("bench/card/disassembly.py", "subprocess"),
}


def outside(path):
    """What a file uses of the lists above."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (module, module.partition(".")[0])
            for alias in node.names:
                yield from (alias.name, f"{module}.{alias.name}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in CALLS:
                yield node.func.id
        elif isinstance(node, ast.Attribute):
            of_os = isinstance(node.value, ast.Name) and node.value.id == "os"
            if of_os and node.attr.startswith(OF_OS):
                yield f"os.{node.attr}"
            if node.attr in PROCESSES:
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # importlib.import_module("socket")


WANTED = MODULES | PROCESSES | CALLS | {f"os.{name}" for name in dir(os) if name.startswith(OF_OS)}


def test_code_from_data_and_ways_out_are_only_where_they_are_listed():
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in WANTED.intersection(outside(path))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import urllib.request", "urllib"),
        ("from multiprocessing.pool import Pool", "multiprocessing"),
        ("from concurrent.futures import ProcessPoolExecutor as Pool", "ProcessPoolExecutor"),
        ("from concurrent.futures.process import EXTRA_QUEUED_CALLS", "concurrent.futures.process"),
        ("from concurrent.futures import process", "concurrent.futures.process"),
        ("import concurrent.futures.process", "concurrent.futures.process"),
        (
            "import concurrent.futures; concurrent.futures.ProcessPoolExecutor()",
            "ProcessPoolExecutor",
        ),
        ("from concurrent.futures import ThreadPoolExecutor", None),
        ("eval('1')", "eval"),
        ("import os; os.posix_spawnp", "os.posix_spawnp"),
        ("import_module('socket')", "socket"),
    ],
)
def test_each_way_out_is_seen(line, name, tmp_path):
    (tmp_path / "module.py").write_text(line)
    found = WANTED.intersection(outside(tmp_path / "module.py"))
    assert found == ({name} if name else set())


def test_arrays_are_loaded_without_pickle():
    loads = [
        (path.name, node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
    ]
    for name, call in loads:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("allow_pickle") == "False", name


class Executed:
    """An object that would leave a mark, were it unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_array_file_with_objects_is_refused_unread(tmp_path):
    mark = tmp_path / "mark"
    path = tmp_path / "logits.npy"
    np.save(path, np.array([[Executed(mark)]], object), allow_pickle=True)
    with pytest.raises(fastxent.FastxentError, match="object"):
        on_disk.cross_entropy(path, np.zeros(1, int))
    assert not mark.exists()


def test_extension_asks_the_system_for_memory_and_mathematics_only():
    nm = shutil.which("nm")
    libraries = list((PACKAGE / "backends").glob("_kernels*.so"))
    if nm is None or not libraries:
        pytest.skip("there is no nm, or no compiled extension")
    command = [nm, "--dynamic", "--undefined-only", "--format=just-symbols", *libraries]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    ours = ("Py", "_Py", "GOMP_", "omp_", "__kmpc", "_ITM_", "__cxa", "_ZN", "__gmon")
    names = {line.partition("@")[0] for line in listed.stdout.split()}
    plain = {name for name in names if not name.startswith(ours)}
    rest = {name.removeprefix("__").removesuffix("_chk") for name in plain}
    memory = {"malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "madvise"}
    memory |= {"memcpy", "memmove", "memset", "memcmp", "memchr"}
    text = {"strlen", "strcmp", "strncmp", "strchr", "strrchr", "snprintf", "vsnprintf"}
    mathematics = {"exp", "expf", "log", "logf", "log1p", "log1pf", "tanh", "tanhf", "fma", "fmaf"}
    clock = {"clock_gettime"}  # how long a slice of a call took: Ctrl-C is looked out for between
    guards = {"stack_chk_fail", "asan_init", "cpu_model", "cpu_indicator_init", "tls_get_addr"}
    assert rest <= memory | text | mathematics | clock | guards


# What the interpreter tells an audit hook of: https://docs.python.org/3/library/audit_events.html
WATCHED = """
    import sys
    EVENTS = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
              "urllib.", "http.", "ftplib.", "smtplib.", "pickle.", "webbrowser.")
    seen = []
    def hook(event, arguments):
        if event.startswith(EVENTS):
            seen.append((event, str(arguments)[:80]))
    import numpy as np
    import fastxent as fx
    from fastxent.backends import load
    sys.addaudithook(hook)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 7)), rng.integers(0, 7, 40)
    for name in ("cython", "numpy"):
        if load(name).why_not() is not None:
            continue
        with fx.use_backend(name):
            fx.cross_entropy_and_grad(logits, labels, aux=("lse",), label_smoothing=0.1)
            fx.softmax(logits)
            fx.binary_cross_entropy_with_logits_and_grad(logits, rng.random((40, 7)))
            fx.linear_cross_entropy_and_grad(logits, rng.normal(size=(7, 7)), labels)
            fx.softmax_backward(fx.softmax(logits), logits)
    if load("numba").why_not() is None:
        with fx.use_backend("numba"):
            fx.check_labels(labels, 7)
    import fastxent.cli, fastxent.on_disk, fastxent.selfcheck
    print(seen)
"""


def test_calls_open_no_connection_and_start_no_program():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "FASTXENT_NUMBA_CACHE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
