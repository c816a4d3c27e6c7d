"""fastxent.on_disk beside the call in memory: the same bits whatever the windows."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import open_memmap

import fastxent as fx
from fastxent import on_disk
from fastxent.on_disk.windows import windows_of

CASES = {
    "plain": ((10, 7), -1, "C", {}),
    "classes first": ((7, 10), 0, "C", {"softcap": 3.0}),
    "column order": ((10, 7), -1, "F", {"logit_scale": 2.0}),
    "image": ((4, 5, 6, 3), 1, "C", {"label_smoothing": 0.1, "weight": np.arange(1.0, 6.0)}),
    "image in column order": ((4, 5, 6, 3), 2, "F", {"z_loss": 0.1}),
    "one row": ((7,), -1, "C", {}),
    "no rows": ((0, 7), -1, "C", {}),
    "weighted rows": ((10, 7), -1, "C", {"sample_weight": np.linspace(0.1, 2.0, 10)}),
    "half": ((10, 7), -1, "C", {"dtype": np.float16}),
    "double": ((10, 7), -1, "C", {"dtype": np.float64}),
    "foreign": ((10, 7), -1, "C", {"dtype": np.dtype(">f4")}),
}
REDUCTIONS = ("mean", "sum", "none")


def arrays(shape, axis=-1, order="C", soft=False, dtype=np.float32):
    rng = np.random.default_rng(0)
    logits = np.asarray((3 * rng.normal(size=shape)).astype(dtype), order=order)
    axis %= len(shape)
    rows = shape[:axis] + shape[axis + 1 :]
    if soft:
        target = rng.dirichlet(np.ones(shape[axis]), rows).astype(np.float32)
        return logits, np.moveaxis(target, -1, axis)
    target = rng.integers(0, shape[axis], rows)
    if target.size > 2:
        target.flat[2] = -100
    return logits, target


def saved(folder, **named):
    paths = {name: folder / f"{name}.npy" for name in named}
    for name, array in named.items():
        np.save(paths[name], array)
    return paths


def assert_same_loss(found, expected):
    assert type(found) is type(expected)
    np.testing.assert_array_max_ulp(np.asarray(found), np.asarray(expected), 1)


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("name", CASES)
def test_bits_are_those_in_memory(tmp_path, name, soft):
    shape, axis, order, options = CASES[name]
    options = dict(options)
    dtype = options.pop("dtype", np.float32)
    logits, target = arrays(shape, axis, order, soft, dtype)
    paths, out = saved(tmp_path, logits=logits, target=target), tmp_path / "grad.npy"
    row = shape[axis] * (logits.itemsize + (4 if soft else 0))
    for reduction in REDUCTIONS:
        asked = options | {"axis": axis, "reduction": reduction}
        expected = fx.cross_entropy_and_grad(logits, target, **asked)
        for rows in (1, 4, 1000):
            asked["memory_budget"] = rows * row
            loss, given = on_disk.cross_entropy_and_grad(*paths.values(), out=out, **asked)
            assert given is out
            grad = np.load(out)
            np.testing.assert_array_equal(grad, expected[1], strict=True)
            assert grad.flags.f_contiguous == expected[1].flags.f_contiguous
            assert_same_loss(loss, expected[0])
            if reduction == "none" or "sample_weight" in options:
                np.testing.assert_array_equal(loss, expected[0])
            np.testing.assert_array_equal(on_disk.cross_entropy(*paths.values(), **asked), loss)
    np.testing.assert_array_equal(np.load(paths["logits"]), logits)


class Dataset:
    """What has a shape, a dtype and slices, and no memory to look at."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, box):
        return self._array[box].copy()

    def __setitem__(self, box, values):
        self._array[box] = values


