"""fastxent.on_disk: how much memory windows take, and what becomes of files."""

import contextlib
import os
import tracemalloc

import numpy as np
import pytest

import fastxent as fx
from fastxent import on_disk
from fastxent.on_disk import files, passes

ROWS, CLASSES, BUDGET = 1000, 500, 100_000  # 2 MB of float32
SLACK = 50_000  # objects of Python, and 8 bytes a row for labels


def peak(call):
    """Bytes that NumPy and Python take at most during a call; the second, as modules stay."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8"])
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_memory_is_that_of_windows_in_any_byte_order(tmp_path, dtype, soft):
    paths = tmp_path / "logits.npy", tmp_path / "target.npy"
    values = np.full((ROWS, CLASSES), 1 / CLASSES, dtype)
    np.save(paths[0], values)
    np.save(paths[1], values if soft else np.zeros(ROWS, ">i8"))
    asked = {"out": tmp_path / "out.npy", "memory_budget": BUDGET}
    assert peak(lambda: on_disk.cross_entropy_and_grad(*paths, **asked)) < BUDGET + SLACK


def test_memory_of_probabilities_that_are_an_array(tmp_path):
    path = tmp_path / "logits.npy"
    np.save(path, np.zeros((ROWS, CLASSES), np.float32))
    target = np.full((ROWS, CLASSES), 1 / CLASSES, ">f4")
    assert peak(lambda: on_disk.cross_entropy(path, target, memory_budget=BUDGET)) < BUDGET + SLACK


def test_foreign_byte_order_cannot_be_written_over(tmp_path):
    path = tmp_path / "logits.npy"
    np.save(path, np.zeros((3, 5), ">f4"))
    before = path.read_bytes()
    with pytest.raises(fx.DTypeError, match="needs dtype float32 in native byte order, not >f4"):
        on_disk.cross_entropy_and_grad(path, [0, 1, 2], out=path)
    assert path.read_bytes() == before


def test_default_budget_holds_a_row_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "MEMORY_BUDGET", 100)
    logits = np.random.default_rng(0).standard_normal((3, 50))  # 400 bytes a row
    np.save(tmp_path / "logits.npy", logits)
    assert on_disk.cross_entropy(tmp_path / "logits.npy", [0, 1, 2]) == pytest.approx(
        fx.cross_entropy(logits, [0, 1, 2]), rel=1e-15
    )


@pytest.mark.parametrize("budget", [np.inf, np.nan, 0, -1.0, 39, "1", [100]])
def test_budget_is_checked_as_that_of_a_linear_layer(budget):
    """The same message but for what is needed: one check for both."""
    with pytest.raises((fx.OptionError, fx.DTypeError)) as linear:
        fx.linear_cross_entropy(
            np.zeros((3, 5)), np.zeros((500, 5)), [0, 1, 2], memory_budget=budget
        )
    with pytest.raises(linear.type) as found:
        on_disk.cross_entropy(np.zeros((3, 5)), [0, 1, 2], memory_budget=budget)
    assert str(found.value).split("at least")[0] == str(linear.value).split("at least")[0]


def test_labels_are_read_and_not_mapped(tmp_path, monkeypatch):
    """A mapped file that somebody cuts off would end the process."""
    paths = tmp_path / "logits.npy", tmp_path / "target.npy"
    logits, target = np.zeros((4, 3, 5)), np.asfortranarray(np.arange(12).reshape(4, 3) % 5)
    np.save(paths[0], logits)
    np.save(paths[1], target)

    def cut_off(self, backend):
        os.truncate(paths[1], 200)
        return with_labels(self, backend)

    with_labels = fx.problem.Problem.with_labels
    monkeypatch.setattr(fx.problem.Problem, "with_labels", cut_off)
    assert on_disk.cross_entropy(*paths) == fx.cross_entropy(logits, target)


def test_label_of_one_row(tmp_path):
    np.save(tmp_path / "logits.npy", np.arange(5.0))
    np.save(tmp_path / "target.npy", np.int64(3))
    found = on_disk.cross_entropy(tmp_path / "logits.npy", tmp_path / "target.npy")
    assert found == fx.cross_entropy(np.arange(5.0), 3)


def test_out_is_no_directory(tmp_path, monkeypatch):
    path, folder = tmp_path / "logits.npy", tmp_path / "folder"
    np.save(path, np.zeros((3, 5)))
    folder.mkdir()
    monkeypatch.setattr(passes, "Windows", None)  # nothing is computed
    with pytest.raises(fx.OutputError, match=r"folder: give the path of a file in it"):
        on_disk.cross_entropy_and_grad(path, [0, 1, 2], out=folder)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "logits.npy"]


def test_files_that_killed_processes_left_behind(tmp_path):
    path, out = tmp_path / "logits.npy", tmp_path / "grad.npy"
    np.save(path, np.zeros((3, 5)))
    left = tmp_path / f"grad.npy.{os.getpid()}.part"
    left.write_bytes(b"of a process of the same number")
    on_disk.cross_entropy_and_grad(path, [0, 1, 2], out=out)
    assert left.read_bytes() == b"of a process of the same number"
    assert sorted(tmp_path.iterdir()) == sorted([path, out, left])


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path, out = tmp_path / "logits.npy", tmp_path / "grad.npy"
    np.save(path, np.zeros((3, 5)))
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*given, name=name, real=real):
            done.append(name)
            return real(*given)

        monkeypatch.setattr(files.os, name, noted)
    on_disk.cross_entropy_and_grad(path, [0, 1, 2], out=out)
    assert done == ["fsync", "replace"]
    with contextlib.suppress(AttributeError):  # who may read it is as for any new file
        mask = os.umask(0)
        os.umask(mask)
        assert out.stat().st_mode & 0o777 == 0o666 & ~mask
