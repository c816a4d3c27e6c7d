"""What a call gets while calls of other threads are at work, and what the process may use."""

import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import fastxent as fx
from fastxent import cpus, threads
from fastxent.backends import load

SECONDS = 60


@contextmanager
def at_work(num_threads):
    """Another thread inside a call that takes so many."""
    inside, leave = threading.Event(), threading.Event()

    def call():
        with threads.Team(num_threads):
            inside.set()
            leave.wait(SECONDS)

    caller = threading.Thread(target=call)
    caller.start()
    assert inside.wait(SECONDS)
    try:
        yield
    finally:
        leave.set()
        caller.join(SECONDS)


def taken(num_threads):
    with threads.Team(num_threads) as size:
        return size


def test_alone_a_call_gets_what_was_chosen():
    assert taken(threads.Chosen(8)) == 8
    assert type(taken(threads.Chosen(8))) is int
    assert not threads._at_work


@pytest.mark.parametrize(("others", "size"), [(1, 8), (3, 8), (4, 1), (8, 1), (64, 1)])
def test_beside_others_a_call_gets_all_or_stays_on_its_thread(others, size):
    with at_work(others):
        assert taken(threads.Chosen(8)) == size
        assert taken(8) == 8, "asked for"
    assert taken(threads.Chosen(8)) == 8


def test_calls_that_stayed_on_their_thread_count_too():
    with at_work(threads.Chosen(4)), at_work(threads.Chosen(4)), at_work(threads.Chosen(4)):
        assert sorted(threads._at_work.values()) == [1, 1, 4]


def test_what_an_interrupted_call_left_behind_is_gone_with_the_next():
    threads._at_work[threading.get_ident()] = 8
    assert taken(threads.Chosen(8)) == 8
    assert not threads._at_work


def test_a_smaller_number_stays_chosen():
    assert threads.at_most(threads.Chosen(8), 3) == 3
    assert isinstance(threads.at_most(threads.Chosen(8), 3), threads.Chosen)
    assert isinstance(threads.at_most(threads.Chosen(8), 9), threads.Chosen)
    for plain in (threads.at_most(8, 3), threads.at_most(threads.Chosen(8), 1)):
        assert type(plain) is int
    assert threads.plan(threads.Chosen(5), 1, 1) == 5


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(threads, "_process_limit", 4)
    monkeypatch.setattr(threads, "machine_cpus", lambda: 4)


def verbs(num_threads):
    """Calls that go through each verb of a backend, by name."""
    x = np.random.default_rng(0).standard_normal((600, 700)).astype(np.float32)
    y = np.arange(600)
    p = fx.softmax(x)
    options = {"num_threads": num_threads}
    stats = fx.partial_stats(x, p, class_offset=0, num_classes=700)
    whole = {"class_offset": 0, "num_classes": 700}
    return {
        "mean_loss": lambda: fx.cross_entropy_and_grad(x, y, **options),
        "forward": lambda: fx.cross_entropy_and_grad(x, p, **options),
        "check_labels and forward": lambda: fx.cross_entropy(x, y, z_loss=1e-4, **options),
        "softmax": lambda: fx.softmax(x, **options),
        "softmax_backward": lambda: fx.softmax_backward(p, x, **options),
        "binary": lambda: fx.binary_cross_entropy_with_logits(x, p, **options),
        "partial": lambda: fx.partial_stats(x, p, **whole, **options),
        "merge and partial_backward": lambda: fx.grad_from_stats(x, p, stats, **whole, **options),
    }


def bits(result):
    """Of a number, an array or several of them."""
    if isinstance(result, fx.ShardStats):
        result = result.max, result.sum, result.dot
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part).tobytes() for part in parts]


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
@pytest.mark.parametrize("verb", verbs(1))
def test_every_verb_is_counted(verb, backend, monkeypatch):
    sizes = []

    class Noted(threads.Team):
        def __enter__(self):
            sizes.append(super().__enter__())
            return sizes[-1]

    monkeypatch.setattr(threads, "Team", Noted)
    with fx.use_backend(backend):
        call, asking, alone = verbs(None)[verb], verbs(4)[verb], verbs(1)[verb]
        sizes.clear()
        call()
        assert sizes == [4] * (1 + verb.count(" and "))
        with at_work(4):
            sizes.clear()
            beside = call()
            assert set(sizes) == {1}
            sizes.clear()
            asking()
            assert set(sizes) == {4}
        sizes.clear()
        expected = alone()
        assert not sizes, "small calls are not counted"
    assert bits(beside) == bits(expected)