def opened(kind, paths, folder):
    """The files as a kind of array that windows are read from, and a place for a gradient."""
    if kind == "dataset":
        arrays = {name: Dataset(np.load(path)) for name, path in paths.items()}
        arrays["out"] = Dataset(np.full_like(np.load(paths["logits"]), np.nan))
    elif kind == "memmap":
        arrays = {name: np.load(path, mmap_mode="r+") for name, path in paths.items()}
        like = arrays["logits"]
        arrays["out"] = open_memmap(folder / "out.npy", "w+", like.dtype, like.shape)
    else:
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        file = h5py.File(folder / "all.h5", "w")
        arrays = {
            name: file.create_dataset(name, data=np.load(path)) for name, path in paths.items()
        }
        like = arrays["logits"]
        arrays["out"] = file.create_dataset("out", like.shape, like.dtype)
    return arrays


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("kind", ["memmap", "HDF5", "dataset"])
def test_arrays_in_slices(tmp_path, kind, soft):
    logits, target = arrays((5, 7, 3), 1, soft=soft)
    expected = fx.cross_entropy_and_grad(logits, target, axis=1)
    found = opened(kind, saved(tmp_path, logits=logits, target=target), tmp_path)
    asked = {"axis": 1, "memory_budget": 7 * 4 * 8}
    loss, out = on_disk.cross_entropy_and_grad(
        found["logits"], found["target"], out=found["out"], **asked
    )
    assert out is found["out"]
    assert_same_loss(loss, expected[0])
    np.testing.assert_array_equal(out[:], expected[1])
    np.testing.assert_array_equal(found["logits"][:], logits)
    on_disk.cross_entropy_and_grad(found["logits"], target, out=found["logits"], **asked)
    np.testing.assert_array_equal(found["logits"][:], expected[1])


