"""How many threads: the order of the limits, clamping, and the same bits for any number."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import fastxent as fx
from fastxent import threads

FIRST = next(name for name, why in fx.backends().items() if why is None)


def run(code, **environment):
    """Run code in a process of its own, with none of the thread variables but those given."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "NUMBA_NUM", "FASTXENT_"))
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


SHOW = "import fastxent as fx; fx.backends(); print(fx.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FASTXENT_NUM_THREADS": "1", "OMP_NUM_THREADS": "3"}, 1),
        ({"FASTXENT_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"NUMBA_NUM_THREADS": "5"}, 5),
        ({"FASTXENT_NUM_THREADS": "999", "NUMBA_NUM_THREADS": "7"}, 7),
    ],
)
def test_order_of_the_environment(environment, expected):
    assert run(SHOW, **environment) == str(expected)


def test_default_is_what_the_process_may_use():
    assert run(SHOW) == str(threads.available_cpus())


def test_affinity_counts():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + SHOW
    assert run(code) == "1"


def test_threadpoolctl_counts():
    pytest.importorskip("threadpoolctl")
    code = """
        import fastxent as fx
        import threadpoolctl
        fx.backends()
        with threadpoolctl.threadpool_limits(1):
            print(fx.get_num_threads())
    """
    reason = fx.backends()["cython"]
    if reason is not None:
        pytest.skip(f"no OpenMP to limit: {reason}")
    openmp = fx.show_config("dicts")["backends"]["cython"]["facts"]["OpenMP"]
    if "without" in openmp:
        pytest.skip(f"no OpenMP to limit: {openmp}")
    assert run(code) == "1"


def test_bad_environment_is_an_error_that_names_it():
    code = """
        import fastxent as fx
        import numpy as np
        for attempt in (fx.get_num_threads, lambda: fx.softmax(np.zeros((1000, 1000)))):
            try:
                attempt()
            except (ValueError, TypeError) as error:
                assert "FASTXENT_NUM_THREADS" in str(error), error
            else:
                raise SystemExit("no error")
    """
    run(code, FASTXENT_NUM_THREADS="0")
    run(code, FASTXENT_NUM_THREADS="two")
    run(code, FASTXENT_NUM_THREADS="2,x")
    run(code, FASTXENT_NUM_THREADS="\N{SUPERSCRIPT TWO}")


def test_set_num_threads():
    before = threads._process_limit
    try:
        fx.set_num_threads(1)
        assert fx.get_num_threads() == 1
        fx.set_num_threads(100_000)
        assert fx.get_num_threads() == threads.most_threads()
        for wrong in (0, -3):
            with pytest.raises(fx.OptionError, match="at least 1"):
                fx.set_num_threads(wrong)
        with pytest.raises(fx.DTypeError, match="num_threads"):
            fx.set_num_threads("2")
        assert fx.get_num_threads() == threads.most_threads()
    finally:
        threads._process_limit = before


def test_plan():
    assert threads.plan(None, 10, 400) == 1
    assert threads.plan(2, 10, 400) == 2
    assert threads.plan(10_000, 10, 400) == threads.most_threads()
    assert threads.plan(None, 1, 10**9) == fx.get_num_threads()
    assert threads.plan(None, 10**7, 10**7) == fx.get_num_threads()
    # a call of 25 us is worth two threads and no more
    before = threads._process_limit
    try:
        threads._process_limit = 64
        assert threads.plan(None, 1, 250_000) == 2
    finally:
        threads._process_limit = before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9000, 10), (70_000, 1), (100, 1000), (40, 5003), (3, 70001)])
def test_same_bits_for_any_number_of_threads(shape, dtype, backend):
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(shape) * 8).astype(dtype)
    labels = rng.integers(0, shape[1], shape[0])
    labels[::5] = -100
    weight = rng.random(shape[1])
    for target in (labels, rng.random(shape), labels % 3 == 0):
        if target.dtype == bool:
            target = np.broadcast_to(target[:, None], shape)
        results = []
        for num_threads in (1, 2, 5):
            options = {"num_threads": num_threads, "backend": backend}
            loss, grad = fx.cross_entropy_and_grad(
                logits, target, weight=weight, label_smoothing=0.1, **options
            )
            results.append(
                [
                    np.asarray(loss).tobytes(),
                    grad.tobytes(),
                    fx.softmax(logits, **options).tobytes(),
                    fx.log_softmax(logits, **options).tobytes(),
                    fx.logsumexp(logits, **options).tobytes(),
                ]
            )
        assert results[0] == results[1] == results[2]


def test_a_row_depends_on_itself_alone(backend):
    rng = np.random.default_rng(8)
    logits = rng.standard_normal((50, 1500)).astype(np.float32)
    labels = rng.integers(0, 1500, 50)
    losses, grad = fx.cross_entropy_and_grad(logits, labels, reduction="none", backend=backend)
    order = rng.permutation(50)
    permuted = fx.cross_entropy_and_grad(
        logits[order], labels[order], reduction="none", backend=backend
    )
    assert np.array_equal(permuted[0], losses[order])
    assert np.array_equal(permuted[1], grad[order])
    alone = fx.cross_entropy_and_grad(logits[7], labels[7], reduction="none", backend=backend)
    assert alone[0] == losses[7]
    assert np.array_equal(alone[1], grad[7])


def test_choice_of_backend_follows_the_context():
    seen = {}

    def worker():
        seen["worker"] = fx.backends() and _current()

    with fx.use_backend("numpy"):
        assert _current() == "numpy"
        thread = threading.Thread(target=worker)
        thread.start()
        thread.join()
        with fx.use_backend(FIRST):
            assert _current() == FIRST
        assert _current() == "numpy"
    assert _current() == FIRST
    assert seen["worker"] == FIRST
    fx.use_backend("numpy")
    assert _current() == "numpy"
    fx.use_backend(None)
    assert _current() == FIRST


def test_choice_of_backend_can_be_used_again_and_elsewhere():
    choice = fx.use_backend("numpy")
    for _ in range(2):
        with choice:
            assert _current() == "numpy"
        assert _current() == FIRST
    with pytest.raises(KeyError), choice:
        raise KeyError
    assert _current() == FIRST
    seen = []

    def worker():
        with choice:
            seen.append(_current())
        seen.append(_current())

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    assert seen == ["numpy", FIRST]
    for wrong, error in (("fortran", fx.OptionError), (3, fx.OptionError)):
        with pytest.raises(error, match="'cython'"):
            fx.use_backend(wrong)
    assert _current() == FIRST


def _current():
    from fastxent.backends import pick

    return pick(None).name
