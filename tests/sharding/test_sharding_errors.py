"""What is refused, with the words that help; nothing has been written then."""

import numpy as np
import pytest

import fastxent as fx

LOGITS = np.zeros((3, 4), np.float32)
TARGET = np.array([0, 7, 9])
WHERE = {"class_offset": 4, "num_classes": 10}


def stats_of(begin=0, end=10, target=TARGET, dtype="float32", **options):
    logits = np.zeros((len(target), end - begin), dtype)
    return fx.partial_stats(logits, target, class_offset=begin, num_classes=10, **options)


WHOLE = stats_of()
SOFT = np.full((3, 4), 0.25)


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (fx.LabelError, r"target\[1\] is 10: it lies outside \[0, 10\)", ([0, 10, 3],), {}),
        (fx.LabelError, r"target\[0\] is -1", ([-1, 1, 3],), {}),
        (fx.OptionError, r"puts the 4 classes .* at \[7, 11\), outside \[0, 10\)", (),
         {"class_offset": 7}),
        (fx.OptionError, "class_offset = -1", (), {"class_offset": -1}),
        (fx.DTypeError, "class_offset must be an integer", (), {"class_offset": 1.0}),
        (fx.DTypeError, "num_classes must be an integer", (), {"num_classes": None}),
        (fx.OptionError, "num_classes must be at least 1", (), {"num_classes": 0}),
        (fx.OptionError, "outside .* for num_classes = 3", (), {"num_classes": 3}),
        (fx.ShapeError, r"weight needs shape \(10,\), one weight", (), {"weight": np.ones(4)}),
        (fx.ShapeError, "target of dtype float64 holds probabilities", (np.zeros((3, 10)),), {}),
        (fx.ShapeError, "holds class indices and needs shape", ([0, 1],), {}),
        (fx.OptionError, "ignore_index = 3 was given with", (SOFT,), {"ignore_index": 3}),
        (fx.OptionError, r"label_smoothing must lie in \[0, 1\]", (), {"label_smoothing": 2}),
        (fx.ShapeError, "axis 2 is out of range", (), {"axis": 2}),
        (fx.OptionError, "backend must be one of", (), {"backend": "fast"}),
        (fx.OptionError, "num_threads must be at least 1", (), {"num_threads": 0}),
    ],
)  # fmt: skip
def test_both_passes_over_logits_refuse(error, words, arguments, options):
    target = arguments[0] if arguments else TARGET
    with pytest.raises(error, match=words):
        fx.partial_stats(LOGITS, target, **{**WHERE, **options})
    out = np.full((3, 4), 7, np.float32)
    with pytest.raises(error, match=words):
        fx.grad_from_stats(LOGITS, target, WHOLE, out=out, **{**WHERE, **options})
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("multiple of 1024", {"by_block": True}),
        ("by_block must be True or False", {"by_block": 1}),
        ("aux names 'target_grad'", {"aux": ("target_grad",)}),
        ("one string", {"aux": "lse"}),
        (r"aux\[0\] must be one of", {"aux": ("loss",)}),
    ],
)
def test_statistics_are_refused(words, options):
    with pytest.raises(fx.OptionError, match=words):
        fx.partial_stats(LOGITS, SOFT, **WHERE, **options)


@pytest.mark.parametrize(
    ("error", "words", "stats"),
    [
        (fx.OptionError, "at least one ShardStats", ()),
        (fx.DTypeError, r"stats\[1\] must be a ShardStats", (WHOLE, [1])),
        (fx.OptionError, r"stats\[0\] has classes \[0, 5\) and stats\[1\] has \[4, 10\)",
         (stats_of(0, 5), stats_of(4))),
        (fx.OptionError, "must not overlap", (WHOLE, WHOLE)),
        (fx.ShapeError, "rows", (stats_of(0, 5), stats_of(5, target=TARGET[:2]))),
        (fx.DTypeError, "float64, .* float32", (stats_of(0, 5), stats_of(5, dtype="float64"))),
        (fx.OptionError, r"stats\[1\] have no mass and stats\[0\] do",
         (stats_of(0, 5, label_smoothing=0.1), stats_of(5))),
        (fx.OptionError, r"stats\[0\] have no argmax and stats\[1\] do",
         (stats_of(0, 5), stats_of(5, aux=("argmax",)))),
        (fx.DTypeError, r"stats\[0\].sum has dtype float32",
         (WHOLE._replace(sum=WHOLE.sum.astype("f4")),)),
        (fx.ShapeError, r"stats\[0\].sum has shape \(1, 2\)",
         (WHOLE._replace(sum=WHOLE.sum[:, :2].copy()),)),
        (fx.DTypeError, r"stats\[0\].max is None", (WHOLE._replace(max=None),)),
        (fx.DTypeError, "must both be there", (WHOLE._replace(mass=WHOLE.sum),)),
        (fx.OptionError, r"stats\[1\] are of logits with softcap = 5.0, and stats\[0\] has None",
         (stats_of(0, 5), stats_of(5, softcap=5.0))),
        (fx.OptionError, r"stats\[1\] are of logits with logit_scale = 1.0, .* has 2.0",
         (stats_of(0, 5, logit_scale=2.0), stats_of(5))),
        (fx.ShapeError, "one entry a part", (WHOLE._replace(classes=(4, 6)),)),
        (fx.OptionError, "parts must rise", (WHOLE._replace(classes=(0,)),)),
    ],
)  # fmt: skip
def test_merging_is_refused(error, words, stats):
    with pytest.raises(error, match=words):
        fx.merge_stats(*stats)


SMOOTHED = stats_of(label_smoothing=0.1)


