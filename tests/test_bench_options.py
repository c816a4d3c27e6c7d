"""The table of options: it lines up, the pages have it, and our own column is true."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
if not (ROOT / "docs" / "options.toml").exists():
    pytest.skip("docs/ is not beside tests/: not a source tree", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import option_table  # noqa: E402

from fastxent.bench.markdown import replaced  # noqa: E402

OPTIONS = option_table.Options.load()
RNG = np.random.default_rng(0)
N, C = 13, 7
LOGITS = RNG.standard_normal((N, C)) * 3
LABELS = RNG.integers(0, C, N)
SOFT = RNG.random((N, C))
SOFT /= SOFT.sum(axis=1, keepdims=True)
WEIGHT = RNG.uniform(0.5, 2.0, C)
# The textbook, for plain labels.
LSE = np.log(np.exp(LOGITS).sum(axis=1))
LOG_P = LOGITS - LSE[:, None]
ROW_LOSS = -LOG_P[np.arange(N), LABELS]


def loss(logits=LOGITS, target=LABELS, **options):
    return fx.cross_entropy(logits, target, **options)


def aside(name, target=LABELS):
    return getattr(fx.cross_entropy(LOGITS, target, aux=(name,))[1], name)


def weight():
    w = WEIGHT[LABELS]
    return np.isclose(loss(weight=WEIGHT), (w * ROW_LOSS).sum() / w.sum())


def label_smoothing():
    return np.isclose(
        loss(label_smoothing=0.2), 0.8 * ROW_LOSS.mean() - 0.2 * LOG_P.mean(axis=1).mean()
    )


def ignore_index():
    live = np.not_equal(LABELS, LABELS[0])
    return np.isclose(loss(ignore_index=LABELS[0]), ROW_LOSS[live].mean())


def ignore_index_none():
    labels = LABELS.copy()
    labels[0] = -100
    ignored = loss(target=labels)
    with pytest.raises(fx.LabelError):
        loss(target=labels, ignore_index=None)
    return np.isclose(ignored, ROW_LOSS[1:].mean())


def soft():
    return np.isclose(loss(target=SOFT), -(SOFT * LOG_P).sum(axis=1).mean())


def soft_weight_smoothing():
    mass = WEIGHT * (0.9 * SOFT + 0.1 / C)
    together = loss(target=SOFT, weight=WEIGHT, label_smoothing=0.1)
    return np.isclose(together, -(mass * LOG_P).sum(axis=1).mean())


def linear():
    hidden, matrix = RNG.standard_normal((N, 3)), RNG.standard_normal((C, 3))
    together, grads = fx.linear_cross_entropy_and_grad(
        hidden, matrix, LABELS, memory_budget=1_000_000, label_smoothing=0.1
    )
    apart, grad = fx.cross_entropy_and_grad(hidden @ matrix.T, LABELS, label_smoothing=0.1)
    return np.isclose(together, apart) and np.allclose(grads.linear_weight, grad.T @ hidden)


def shards():
    smoothed = {"label_smoothing": 0.1, "num_classes": C}
    parts = [
        fx.partial_stats(LOGITS[:, begin:end], LABELS, class_offset=begin, **smoothed)
        for begin, end in ((0, 3), (3, C))
    ]
    whole = fx.loss_from_stats(fx.merge_stats(*parts), LABELS, **smoothed)
    return np.isclose(whole, loss(label_smoothing=0.1))


def sample_weight():
    s = RNG.random(N)
    return np.isclose(loss(sample_weight=s), (s * ROW_LOSS).sum() / s.sum())


def normalizer():
    return np.isclose(loss(normalizer=100.0), ROW_LOSS.sum() / 100)


def z_loss():
    return np.isclose(loss(z_loss=0.01), (ROW_LOSS + 0.01 * LSE**2).mean())


def softcap():
    return np.isclose(loss(softcap=2.0), loss(2 * np.tanh(LOGITS / 2)))


def logit_scale():
    return np.isclose(loss(logit_scale=0.5), loss(0.5 * LOGITS))


def lse():
    return np.allclose(aside("lse"), LSE)


def log_prob():
    return np.allclose(aside("log_prob"), -ROW_LOSS)


def argmax():
    best = LOGITS.argmax(axis=1)
    is_right = np.array_equal(aside("correct"), best == LABELS)
    return np.array_equal(aside("argmax"), best) and is_right


def entropy():
    return np.allclose(aside("entropy"), -(np.exp(LOG_P) * LOG_P).sum(axis=1))


def axis():
    moved = np.ascontiguousarray(LOGITS.T)
    return np.isclose(loss(moved, axis=0), ROW_LOSS.mean())


def in_place():
    logits = LOGITS.copy()
    expected = fx.cross_entropy_and_grad(LOGITS, LABELS)[1]
    grad = fx.cross_entropy_and_grad(logits, LABELS, out=logits)[1]
    return grad is logits and np.array_equal(grad, expected)


def half():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        logits = LOGITS.astype(dtype)
        value, grad = fx.cross_entropy_and_grad(logits, LABELS)
        assert value.dtype == np.float32
        assert grad.dtype == dtype
        assert np.isclose(value, loss(logits.astype(np.float64)), rtol=1e-5)
    return True


def target_grad():
    return np.allclose(aside("target_grad", SOFT), -LOG_P / N)


def threads():
    logits = RNG.standard_normal((300, 5000), np.float32)
    labels = RNG.integers(0, 5000, 300)
    one, many = (
        fx.cross_entropy_and_grad(logits, labels, num_threads=count)
        for count in (1, fx.get_num_threads() + 1)
    )
    return one[0] == many[0] and np.array_equal(one[1], many[1])


def binary():
    x, y = LOGITS[:, 0], (LABELS % 2).astype(float)
    expected = np.mean(3 * y * np.log1p(np.exp(-x)) + (1 - y) * np.log1p(np.exp(x)))
    return np.isclose(fx.binary_cross_entropy_with_logits(x, y, pos_weight=3.0), expected)


def masked():
    logits, target = LOGITS.copy(), SOFT.copy()
    logits[:, 2], target[:, 2] = -np.inf, 0
    value, grad = fx.cross_entropy_and_grad(logits, target)
    return np.isfinite(value) and np.isfinite(grad).all() and not grad[:, 2].any()


TRIED = {
    function.__name__: function
    for function in (
        *(weight, label_smoothing, ignore_index, ignore_index_none, soft, soft_weight_smoothing),
        *(sample_weight, normalizer, z_loss, softcap, logit_scale, lse, log_prob, argmax, entropy),
        *(axis, in_place, half, target_grad, threads, binary, masked, linear),
        *(shards,),
    )
}


def test_the_file_is_whole():
    assert OPTIONS.faults() == []
    assert next(iter(OPTIONS.systems)) == "fastxent"
    assert [option.key for option in OPTIONS.options] == list(TRIED)


@pytest.mark.parametrize("option", OPTIONS.options, ids=lambda option: option.key)
def test_our_column_is_true(option):
    assert option.marks[0] == "yes"
    assert TRIED[option.key]()


def test_what_is_wrong_with_a_file_is_said():
    options = option_table.Options(
        {"fastxent": "", "other": ""},
        (
            option_table.Option("one", "one", ("yes",)),
            option_table.Option("two", "two", ("maybe", "part"), {"nobody": "note"}),
        ),
    )
    assert options.faults() == [
        "one: 1 marks",
        "two: maybe",
        "two: nobody",
        "two: no note on other",
    ]


def test_pages_have_the_table():
    assert (ROOT / "docs" / "options.md").read_text() == option_table.page(OPTIONS)
    readme = (ROOT / "README.md").read_text()
    section = option_table.readme_section(OPTIONS)
    assert replaced(readme, section, option_table.MARKER) == readme
    widths = {line.count("|") for line in OPTIONS.as_table().splitlines()}
    assert widths == {len(OPTIONS.systems) + 2}
