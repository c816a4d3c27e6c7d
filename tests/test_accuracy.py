"""The aims of benchmarks/accuracy.py on small samples, what measures them, and the page."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
if not (ROOT / "benchmarks" / "accuracy.py").exists():
    pytest.skip("benchmarks/ is not beside tests/: not a source tree", allow_module_level=True)
pytest.importorskip("rich", reason="rich draws the progress bars")
sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy  # noqa: E402
import accuracy_exponential as exponential  # noqa: E402
import accuracy_page as page  # noqa: E402
import accuracy_rows as rows  # noqa: E402

PAGE = ROOT / "docs" / "accuracy.md"
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
    if name != "cuda" or reason is None  # tests/gpu/card says once that there is no card
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", rows.DTYPES)

if np.finfo(np.longdouble).nmant < 63:
    pytest.skip("long double judges, and is no more than float64 here", allow_module_level=True)


def measured(backend, batch, elements=1 << 14):
    logits, target = rows.inputs(batch, 0, elements)
    return rows.errors(rows.of_backend(backend)(logits, target), rows.truth(logits, target))


# The aims -------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("labels", rows.LABELS)
@pytest.mark.parametrize("kind", rows.KINDS)
@each_dtype
def test_losses_meet_the_aim(dtype, kind, labels, backend):
    for classes in (2, 10, 100, 1000, 10_000):
        errors = measured(backend, rows.Batch(dtype, labels, kind, classes))
        assert errors.loss <= rows.aim(dtype, classes), classes
        assert errors.mean <= rows.aim(dtype, classes), classes
        assert errors.gradient <= (5e-7 if dtype == "float32" else 5e-15), classes


@each_backend
@pytest.mark.parametrize("labels", rows.LABELS)
@each_dtype
def test_errors_do_not_grow_with_the_classes(dtype, labels, backend):
    by_classes = {}
    for classes in (rows.GROWTH_BASE, max(rows.CLASSES)):
        batch = rows.Batch(dtype, labels, "flat", classes)
        by_classes[classes] = measured(backend, batch, rows.ELEMENTS // 2)
    ratios = rows.grown(by_classes, dtype)
    assert max(ratios.values()) <= rows.GROWTH, ratios


@each_backend
@each_dtype
def test_the_exponential_meets_the_aim(dtype, backend):
    if backend == "numpy" and dtype == "float32":
        pytest.skip("NumPy's own float32 exp, up to 2.6 ULP: the page says so")
    if backend == "cython" and not fused():
        pytest.skip("without a fused multiply-add the argument is rounded once more")
    function, ends = exponential.of_backend(backend), exponential.exact_ends(backend, dtype)
    run = getattr(exponential, f"measure_{dtype}")
    sparse = exponential.SAMPLED * 64 if dtype == "float32" else 20
    result = run(backend, function, ends, sparse, lambda points: None)
    assert result.ends
    assert result.worst <= exponential.AIM, result


def fused():
    from fastxent.backends import _kernels

    return _kernels.level() in ("v3", "v4")


# What measures them ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_unit_in_the_last_place(dtype):
    below_half = np.nextafter(np.longdouble(0.5), np.longdouble(0))
    exact = np.array([1, 0.5, below_half, 0.75, 0], np.longdouble)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    expected = [eps, eps / 2, eps / 4, eps / 2, tiny * eps]
    np.testing.assert_array_equal(exponential.spacing_below(exact, dtype), expected)


def test_an_exponential_that_is_wrong_is_found():
    def off_by_two(x):
        result = np.exp(x.astype(np.float64)).astype(np.float32)
        result[3] += 2 * np.spacing(result[3])
        return result

    def undefined(x):
        return np.where(np.arange(len(x)) == 3, np.nan, np.exp(x))

    sparse = exponential.SAMPLED * 5000
    for wrong in (off_by_two, undefined):
        result = exponential.measure_float32("wrong", wrong, True, sparse, lambda points: None)
        assert not result.met


def test_every_float_is_among_the_chunks():
    first = next(exponential.float32_chunks(1))
    assert first[0] == 0
    assert np.signbit(first[0])
    np.testing.assert_array_equal(first[1:3], -np.spacing(np.float32(0)) * np.array([1, 2]))
    step = 97 * exponential.POINTS
    assert [*exponential.float32_chunks(step)][-1][-1] == -np.inf


def test_errors_are_relative_to_what_they_say():
    exact = (np.array([0.5, 4], np.longdouble), np.array([[-0.5, 0.5], [0.25, -0.25]]))
    results = (np.array([0.75, 5.0]), exact[1] + [[0.125, 0], [0, 0]], 2.25)
    assert rows.errors(results, exact) == rows.Errors(0.25, 0, 0.25, 0.125)
    worse = rows.Errors(loss=np.nan).or_worse(rows.Errors(loss=1.0, mean=2.0))
    assert np.isnan(worse.loss)
    assert worse.mean == 2


def test_a_missed_aim_is_named():
    result = page.Measured("", {}, {}, 1, "")
    good = rows.Errors(1e-17, 1e-17, 1e-17, 1e-17)
    for batch in rows.batches((1000, 10_000)):
        result.errors["numba", batch] = good
        result.errors["torch", batch] = replace(good, loss=1.0)  # no aim of ours
    assert result.misses() == []
    result.errors["numba", rows.Batch("float32", "soft", "peaked", 1000)] = replace(good, loss=1e-3)
    (miss,) = result.misses()
    assert all(word in miss for word in ("loss", "numba", "float32", "soft peaked", "1000"))
    assert "**1.0e-03**" in page.write(result)


def test_tables_line_up():
    text = page.table(("name", "b"), [("x", "1,000"), ("longer", "2")], 1)
    assert len({len(line) for line in text.splitlines()}) == 1


# The page -------------------------------------------------------------------------------------


def test_the_page_has_every_row():
    text = PAGE.read_text("utf-8")
    assert "Written by `python benchmarks/accuracy.py" in text
    for name in (*page.OURS, *accuracy.OTHERS):
        if f"Not measured: {name}:" in text:
            continue
        for dtype in rows.DTYPES:
            for kind in rows.KINDS:
                found = [
                    line
                    for line in text.splitlines()
                    if line.replace(" ", "").startswith(f"|{name}|{dtype}|{kind}|")
                ]
                assert len(found) == len(page.MEASURES) * len(rows.LABELS), (name, dtype, kind)