@pytest.mark.parametrize(
    ("error", "words", "stats", "options"),
    [
        (fx.OptionError, r"stats lack classes \[3, 10\) of num_classes = 10", stats_of(0, 3), {}),
        (fx.OptionError, r"stats lack classes \[0, 3\)", stats_of(3), {}),
        (fx.OptionError, r"stats lack classes \[3, 5\)",
         fx.merge_stats(stats_of(0, 3), stats_of(5)), {}),
        (fx.OptionError, "reach to class 10 of num_classes = 9", WHOLE,
         {"num_classes": 9, "class_offset": 0, "target": TARGET - 1}),
        (fx.OptionError, "made without label_smoothing", WHOLE, {"label_smoothing": 0.1}),
        (fx.OptionError, "made with label_smoothing", SMOOTHED, {}),
        (fx.OptionError, "made with class indices as the target, and here it holds prob",
         SMOOTHED, {"target": SOFT}),
        (fx.ShapeError, "target|rows", WHOLE, {"target": TARGET[:2]}),
        (fx.DTypeError, "must be a ShardStats", WHOLE.max, {}),
        (fx.ShapeError, r"sample_weight needs shape \(3,\)", WHOLE, {"sample_weight": [1, 2]}),
        (fx.OptionError, "normalizer replaces the mean's", WHOLE,
         {"normalizer": 2, "reduction": "sum"}),
        (fx.LabelError, r"target\[2\] is 10", WHOLE, {"target": [0, 7, 10]}),
    ],
)  # fmt: skip
def test_loss_and_gradient_are_refused(error, words, stats, options):
    options = {"target": TARGET, **WHERE, **options}
    target, offset = options.pop("target"), options.pop("class_offset")
    with pytest.raises(error, match=words):
        fx.loss_from_stats(stats, target, **options)
    with pytest.raises(error, match=words):
        fx.grad_from_stats(LOGITS, target, stats, class_offset=offset, **options)


@pytest.mark.parametrize("options", [{"softcap": 5.0}, {"logit_scale": 0.5}])
def test_logits_that_are_not_as_the_statistics_saw_them_are_refused(options):
    ((name, value),) = options.items()
    out = np.full((3, 4), 7, np.float32)
    plain = getattr(WHOLE, name)
    for stats, given, made in ((WHOLE, options, plain), (stats_of(**options), {}, value)):
        words = f"stats are of logits with {name} = {made}, and this call has"
        with pytest.raises(fx.OptionError, match=words):
            fx.grad_from_stats(LOGITS, TARGET, stats, **WHERE, **given, out=out)
    assert (out == 7).all()
    merged = fx.merge_stats(stats_of(0, 5, **options), stats_of(5, **options))
    fx.grad_from_stats(LOGITS, TARGET, merged, **WHERE, **options, out=out)
    assert (out != 7).all()


def test_side_outputs_that_were_not_prepared_are_refused():
    for name, field in (("argmax", "argmax"), ("correct", "argmax"), ("entropy", "spread")):
        with pytest.raises(fx.OptionError, match=f"aux names '{name}', and stats have no {field}"):
            fx.loss_from_stats(WHOLE, TARGET, num_classes=10, aux=(name,))
    soft = np.full((3, 10), 0.1)
    stats = fx.partial_stats(soft, soft, class_offset=0, num_classes=10, aux=("correct",))
    with pytest.raises(fx.OptionError, match="does not follow from statistics of rows"):
        fx.loss_from_stats(stats, soft, num_classes=10, aux=("target_grad",))
    with pytest.raises(fx.OptionError, match="probabilities of 4 of 10 classes"):
        fx.loss_from_stats(stats, soft[:, :4], num_classes=10, aux=("correct",))
    assert fx.loss_from_stats(stats, soft, num_classes=10, aux=("correct",))[1].correct.all()
    with pytest.raises(fx.OptionError, match="aux names 'log_prob', and stats have no bare_mass"):
        fx.loss_from_stats(stats, soft, num_classes=10, aux=("log_prob",), label_smoothing=0.1)


def test_gradient_has_a_place_of_its_own():
    options = {"class_offset": 0, "num_classes": 10}
    logits = np.zeros((3, 10), np.float32)
    stats = fx.partial_stats(np.zeros((3, 10)), TARGET, **options)
    with pytest.raises(fx.DTypeError, match="stats are of a loss in float64"):
        fx.grad_from_stats(logits, TARGET, stats, **options)
    big = np.zeros((4, 10))
    for out, words in (
        (stats.max[0], r"out needs shape \(3, 10\)"),
        (np.broadcast_to(stats.sum.reshape(3, 1), (3, 10)), "read-only"),
        (big[1:], "out overlaps logits"),
        (np.zeros((3, 10), np.float32), "out needs dtype float64"),
        ([1.0], "out must be a plain NumPy array"),
    ):
        with pytest.raises(fx.FastxentError, match=words):
            fx.grad_from_stats(big[:3], TARGET, stats, **options, out=out)
    memory = np.zeros(30)
    shared = stats._replace(sum=memory[:3].reshape(1, 3) + 0)
    shared = shared._replace(max=memory[:3].reshape(1, 3))
    with pytest.raises(fx.OutputError, match=r"out shares memory with stats\.max"):
        fx.grad_from_stats(big[:3], TARGET, shared, **options, out=memory.reshape(3, 10))
    assert not memory.any()


def test_a_backend_that_is_asked_for_must_be_able():
    if fx.backends()["cuda"] is None:
        pytest.skip("there is a card")
    with pytest.raises(fx.BackendError, match="backend 'cuda' cannot run"):
        fx.partial_stats(LOGITS, TARGET, **WHERE, backend="cuda")
