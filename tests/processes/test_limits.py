"""What limits the threads of a process, in real processes: the limit, and the threads used."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

import fastxent as fx

PROGRAM = Path(__file__).parent / "limited.py"
SCHEDULER = Path("/proc/self/schedstat")
SECONDS = 300

pytestmark = [
    pytest.mark.skipif(not SCHEDULER.exists(), reason=f"no {SCHEDULER}: Linux has it"),
    # JAX, where another test has loaded it, warns of the fork before a function runs in a child
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
]


def answers(code="report()", before=None, **environment):
    """What `limited.py` prints, in a process with none of the thread variables but those given."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "NUMBA_NUM", "FASTXENT_NUM"))
    }
    places = [str(PROGRAM.parent), str(Path(fx.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), textwrap.dedent(code)],
        env=clean | {"PYTHONPATH": os.pathsep.join(places)} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=before,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def everybody(limit, used=None):
    """The answer where every backend uses as many threads as the limit says."""
    able = [name for name in ("cython", "numba") if fx.backends()[name] is None]
    return {"limit": limit} | dict.fromkeys(able, limit if used is None else used)


def one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        ("fx.set_num_threads(3)\nreport()", {"NUMBA_NUM_THREADS": "6"}),
        ("report()", {"FASTXENT_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "6"}),
        ("report()", {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "6"}),
        ("report()", {"NUMBA_NUM_THREADS": "3"}),
    ],
    ids=["set_num_threads", "FASTXENT_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"],
)
def test_limits(code, environment):
    assert answers(code, **environment) == [everybody(3)]


def test_num_threads_of_a_call():
    environment = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "6"}
    assert answers("report(num_threads=4)\nreport()", **environment) == [
        everybody(2, 4),
        everybody(2),
    ]


def test_threadpoolctl_limits_until_its_context_is_left():
    pytest.importorskip("threadpoolctl")
    if fx.backends()["cython"] is not None:
        pytest.skip(f"no OpenMP to limit: {fx.backends()['cython']}")
    code = """
        import threadpoolctl
        fx.backends()  # it limits the libraries that are loaded
        with threadpoolctl.threadpool_limits(1):
            report()
        report()
    """
    environment = {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "6"}
    assert answers(code, **environment) == [everybody(1), everybody(3)]


def test_affinity():
    assert answers(before=one_cpu) == [everybody(1)]
    # given later: what a team had before is not needed any more
    later = "report(num_threads=2)\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert answers(later + "report()", NUMBA_NUM_THREADS="1")[-1] == everybody(1)


@pytest.fixture
def quota():
    """A cgroup of version 1 of its own; gives a function that lets a process join it."""
    root = Path("/sys/fs/cgroup/cpu")
    group = root / f"fastxent-test-{uuid.uuid4().hex[:8]}"
    if not (root / "cpu.cfs_quota_us").exists():
        pytest.skip("no cgroups of version 1 to make one of")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made in {root}: {error}")

    def joins(cpus):
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(int(cpus * 100_000)))
        return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))

    yield joins
    group.rmdir()


def test_a_cgroup_quota(quota):
    assert answers(before=quota(1)) == [everybody(1)]
    assert answers(before=quota(0.5)) == [everybody(1)]
    if len(os.sched_getaffinity(0)) > 1:
        assert answers(before=quota(1.5)) == [everybody(2)]


LOKY = """
    from joblib import Parallel, delayed, parallel_config
    from limited import answer
    with parallel_config("loky", n_jobs=2, inner_max_num_threads={inner}):
        for found in Parallel()(delayed(answer)() for _ in range(2)):
            print(json.dumps(found))
"""


def test_workers_of_loky():
    pytest.importorskip("joblib")
    assert answers(LOKY.format(inner=1)) == [everybody(1)] * 2
    assert answers(LOKY.format(inner=3)) == [everybody(3)] * 2


def test_workers_of_a_pytorch_data_loader():
    pytest.importorskip("torch")
    code = """
        import torch
        from limited import answer

        class Answers(torch.utils.data.Dataset):
            def __len__(self):
                return 2
            def __getitem__(self, row):
                return answer()

        loader = torch.utils.data.DataLoader(
            Answers(), batch_size=None, num_workers=2, multiprocessing_context="fork"
        )
        answer()
        for found in loader:
            print(json.dumps(found))
    """
    assert answers(code) == [everybody(1)] * 2


# Four callers: three are inside of a call that is worth a team of four when the fourth comes.
NESTED = """
    import threading
    from limited import answer
    from fastxent import threads
    inside, leave = threading.Barrier(4), threading.Event()

    def call(number):
        if number == 3:
            inside.wait(60)
            found = [answer(), answer(num_threads=4)]
            leave.set()
            return found
        with threads.Team(threads.Chosen(4)):
            inside.wait(60)
            leave.wait(60)
        return None
"""
WAYS = {
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, range(4)))
    """,
    "joblib": """
        import joblib
        found = joblib.Parallel(n_jobs=4, backend="threading")(
            joblib.delayed(call)(number) for number in range(4)
        )
    """,
    "dask": """
        import dask
        found = dask.compute(
            *map(dask.delayed(call), range(4)), scheduler="threads", num_workers=4
        )
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_beside_other_callers_a_call_stays_on_its_thread(way):
    if way != "threads":
        pytest.importorskip(way)
    parts = NESTED, WAYS[way], "print(json.dumps(found[3][0]), json.dumps(found[3][1]), sep='\\n')"
    code = "".join(map(textwrap.dedent, parts))
    found = answers(code, OMP_NUM_THREADS="4", NUMBA_NUM_THREADS="4")
    assert found == [everybody(4, 1), everybody(4)]


REGION = """
#include <omp.h>
void each(void (*call)(int), int threads) {
#pragma omp parallel num_threads(threads)
    call(omp_get_thread_num());
}
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_inside_an_openmp_region_a_call_stays_on_its_thread(tmp_path, layer):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile a parallel region with")
    source, library = tmp_path / "region.c", tmp_path / "region.so"
    source.write_text(REGION)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-fopenmp", "-o", library, source], check=True, timeout=60
    )
    code = f"""
        import ctypes, threading
        from limited import answer
        found, turns = [], threading.Lock()

        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def call(thread):
            with turns:
                found.append(answer() if thread else None)

        ctypes.CDLL({str(library)!r}).each(call, 2)
        [print(json.dumps(one)) for one in found if one]
    """
    settings = {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "3", "NUMBA_THREADING_LAYER": layer}
    [found] = answers(code, **settings)
    assert found == everybody(3, 1)


def test_set_num_threads_from_many_threads():
    code = """
        import threading
        barrier, seen = threading.Barrier(16), set()
        def setter(number):
            barrier.wait()
            for _ in range(2000):
                fx.set_num_threads(number)
                seen.add(fx.get_num_threads())
        setters = [threading.Thread(target=setter, args=(1 + i % 4,)) for i in range(16)]
        [thread.start() for thread in setters]
        [thread.join() for thread in setters]
        assert seen <= {1, 2, 3, 4}, seen
        fx.set_num_threads(3)
        report()
    """
    assert answers(code, NUMBA_NUM_THREADS="6") == [everybody(3)]
