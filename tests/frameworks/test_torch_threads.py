"""Threads of fastxent.torch: PyTorch's limit, and the workers of a DataLoader."""

import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent import threads  # noqa: E402
from fastxent.backends import load  # noqa: E402
from fastxent.torch import binary_cross_entropy_with_logits, cross_entropy, softmax  # noqa: E402

LARGE = (2048, 1000)


@pytest.fixture
def limits(monkeypatch):
    """Eight CPUs for everybody, unless somebody says otherwise."""
    monkeypatch.setattr(threads, "machine_cpus", lambda: 8)
    monkeypatch.setattr(threads, "_own_limit", lambda: None)
    monkeypatch.setattr(threads, "_openmp", lambda: 8)
    monkeypatch.setattr(threads, "_process_limit", None)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """Threads that kernels were asked to use."""
    used = []
    backend = type(load("cython"))
    whole = {name: getattr(backend, name) for name in ("forward", "mean_loss", "softmax", "binary")}

    def of_problem(name):
        def spied(self, problem, out):
            used.append(problem.num_threads)
            return whole[name](self, problem, out)

        return spied

    def mean_loss(self, logits, target, skip, grad, num_threads):
        used.append(num_threads)
        return whole["mean_loss"](self, logits, target, skip, grad, num_threads)

    for name in ("forward", "softmax", "binary"):
        monkeypatch.setattr(backend, name, of_problem(name))
    monkeypatch.setattr(backend, "mean_loss", mean_loss)
    return used


def call_all(shape, **options):
    logits, labels = torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64)
    cross_entropy(logits, labels, **options)
    cross_entropy(logits, labels, label_smoothing=0.1, **options)
    softmax(logits, 1, **options)
    binary_cross_entropy_with_logits(logits, logits.sigmoid(), **options)


@pytest.mark.usefixtures("limits")
def test_at_most_the_threads_of_pytorch(asked):
    call_all(LARGE)
    assert asked == [4] * 4
    asked.clear()
    torch.set_num_threads(1)
    call_all(LARGE)
    assert asked == [1] * 4


@pytest.mark.usefixtures("limits")
def test_a_limit_of_fastxent_below_that_of_pytorch(asked):
    fastxent.set_num_threads(3)
    call_all(LARGE)
    assert asked == [3] * 4


@pytest.mark.usefixtures("limits")
def test_what_is_asked_for_goes_first_and_small_calls_take_one(asked):
    call_all(LARGE, num_threads=6)
    assert asked == [6] * 4
    asked.clear()
    call_all((8, 10))
    assert asked == [1] * 4


@pytest.mark.usefixtures("limits")
def test_one_size_of_the_team(asked):
    """All threads or one: libgomp starts and ends threads when the size changes."""
    for rows in (1, 8, 40, 100, 400, 2048):
        call_all((rows, 1000))
    assert set(asked) == {1, 4}


SCRIPT = """
import torch
from torch.utils.data import DataLoader, Dataset

from fastxent.torch import cross_entropy
from fastxent.torch.arrays import team


class Losses(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        logits = torch.randn(600, 1000, generator=generator, requires_grad=True)
        target = torch.randint(1000, (600,), generator=generator)
        loss = cross_entropy(logits, target)
        loss.backward()
        torch.nn.functional.log_softmax(logits, 1)
        bits = logits.grad.view(torch.int32).sum()
        return loss.detach(), bits, team(None, 600, logits.nbytes)


if __name__ == "__main__":
    dataset = Losses()
    expected = [dataset[at] for at in range(4)]  # OpenMP has a team before the workers start
    for context in {contexts}:
        loader = DataLoader(
            dataset, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=100
        )
        for found, truth in zip(loader, expected, strict=True):
            torch.testing.assert_close(found[:2], truth[:2], rtol=0, atol=0)
            print(context, "team of", found[2])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc shows")
def test_workers_of_a_data_loader(tmp_path):
    """Forked or spawned, the workers come back, with the same bits and one thread each."""
    script = tmp_path / "workers.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("{contexts}", "('fork', 'spawn')"))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["fork team of 1"] * 4 + ["spawn team of 1"] * 4
