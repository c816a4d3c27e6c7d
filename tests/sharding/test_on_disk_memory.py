"""fastxent.on_disk in processes that may not have as much memory as the file, or are broken off."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastxent as fx
from fastxent import on_disk

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the memory of a process is read from /proc"
)

CLASSES, ROWS, BUDGET = 2000, 8192, 6_000_000  # 66 MB of float32
SLACK = 12_000_000  # what NumPy and malloc keep beside

CHILD = """
import json, re, resource, sys
import numpy as np
import fastxent as fx
from fastxent import on_disk
from numpy.lib.format import open_memmap

def status(name):
    with open("/proc/self/status") as lines:
        return 1024 * int(re.search(name + r":\\s+(\\d+)", lines.read())[1])

logits, target, out, how, budget = sys.argv[1:]
small = np.zeros((64, 2000), np.float32)
fx.cross_entropy_and_grad(small, np.zeros(64, int))
before = status("VmRSS")
limit = status("VmSize") + 50_000_000
given, into = logits, out
if how == "map":
    given = np.load(logits, mmap_mode="r")
    into = open_memmap(out, "w+", given.dtype, given.shape)
else:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    refused = []
    for mode in (None, "r"):
        try:
            np.load(logits, mmap_mode=mode)
        except (MemoryError, OSError) as error:
            refused.append(type(error).__name__)
    assert len(refused) == 2, refused
labels = np.load(target)
loss, _ = on_disk.cross_entropy_and_grad(given, labels, out=into, memory_budget=int(budget))
print(json.dumps({"loss": float(loss), "growth": status("VmHWM") - before}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Logits in a file of 66 MB, class indices, and what the call in memory makes of them."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    pattern = rng.standard_normal((512, CLASSES), np.float32)
    paths = folder / "logits.npy", folder / "target.npy"
    mapped = np.lib.format.open_memmap(paths[0], "w+", np.float32, (ROWS, CLASSES))
    for start in range(0, ROWS, len(pattern)):
        mapped[start : start + len(pattern)] = np.roll(pattern, start)
    target = rng.integers(0, CLASSES, ROWS)
    np.save(paths[1], target)
    loss, grad = fx.cross_entropy_and_grad(mapped, target)
    return paths, loss, grad


@pytest.mark.parametrize("how", ["file", "map"])
def test_file_larger_than_memory(large, tmp_path, how):
    paths, loss, grad = large
    arguments = [*map(str, paths), str(tmp_path / "grad.npy"), how, str(BUDGET)]
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert np.float32(found["loss"]) == loss
    np.testing.assert_array_equal(np.load(tmp_path / "grad.npy", mmap_mode="r"), grad)
    # a window of a map is in memory twice: its pages, and the copy that is computed with
    windows = 1 if how == "file" else 3
    assert found["growth"] <= windows * BUDGET + SLACK


# What is started in the background may be told to ignore Ctrl-C, and Python then does.
INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from fastxent import on_disk
logits, out = sys.argv[1:]
target = np.zeros(np.load(logits, mmap_mode="r").shape[0], int)
on_disk.cross_entropy_and_grad(logits, target, out=out, memory_budget=400)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_broken_off(tmp_path, number):
    logits = np.random.default_rng(0).standard_normal((300_000, 100), np.float32)
    path, out = tmp_path / "logits.npy", tmp_path / "grad.npy"
    np.save(path, logits)
    out.write_bytes(b"what was here before")
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path), str(out)], stderr=subprocess.PIPE, text=True
    )
    while not any(one.stat().st_size for one in tmp_path.glob("grad.npy.*.part")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    child.send_signal(number)
    _, errors = child.communicate()
    assert child.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    left = list(tmp_path.glob("grad.npy.*.part"))
    assert len(left) == (number == signal.SIGKILL)
    assert out.read_bytes() == b"what was here before"
    np.testing.assert_array_equal(np.load(path), logits)


def test_disk_too_small(tmp_path):
    logits, target = np.zeros((100, 1000), np.float32), np.zeros(100, int)
    path, out = tmp_path / "logits.npy", tmp_path / "grad.npy"
    np.save(path, logits)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large"):
            on_disk.cross_entropy_and_grad(path, target, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.name for one in tmp_path.iterdir()] == ["logits.npy"]


def test_bad_label_before_anything_is_written(tmp_path):
    path, out = tmp_path / "logits.npy", tmp_path / "grad.npy"
    np.save(path, np.zeros((3, 5)))
    with pytest.raises(fx.LabelError, match=r"target\[2\] is 5"):
        on_disk.cross_entropy_and_grad(path, [0, 1, 5], out=out)
    with pytest.raises(fx.LabelError, match=r"target\[2\] is 5"):
        on_disk.cross_entropy_and_grad(path, [0, 1, 5], out=path)
    assert [one.name for one in tmp_path.iterdir()] == ["logits.npy"]
    assert not np.load(path).any()


def test_files_that_are_no_arrays(tmp_path):
    path, target = tmp_path / "logits.npy", [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        on_disk.cross_entropy(path, target)
    path.write_bytes(b"not an array")
    with pytest.raises(fx.DTypeError, match=r"cannot be read as a \.npy file"):
        on_disk.cross_entropy(path, target)
    np.save(path, np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(fx.DTypeError, match="Python objects"):
        on_disk.cross_entropy(path, target)
    np.save(path, np.zeros((3, 5), int))
    with pytest.raises(fx.DTypeError, match="logits has dtype int64"):
        on_disk.cross_entropy(path, target)
    np.save(path, np.zeros((3, 5)))
    os.truncate(path, os.path.getsize(path) - 1)
    with pytest.raises(fx.ShapeError, match="it is cut off"):
        on_disk.cross_entropy(path, target)
    with pytest.raises(fx.DTypeError, match="logits must be the path"):
        on_disk.cross_entropy([[0.0]], [0])


def test_options(tmp_path):
    path, target = tmp_path / "logits.npy", [0, 1, 2]
    np.save(path, np.zeros((3, 5)))
    with pytest.raises(fx.OptionError, match="at least 40 bytes"):
        on_disk.cross_entropy(path, target, memory_budget=39)
    with pytest.raises(fx.OptionError, match="progress must be True, False or None"):
        on_disk.cross_entropy(path, target, progress=2)
    mapped = np.load(path, mmap_mode="r")
    place = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (3, 5))
    for out, error, words in (
        (mapped, fx.OutputError, "read-only"),
        (place, fx.DTypeError, "out needs dtype float64"),
        (np.zeros((3, 4)), fx.ShapeError, "out needs shape"),
        (None, fx.DTypeError, "out must be the path"),
    ):
        with pytest.raises(error, match=words):
            on_disk.cross_entropy_and_grad(mapped, target, out=out)


def test_bar(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich draws the bar")
    logits = np.zeros((3, 5))
    on_disk.cross_entropy(logits, [0, 1, 2])
    assert capsys.readouterr().err == ""
    on_disk.cross_entropy(logits, [0, 1, 2], progress=True)
    assert "cross-entropy" in capsys.readouterr().err
    from fastxent.on_disk import progress

    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    on_disk.cross_entropy(logits, [0, 1, 2], memory_budget=40)
    assert "cross-entropy" in capsys.readouterr().err
    on_disk.cross_entropy(logits, [0, 1, 2], progress=False)
    assert capsys.readouterr().err == ""
    for module in ("rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, module, None)
    on_disk.cross_entropy(logits, [0, 1, 2])
    with pytest.raises(ImportError, match="pip install rich"):
        on_disk.cross_entropy(logits, [0, 1, 2], progress=True)
