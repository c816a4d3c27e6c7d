"""fastxent.numba inside compiled code: the bits of the backend, vectors, errors before writes."""

import pickle
import platform
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastxent as fx

REASON = fx.backends()["numba"]
if REASON is not None:
    pytest.skip(f"numba: {REASON}", allow_module_level=True)

import numba  # noqa: E402

import fastxent.numba as fxn  # noqa: E402


@numba.njit
def each_row(x, labels, losses, fused, grads, lses, probas):
    for i in range(len(x)):
        losses[i] = fxn.cross_entropy_row(x[i], labels[i])
        fused[i] = fxn.cross_entropy_row_and_grad(x[i], labels[i], grads[i], 0.5)
        lses[i] = fxn.logsumexp_row(x[i])
        fxn.softmax_row(x[i], probas[i])


@numba.njit
def each_soft_row(x, soft, grads):
    total = 0.0
    for i in range(len(x)):
        total += fxn.cross_entropy_row_and_grad(x[i], soft[i], grads[i])
    return total


@numba.njit
def mean(x, target, grad, ignore_index):
    return fxn.cross_entropy_and_grad(x, target, grad, ignore_index)


@numba.njit(parallel=True)
def in_parallel(x, labels, losses, threads):
    for i in numba.prange(len(x)):
        losses[i] = fxn.cross_entropy_row(x[i], labels[i])
        threads[i] = numba.get_thread_id()


def rows_of(classes, dtype, rows=5):
    rng = np.random.default_rng(classes)
    x = (4 * rng.normal(size=(rows, classes))).astype(dtype)
    return x, rng.integers(0, classes, rows)


def of_rows(x, labels):
    losses, fused, lses = np.empty((3, len(x)), x.dtype)
    grads, probas = np.empty_like(x), np.empty_like(x)
    each_row(x, labels, losses, fused, grads, lses, probas)
    assert np.array_equal(losses, fused, equal_nan=True)
    return losses, grads, lses, probas


def of_backend(x, labels):
    losses = fx.cross_entropy(x, labels, reduction="none", backend="numba")
    half = np.full(len(x), 0.5)
    _, grads = fx.cross_entropy_and_grad(
        x, labels, reduction="sum", grad_output=half, backend="numba"
    )
    lses, probas = fx.logsumexp(x, backend="numba"), fx.softmax(x, backend="numba")
    return losses, grads, lses, probas


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [101, 1000, 1024, 1025, 5000, 70_000])
def test_rows_have_the_bits_of_the_backend(classes, dtype):
    x, labels = rows_of(classes, dtype)
    x[0, :50] = -np.inf
    labels[0] = classes - 1
    for ours, theirs in zip(of_rows(x, labels), of_backend(x, labels), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, 10, 16, 17, 100])
def test_short_rows_are_as_exact_as_the_backend(classes, dtype):
    # rows of few classes are tiles there, and add up in another order
    x, labels = rows_of(classes, dtype)
    eps = np.finfo(dtype).eps
    truth = of_backend(x.astype(np.float64), labels)
    for ours, theirs in zip(of_rows(x, labels), truth, strict=True):
        assert np.abs(ours - theirs).max() <= 4 * eps * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("classes", [3, 2000])