@pytest.mark.parametrize("name", ["cython", "numba"])
def test_kernels_get_the_size_of_the_team(name, monkeypatch):
    """The number that a verb sees is what its team is."""
    backend = load(name)
    if backend.why_not() is not None:
        pytest.skip(backend.why_not())
    seen = []

    whole = type(backend).forward.__wrapped__
    assert whole is not type(backend).forward
    x, y = np.zeros((600, 700), np.float32), np.zeros(600, int)

    def spied(self, problem, out):
        seen.append(problem.num_threads)
        whole(self, problem, out)

    monkeypatch.setattr(type(backend), "forward", threads.counted(spied))
    options = {"backend": name, "z_loss": 1e-4}
    with at_work(64):
        fx.cross_entropy(x, y, num_threads=threads.Chosen(2), **options)
        fx.cross_entropy(x, y, num_threads=2, **options)
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", None), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1)],
)
def test_cgroup_quota(text, expected, tmp_path):
    process = tmp_path / "cgroup"
    process.write_text("0::/\n")
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpus.cgroup_cpus(tmp_path, process) == expected


def test_cgroup_quota_of_an_inner_group_and_of_those_above(tmp_path):
    process = tmp_path / "cgroup"
    process.write_text("1:name=systemd:/other\n0::/user.slice/job.scope\n")
    inner = tmp_path / "user.slice" / "job.scope"
    inner.mkdir(parents=True)
    assert cpus.cgroup_cpus(tmp_path, process) is None
    (inner / "cpu.max").write_text("300000 100000")
    assert cpus.cgroup_cpus(tmp_path, process) == 3
    (inner.parent / "cpu.max").write_text("200000 100000")
    assert cpus.cgroup_cpus(tmp_path, process) == 2
    (tmp_path / "cpu.max").write_text("max 100000")
    assert cpus.cgroup_cpus(tmp_path, process) == 2


def test_quota_limits_the_threads(monkeypatch):
    monkeypatch.setattr(cpus, "quota_cpus", lambda: 1)
    assert cpus.available_cpus() == 1
    monkeypatch.setattr(cpus, "quota_cpus", lambda: 10_000)
    assert cpus.available_cpus() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("300000", 3), ("250000", 3)])
def test_cgroup_quota_of_version_1(quota, expected, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    missing = tmp_path / "missing"
    assert cpus.cgroup_cpus(tmp_path, missing) == expected
    assert cpus.cgroup_cpus(tmp_path / "cpu", missing) is None


def test_cgroup_quota_of_version_1_of_an_inner_group(tmp_path):
    def give(group, quota):
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")

    process = tmp_path / "cgroup"
    process.write_text("4:memory:/elsewhere\n3:cpu,cpuacct:/jobs/mine\n0::/\n")
    give(tmp_path / "cpu", -1)
    give(tmp_path / "cpu" / "jobs", -1)
    assert cpus.cgroup_cpus(tmp_path, process) is None
    give(tmp_path / "cpu" / "jobs" / "mine", 250_000)
    assert cpus.cgroup_cpus(tmp_path, process) == 3
    give(tmp_path / "cpu" / "jobs", 100_000)
    assert cpus.cgroup_cpus(tmp_path, process) == 1
    process.write_text("3:cpu,cpuacct:/of/the/host\n")  # a container: its own group is the root
    assert cpus.cgroup_cpus(tmp_path, process) is None
    give(tmp_path / "cpu", 200_000)
    assert cpus.cgroup_cpus(tmp_path, process) == 2
