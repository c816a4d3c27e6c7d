"""fastxent.dask: what is fixed when a graph is built, what is checked later, and memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load

dask = pytest.importorskip("dask", reason="dask is not installed: fastxent.dask needs it")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
fxd = pytest.importorskip("fastxent.dask")

WAYS = pytest.mark.parametrize("chunks", [(2, 5), (2, 3)], ids=["whole rows", "split classes"])


def blocks_of(chunks, rows=4):
    logits = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    return logits, da.from_array(logits, chunks=chunks)


def lazily(values):
    return da.from_array(np.asarray(values, dtype=float), chunks=2)


@WAYS
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_lazy_sample_weight_is_checked(chunks, soft, reduction, bad):
    _, blocks = blocks_of(chunks)
    target = np.full((4, 5), 0.2) if soft else [0, 1, 2, 3]
    weight = lazily([1.0, 1.0, bad, 1.0])
    results = fxd.cross_entropy_and_grad(blocks, target, sample_weight=weight, reduction=reduction)
    for result in results:
        with pytest.raises(fx.OptionError, match="sample_weight"):
            result.compute(scheduler="synchronous")


@WAYS
@pytest.mark.parametrize("bad", [-4.0, np.nan, np.inf])
def test_lazy_normalizer_is_checked(chunks, bad):
    _, blocks = blocks_of(chunks)
    normalizer = da.from_array(np.array(bad), chunks=())
    for result in fxd.cross_entropy_and_grad(blocks, [0, 1, 2, 3], normalizer=normalizer):
        with pytest.raises(fx.OptionError, match="normalizer must be finite and not negative"):
            result.compute(scheduler="synchronous")


@WAYS
def test_backend_is_refused_when_the_graph_is_built(chunks):
    _, blocks = blocks_of(chunks)
    for call in (fxd.cross_entropy, fxd.cross_entropy_and_grad):
        with pytest.raises(fx.OptionError, match="'abacus'"):
            call(blocks, [0, 1, 2, 3], backend="abacus")
    if chunks[1] == 5:
        for call in (fxd.softmax, fxd.log_softmax):
            with pytest.raises(fx.OptionError, match="'abacus'"):
                call(blocks, backend="abacus")


@WAYS
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_backend_is_that_around_the_call(chunks, scheduler, monkeypatch):
    _, blocks = blocks_of(chunks)
    ran = []
    for name in ("cython", "numba", "numpy"):
        backend = type(load(name))
        for verb in ("forward", "partial"):
            real = getattr(backend, verb)

            def noted(self, *given, name=name, real=real):
                ran.append(name)
                return real(self, *given)

            monkeypatch.setattr(backend, verb, noted)
    with fx.use_backend("numpy"):
        loss = fxd.cross_entropy(blocks, [0, 1, 2, 3])
    loss.compute(scheduler=scheduler)
    assert set(ran) == {"numpy"}
    ran.clear()
    chosen = next(name for name, reason in fx.backends().items() if reason is None)
    loss = fxd.cross_entropy(blocks, [0, 1, 2, 3])
    with fx.use_backend("numpy"):
        loss.compute(scheduler=scheduler)
    assert set(ran) == {chosen}


@WAYS
def test_num_threads(chunks):
    logits, blocks = blocks_of(chunks)
    expected = fx.cross_entropy(logits, [0, 1, 2, 3])
    for count in (None, 1, 3):
        loss = fxd.cross_entropy(blocks, [0, 1, 2, 3], num_threads=count)
        np.testing.assert_array_max_ulp(loss.compute(scheduler="synchronous"), expected, 4)
    with pytest.raises(fx.OptionError, match="num_threads must be at least 1"):
        fxd.cross_entropy(blocks, [0, 1, 2, 3], num_threads=0)


ROWS, CLASSES = 16_384, 2000  # 131 MB of float32
LIMIT = 50_000_000  # bytes beside what the modules take

CHILD = """
import json, os, re, resource, sys
import numpy as np
import dask
import dask.array as da
import fastxent as fx
import fastxent.dask as fxd

class File:
    # slices of rows and columns of a .npy file, read and written where they are
    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, path, shape, begin):
        self.file, self.shape, self.begin = os.open(path, os.O_RDWR), shape, begin

    def place(self, row, first):
        return self.begin + 4 * (row * self.shape[1] + first)

    def __getitem__(self, box):
        rows, columns = (along.indices(size) for along, size in zip(box, self.shape))
        values = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
        for values_of_row, row in zip(values, range(*rows)):
            os.preadv(self.file, [values_of_row], self.place(row, columns[0]))
        return values

    def __setitem__(self, box, values):
        rows, columns = (along.indices(size) for along, size in zip(box, self.shape))
        for values_of_row, row in zip(np.ascontiguousarray(values), range(*rows)):
            os.pwrite(self.file, values_of_row, self.place(row, columns[0]))

def status(name):
    with open("/proc/self/status") as lines:
        return 1024 * int(re.search(name + r":\\s+(\\d+)", lines.read())[1])

def run(logits, labels, out, chunks):
    blocks = da.from_array(logits, chunks=chunks)
    loss, grad = fxd.cross_entropy_and_grad(blocks, labels)
    stored = da.store(grad, out, lock=False, compute=False)
    return dask.compute(loss, stored, scheduler="synchronous")[0]

path, labels, *outs, begin, limit = sys.argv[1:]
labels, begin, limit = np.load(labels), int(begin), int(limit)
shape = len(labels), 2000
for chunks in ((32, 2000), (32, 1024)):  # what is loaded on the way
    small = np.zeros((64, 2000), np.float32)
    run(small, labels[:64], np.empty_like(small), chunks)
before, room = status("VmRSS"), status("VmSize") + limit
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    np.load(path)
    raise SystemExit("the file fits into the limit")
except MemoryError:
    pass
losses = []
for out, classes in zip(outs, (2000, 1024)):
    into = File(out, shape, begin)
    losses.append(float(run(File(path, shape, begin), labels, into, (1024, classes))))
print(json.dumps({"losses": losses, "growth": status("VmHWM") - before}))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the memory of a process is read from /proc"
)
def test_file_larger_than_memory(tmp_path):
    """Whole rows, then split classes; the gradient is stored block by block."""
    rng = np.random.default_rng(0)
    pattern = rng.standard_normal((512, CLASSES), np.float32)
    logits = np.tile(pattern, (ROWS // len(pattern), 1))
    target = rng.integers(0, CLASSES, ROWS)
    paths = [tmp_path / name for name in ("logits.npy", "target.npy", "rows.npy", "split.npy")]
    np.save(paths[0], logits)
    np.save(paths[1], target)
    begin = paths[0].stat().st_size - logits.nbytes
    for path in paths[2:]:
        path.write_bytes(paths[0].read_bytes()[:begin])
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths), str(begin), str(LIMIT)],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    loss, grad = fx.cross_entropy_and_grad(logits, target)
    assert [np.float32(one) for one in found["losses"]] == [loss, loss]
    for path in paths[2:]:
        np.testing.assert_array_equal(np.load(path, mmap_mode="r"), grad)
    assert found["growth"] <= LIMIT