def test_infinities_and_nan_as_in_the_backend(classes):
    x, labels = rows_of(classes, np.float32, rows=6)
    x[0, 1], x[1, 1], x[2] = np.nan, np.inf, -np.inf
    x[3, :-1], labels[3] = -np.inf, classes - 1
    x[4, 0], labels[4] = -np.inf, 0
    x[5, :2] = np.nan, np.inf
    for ours, theirs in zip(of_rows(x, labels), of_backend(x, labels), strict=True):
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.allclose(ours, theirs, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("classes", [7, 3000])
def test_probabilities(classes):
    x, _ = rows_of(classes, np.float32)
    soft = fx.softmax(x[::-1])
    soft[0, 1], x[0, 1] = 0.0, -np.inf  # no mass, no loss
    grads, grad = np.empty_like(x), np.empty_like(x)
    total = each_soft_row(x, soft, grads)
    loss, expected = fx.cross_entropy_and_grad(
        x, soft, reduction="sum", ignore_index=None, backend="numba"
    )
    assert np.isclose(total, loss, rtol=1e-6)
    assert np.allclose(grads, expected, rtol=0, atol=1e-6)
    average = mean(x, soft, grad, None)
    loss, expected = fx.cross_entropy_and_grad(x, soft, ignore_index=None, backend="numba")
    assert np.float32(average) == loss
    assert np.array_equal(grad, expected)


@pytest.mark.parametrize("classes", [1, 10, 100, 101, 2500, 66_000])
@pytest.mark.parametrize("skip", [None, -100, 0])
def test_the_mean_has_the_bits_of_the_backend(classes, skip):
    x, labels = rows_of(classes, np.float32, rows=37)
    labels[1:] = np.maximum(labels[1:], 1 % classes)  # label 0, to skip, in the first row only
    options = {"ignore_index": skip, "backend": "numba", "num_threads": 1}
    loss, expected = fx.cross_entropy_and_grad(x, labels, **options)
    grad = np.empty_like(x)
    average = mean(x, labels, grad, skip)
    assert np.array_equal(np.float32(average), loss, equal_nan=True)
    assert np.array_equal(grad, expected)


def test_any_labels_any_rows_and_the_logits_themselves():
    x, labels = rows_of(12, np.float32, rows=20)
    loss, expected = fx.cross_entropy_and_grad(x, labels, backend="numba")
    fixed = x.copy()
    fixed.flags.writeable = False
    assert np.float32(fxn.cross_entropy(fixed[::-1], labels[::-1].astype("uint16"))) == loss
    wide = np.zeros((20, 30), np.float32)
    wide[:, 5:17] = x
    fxn.cross_entropy_and_grad(wide[:, 5:17], labels.astype("int32"), wide[:, 5:17])
    assert np.array_equal(wide[:, 5:17], expected)
    assert not wide[:, :5].any()
    assert not wide[:, 17:].any()
    row = x[3].copy()
    fxn.softmax_row(row, row)
    assert np.array_equal(row, of_rows(x, labels)[3][3])


def test_nothing_that_counts():
    x, labels = rows_of(4, np.float32)
    grad = np.ones_like(x)
    assert np.isnan(mean(x, np.full(5, -100), grad, -100))
    assert not grad.any()
    assert np.isnan(mean(x[:0], labels[:0], grad[:0], -100))


def test_errors_come_before_anything_is_written():
    x, labels = rows_of(8, np.float32)
    grad = np.full_like(x, 7)
    for bad in (8, -1, -100, 2**40):
        with pytest.raises(IndexError, match="no class of this row"):
            fxn.cross_entropy_row_and_grad(x[0], bad, grad[0])
    labels[3] = 8
    with pytest.raises(IndexError, match="check_labels"):
        mean(x, labels, grad, -100)
    labels[3] = -100
    with pytest.raises(IndexError, match="check_labels"):
        mean(x, labels, grad, None)
    labels[3] = 0
    with pytest.raises(ValueError, match="one label for each row"):
        mean(x, labels[:4], grad, -100)
    with pytest.raises(ValueError, match="the shape of the logits"):
        mean(x, labels, grad[:4], -100)
    with pytest.raises(ValueError, match="overlaps"):
        fxn.cross_entropy_row_and_grad(grad[0, :7], 1, grad[0, 1:])
    with pytest.raises(ValueError, match="overlaps"):
        mean(grad[:4], labels[:4], grad[1:], -100)
    with pytest.raises(ValueError, match="no class"):
        fxn.logsumexp_row(x[0, :0])
    with pytest.raises(ValueError, match="side by side"):
        fxn.logsumexp_row(x[0, ::2])
    assert (grad == 7).all()


def test_types_that_are_not_taken():
    x, labels = rows_of(8, np.float32)
    fixed = x.copy()
    fixed.flags.writeable = False
    for message, call in {
        "out is read-only": lambda: fxn.softmax_row(x[0], fixed[0]),
        "out needs the dtype": lambda: fxn.softmax_row(x[0], np.zeros(8)),
        "logits must be an array of 1": lambda: fxn.logsumexp_row(x),
        "it is array.int64": lambda: fxn.logsumexp_row(labels),
        "target must be an integer": lambda: fxn.cross_entropy_row(x[0], 1.0),
        "target must be a 1-D array of integers": lambda: fxn.cross_entropy(x, 1),
        "ignore_index must be an integer": lambda: fxn.cross_entropy(x, labels, 0.5),
    }.items():
        with pytest.raises(numba.TypingError, match=message):
            call()


def test_in_parallel():
    x, labels = rows_of(1000, np.float32, rows=4000)
    losses, threads = np.empty(4000, np.float32), np.empty(4000, np.int64)
    in_parallel(x, labels, losses, threads)
    assert np.array_equal(losses, fx.cross_entropy(x, labels, reduction="none", backend="numba"))
    if numba.get_num_threads() > 1:
        assert len(np.unique(threads)) > 1  # a loop that could raise by itself would be serial


def test_vectors_in_the_callers_code():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("reads code for x86-64")
    of_rows(*rows_of(10, np.float32))
    text = "".join(each_row.inspect_asm().values())
    registers = "zmm" if "zmm" in text else "ymm" if "ymm" in text else "xmm"
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    assert registers == "zmm" or not features.get("avx512f")
    # exp is six multiply-adds and two more, without a call: libm, SVML or our own library
    assert len(re.findall(rf"vfmadd\w+ps\b.*{registers}|mulps", text)) >= 8
    assert re.search(r"_ZGV|__svml|\bexpf?\b|libmvec", text) is None


def test_pickled_functions_and_cached_ones(tmp_path):
    x, labels = rows_of(1000, np.float32)
    (tmp_path / "theirs.py").write_text(
        textwrap.dedent("""
            import numba, fastxent.numba as fxn

            @numba.njit(cache=True)
            def total(x, labels):
                total = 0.0
                for i in range(len(x)):
                    total += fxn.cross_entropy_row(x[i], labels[i])
                return total
        """)
    )

    @numba.njit
    def largest(x):
        return max([fxn.logsumexp_row(x[i]) for i in range(len(x))])

    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "largest.pickle").write_bytes(pickle.dumps(largest))
    code = (
        "import pickle, sys, numpy as np, theirs\n"
        "x, labels = np.load('x.npy'), np.load('labels.npy')\n"
        "print(repr(theirs.total(x, labels)), sum(theirs.total.stats.cache_hits.values()))\n"
        "print(repr(pickle.load(open('largest.pickle', 'rb'))(x)))\n"
    )
    path = [str(tmp_path), *sys.path]
    found = [
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for _ in range(2)
    ]
    total = sum(
        float(fxn.cross_entropy_row(row, label)) for row, label in zip(x, labels, strict=True)
    )
    for hits, (value, seen, lse) in enumerate(found):
        assert float(value) == total
        assert int(seen) == hits
        assert float(lse) == largest(x)


def test_rows_of_out_that_overlap_are_refused():
    x, labels = rows_of(5, np.float64)
    out = np.lib.stride_tricks.as_strided(np.zeros(5), x.shape, (0, 8))
    with pytest.raises(ValueError, match="rows of out overlap"):
        fxn.cross_entropy_and_grad(x, labels, out)


def test_an_unsigned_label_is_never_a_negative_one():
    x = np.zeros((4, 5))
    labels = np.array([0, 1, 2, 2**64 - 100], np.uint64)
    with pytest.raises(IndexError, match="check_labels"):
        fxn.cross_entropy(x, labels)
    assert fxn.cross_entropy(x[:3], labels[:3]) == pytest.approx(np.log(5))


def test_what_cannot_be_imported_says_why():
    code = "import fastxent\nimport sys\nassert 'numba' not in sys.modules\nimport fastxent.numba"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert "NUMBA_DISABLE_JIT is set" in done.stderr
