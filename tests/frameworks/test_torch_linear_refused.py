"""What fastxent.torch.linear_cross_entropy refuses, and what PyTorch's options ask it for."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

import fastxent  # noqa: E402
from fastxent.torch import LinearCrossEntropyLoss, linear_chunks, linear_cross_entropy  # noqa: E402

Asked = torch.nn.LinearCrossEntropyOptions
HIDDEN, WEIGHTS = torch.zeros(6, 3), torch.zeros(5, 3)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
SOFT = torch.full((6, 5), 0.2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": torch.zeros(2, 3, 3)}, fastxent.ShapeError, "flatten"),
        ({"linear_weight": torch.zeros(3)}, fastxent.ShapeError, r"\(C, D\)"),
        ({"linear_weight": torch.zeros(3, 5)}, fastxent.ShapeError, "linear_weight.T"),
        ({"linear_weight": torch.zeros(0, 3)}, fastxent.ShapeError, "no class"),
        ({"linear_bias": torch.zeros(6)}, fastxent.ShapeError, r"shape \(5,\)"),
        ({"target": LABELS[:5]}, fastxent.ShapeError, "target"),
        ({"target": LABELS + 1}, fastxent.LabelError, "5"),
        ({"target": SOFT, "ignore_index": -100}, fastxent.OptionError, "ignore_index = -100"),
        ({"input": HIDDEN.long()}, fastxent.DTypeError, "matrix product"),
        ({"linear_weight": WEIGHTS.to("meta")}, fastxent.BackendError, "meta"),
        ({"weight": torch.ones(5, requires_grad=True)}, fastxent.OptionError, "requires grad"),
        ({"weight": torch.ones(4)}, fastxent.ShapeError, "weight"),
        ({"sample_weight": -torch.ones(6)}, fastxent.OptionError, "sample_weight"),
        ({"reduction": "average"}, fastxent.OptionError, "reduction"),
        ({"label_smoothing": 2.0}, fastxent.OptionError, "label_smoothing"),
        ({"grad_filter": -1.0}, fastxent.OptionError, "grad_filter"),
        ({"memory_budget": 1000}, fastxent.OptionError, "at least"),
        ({"aux": ("lose",)}, fastxent.OptionError, "aux"),
        ({"backend": "cuda"}, fastxent.BackendError, "cuda"),
        ({"options": {"batch_chunk_size": 2}}, fastxent.DTypeError, "LinearCrossEntropyOptions"),
        ({"options": Asked(acc_dtype=torch.float16)}, fastxent.OptionError, "acc_dtype"),
        ({"options": Asked(acc_dtype=torch.float64)}, fastxent.OptionError, "acc_dtype"),
        (
            {"options": Asked(batch_chunk_size=3, chunking_method="aspect_ratio:4")},
            fastxent.OptionError,
            "gives 1 rows",
        ),
        (
            {"options": Asked(batch_chunk_size=4), "memory_budget": 66_000},
            fastxent.OptionError,
            "chunks of 4 rows",
        ),
        *(
            (
                {"options": Asked(batch_chunk_size=4), "memory_budget": budget},
                error,
                "memory_budget",
            )
            for budget, error in (
                (float("nan"), fastxent.OptionError),
                (-1, fastxent.OptionError),
                ("x", fastxent.DTypeError),
            )
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refused_before_anything_is_computed(change, error, words):
    given = {"input": HIDDEN, "linear_weight": WEIGHTS, "target": LABELS, **change}
    with pytest.raises(error, match=words):
        linear_cross_entropy(**given)


# PyTorch's own forward mode still compiles with what it deprecates
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_budget_is_looked_at_in_forward_mode():
    with pytest.raises(fastxent.OptionError, match="memory_budget"):
        torch.func.jvp(
            lambda hidden: linear_cross_entropy(hidden, WEIGHTS, LABELS, memory_budget=-1),
            *((HIDDEN,), (HIDDEN,)),
        )


def test_side_outputs_need_plain_tensors():
    traced = torch.compile(linear_cross_entropy, backend="aot_eager")
    with pytest.raises(fastxent.OptionError, match="aux"):
        traced(HIDDEN, WEIGHTS, LABELS, aux=("lse",))


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (Asked(), [50, 50]),
        (Asked(batch_chunk_size=32), [32, 32, 32, 4]),
        (Asked(batch_chunk_size=1000), [100]),
        (Asked(chunking_method=None), [100]),
        # 700 classes are 87.5 times 8 features: 100 rows over 88, and the next power of 2
        (Asked(chunking_method="aspect_ratio"), [2] * 50),
        (Asked(chunking_method="aspect_ratio:2", acc_policy="compact"), [1] * 100),
        (Asked(acc_policy="accurate", acc_dtype=torch.float32), [50, 50]),
        (Asked(acc_policy="balanced", allow_retain_graph=True), [50, 50]),
    ],
    ids=str,
)
def test_options_of_pytorch_choose_the_chunks(asked, rows, monkeypatch):
    torch.manual_seed(0)
    given, chunk = [], linear_chunks._Call.chunk

    def noting(call, part, logits):
        given.append(part.stop - part.start)
        return chunk(call, part, logits)

    monkeypatch.setattr(linear_chunks._Call, "chunk", noting)
    is_free = asked.batch_chunk_size is None and asked.chunking_method == "auto"
    hidden, target = torch.randn(100, 8), torch.randint(700, (100,))
    ours = LinearCrossEntropyLoss(8, 700, options=asked, memory_budget=300_000 if is_free else None)
    theirs = torch.nn.LinearCrossEntropyLoss(8, 700)
    theirs.load_state_dict(ours.state_dict())
    loss, expected = ours(hidden, target), theirs(hidden, target)
    assert given == rows
    loss.backward(retain_graph=True)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.linear.weight.grad, 2 * theirs.linear.weight.grad)