def test_the_same_dataset_looked_up_twice(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    logits, target = arrays((10, 7))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["logits"] = logits
        on_disk.cross_entropy_and_grad(file["logits"], target, out=file["logits"])
        expected = fx.cross_entropy_and_grad(logits, target)[1]
        np.testing.assert_array_equal(file["logits"][:], expected)


def test_part_of_a_map(tmp_path):
    logits, target = arrays((2000, 7))
    whole = np.load(saved(tmp_path, logits=logits)["logits"], mmap_mode="r+")
    part, labels = whole[1:1999:2], target[1:1999:2]
    expected = fx.cross_entropy_and_grad(logits[1:1999:2], labels)
    loss, _ = on_disk.cross_entropy_and_grad(part, labels, out=part, memory_budget=2800)
    assert_same_loss(loss, expected[0])
    np.testing.assert_array_equal(whole[1:1999:2], expected[1])
    np.testing.assert_array_equal(whole[::2], logits[::2])


def test_bfloat16(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")
    logits, target = arrays((10, 7), dtype=ml_dtypes.bfloat16)
    path, out = saved(tmp_path, logits=logits)["logits"], tmp_path / "grad.npy"
    with pytest.raises(fx.DTypeError, match="logits has dtype"):
        on_disk.cross_entropy(path, target)
    mapped = np.load(path, mmap_mode="r").view(ml_dtypes.bfloat16)
    loss, _ = on_disk.cross_entropy_and_grad(mapped, target, out=out, memory_budget=40)
    expected = fx.cross_entropy_and_grad(logits, target)
    assert_same_loss(loss, expected[0])
    np.testing.assert_array_equal(np.load(out).view(ml_dtypes.bfloat16), expected[1])


def test_private_changes_to_a_map_are_kept(tmp_path):
    logits, target = arrays((2000, 7))
    private = np.load(saved(tmp_path, logits=logits)["logits"], mmap_mode="c")
    private[:] = -logits
    loss = on_disk.cross_entropy(private, target, memory_budget=28)
    assert_same_loss(loss, fx.cross_entropy(-logits, target))
    np.testing.assert_array_equal(private, -logits)


def test_over_the_logits_only_when_asked(tmp_path):
    logits, target = arrays((10, 7))
    expected = fx.cross_entropy_and_grad(logits, target)
    path = saved(tmp_path, logits=logits)["logits"]
    os.symlink(path, tmp_path / "link.npy")
    mapped = np.load(path, mmap_mode="r+")
    for given, out in ((path, tmp_path / "link.npy"), (path, mapped), (mapped, path)):
        with pytest.raises(fx.OutputError, match="out is the file of logits"):
            on_disk.cross_entropy_and_grad(given, target, out=out)
    with pytest.raises(fx.OutputError, match="overlaps logits"):
        on_disk.cross_entropy_and_grad(mapped[1:], target[1:], out=mapped[:-1])
    np.testing.assert_array_equal(np.load(path), logits)
    loss, _ = on_disk.cross_entropy_and_grad(str(path), target, out=path, memory_budget=90)
    assert_same_loss(loss, expected[0])
    np.testing.assert_array_equal(np.load(path), expected[1])


@pytest.mark.parametrize(
    ("soft", "names", "options"),
    [
        (False, ("lse", "log_prob", "argmax", "correct", "z_loss"), {"z_loss": 0.1}),
        (True, ("log_prob", "entropy"), {"label_smoothing": 0.1}),
        (False, ("lse",), {"normalizer": 0.0}),
    ],
)
def test_aux(tmp_path, soft, names, options):
    logits, target = arrays((10, 7), soft=soft)
    paths = saved(tmp_path, logits=logits, target=target)
    expected = fx.cross_entropy_and_grad(logits, target, aux=names, **options)
    out = tmp_path / "grad.npy"
    found = on_disk.cross_entropy_and_grad(
        *paths.values(), out=out, aux=names, memory_budget=200, **options
    )
    assert_same_loss(found[0], expected[0])
    np.testing.assert_array_equal(np.load(out), expected[1])
    for name in names:
        np.testing.assert_array_equal(getattr(found[2], name), getattr(expected[2], name))
    with pytest.raises(fx.OptionError, match="does not give for probabilities"):
        on_disk.cross_entropy(logits, arrays((10, 7), soft=True)[1], aux=("target_grad",))


def test_upstream_gradient_and_all_ignored(tmp_path):
    logits, target = arrays((10, 7))
    path, out = saved(tmp_path, logits=logits)["logits"], tmp_path / "grad.npy"
    upstream = np.linspace(-1, 1, 10)
    expected = fx.cross_entropy_and_grad(logits, target, grad_output=upstream)[1]
    asked = {"out": out, "memory_budget": 90}
    on_disk.cross_entropy_and_grad(path, target, grad_output=upstream, **asked)
    np.testing.assert_array_equal(np.load(out), expected)
    loss, _ = on_disk.cross_entropy_and_grad(path, np.full(10, -100), **asked)
    assert np.isnan(loss)
    assert not np.load(out).any()


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (10, 7), (7, 10), (3,), (2, 0, 4)])
def test_windows_cover_every_row_once(shape):
    for axis in range(len(shape)):
        if shape[axis] == 0:
            continue
        rows = np.prod(shape[:axis] + shape[axis + 1 :], dtype=int)
        numbers = np.arange(rows).reshape(*shape[:axis], 1, *shape[axis + 1 :])
        numbers = np.broadcast_to(numbers, shape)
        for most in (1, 2, 3, 5, 17, 1000):
            seen = [np.arange(0)]
            for window in windows_of(shape, axis, most):
                found = np.moveaxis(numbers[window.box], axis, -1)[..., 0].reshape(-1)
                assert found.tolist() == list(range(window.rows.start, window.rows.stop))
                assert 0 < len(found) <= most
                seen.append(found)
            assert np.concatenate(seen).tolist() == list(range(rows))


def test_paths_are_any_kind_of_path(tmp_path):
    logits, target = arrays((10, 7))
    path = Path(saved(tmp_path, logits=logits)["logits"])
    assert on_disk.cross_entropy(str(path), target) == on_disk.cross_entropy(path, target)
