"""Wrong arguments of fastxent.torch: the same errors in every mode of calling."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastxent.torch needs it")

from torch.autograd import forward_ad  # noqa: E402
from torch.func import hessian, jvp, vmap  # noqa: E402

import fastxent  # noqa: E402
from fastxent.torch import (  # noqa: E402
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
    softmax,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain(function, x):
    return function(x)


def dual(function, x):
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(x, torch.ones_like(x)))


def pushed(function, x):
    return jvp(function, (x,), (torch.ones_like(x),))


def batched(function, x):
    return vmap(function)(torch.stack([x, x]))


def twice(function, x):
    return hessian(lambda x: function(x).sum())(x)


def mode(*ways):
    return pytest.mark.parametrize("way", ways, ids=lambda way: way.__name__)


OPTION, SHAPE = fastxent.OptionError, fastxent.ShapeError
LABELS = torch.tensor([0, 1, 2, 1])
WRONG = {
    "reduction": ({"reduction": "avg"}, OPTION, "reduction must be one of"),
    "smoothing": ({"label_smoothing": 2.0}, OPTION, "label_smoothing must lie"),
    "z_loss": ({"z_loss": -1.0}, OPTION, "z_loss must be finite"),
    "softcap": ({"softcap": -1.0}, OPTION, "softcap must be finite"),
    "logit_scale": ({"logit_scale": 0.0}, OPTION, "logit_scale must be finite"),
    "normalizer": ({"normalizer": -1.0}, OPTION, "normalizer must be finite"),
    "a sum's normalizer": ({"normalizer": 2.0, "reduction": "sum"}, OPTION, "needs reduction="),
    "all_ignored": ({"all_ignored": "x"}, OPTION, "all_ignored must be one of"),
    "backend": ({"backend": "nope"}, OPTION, "backend must be one of"),
    "num_threads": ({"num_threads": 0}, OPTION, "num_threads must be at least 1"),
    "weight": ({"weight": -torch.ones(5)}, OPTION, r"weight\[0\] is -1.0"),
    "weights": ({"weight": torch.ones(1)}, SHAPE, r"weight needs shape \(5,\)"),
    "rows": ({"sample_weight": torch.ones(1)}, SHAPE, r"sample_weight needs shape \(4,\)"),
    "labels' shape": ({"target": torch.tensor([1])}, SHAPE, r"needs shape \(4,\)"),
    "probabilities": ({"target": torch.rand(1, 5)}, SHAPE, "needs the logits' shape"),
    "label": ({"target": torch.full((4,), 9)}, fastxent.LabelError, r"target\[0\] is 9"),
    "smoothing with a graph": (
        {"label_smoothing": torch.nn.Parameter(torch.tensor(0.1))},
        fastxent.FastxentError,
        "requires grad|requires a gradient|gradient",
    ),
}


@mode(plain, dual, pushed, batched, twice)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_of_the_loss(name, way):
    given, error, message = WRONG[name]
    options = {"target": LABELS, **given}
    with pytest.raises(error, match=message):
        way(lambda x: cross_entropy(x, **options), torch.randn(4, 5))


BINARY_WRONG = {
    "reduction": ({"reduction": "avg"}, OPTION, "reduction must be one of"),
    "smoothing": ({"label_smoothing": 2.0}, OPTION, "label_smoothing must lie"),
    "backend": ({"backend": "nope"}, OPTION, "backend must be one of"),
    "num_threads": ({"num_threads": 0}, OPTION, "num_threads must be at least 1"),
    "weight": ({"weight": -torch.ones(5)}, OPTION, r"weight\[0\] is -1.0"),
    "pos_weight": ({"pos_weight": torch.ones(3)}, SHAPE, "pos_weight of shape"),
    "shape": ({"target": torch.rand(1, 5)}, SHAPE, "target needs shape"),
    "target": ({"target": torch.full((4, 5), 3)}, fastxent.LabelError, "is 3: integer targets"),
    "smoothing with a graph": (
        {"label_smoothing": torch.nn.Parameter(torch.tensor(0.1))},
        OPTION,
        "label_smoothing requires grad",
    ),
}


@mode(plain, dual, pushed, batched, twice)
@pytest.mark.parametrize("name", BINARY_WRONG)
def test_wrong_arguments_of_the_binary_loss(name, way):
    given, error, message = BINARY_WRONG[name]
    options = {"target": torch.rand(4, 5), **given}
    with pytest.raises(error, match=message):
        way(lambda x: binary_cross_entropy_with_logits(x, **options), torch.randn(4, 5))


@mode(plain, dual, pushed, batched)
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_wrong_arguments_of_softmax(function, way):
    x = torch.randn(4, 5)
    for given, error, message in (
        ({"dim": 5}, SHAPE, "axis 5 is out of range"),
        ({"dim": 1, "backend": "nope"}, OPTION, "backend must be one of"),
        ({"dim": 1, "num_threads": 0}, OPTION, "num_threads must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            way(lambda x, given=given: function(x, **given), x)
    with pytest.raises(SHAPE, match="axis 2 is out of range"):
        function(torch.empty(0, 3), 2)


@mode(dual, pushed, batched)
def test_right_arguments_pass_the_same_checks(way):
    """Labels that are ignored, and dtypes that NumPy has not, are no errors."""
    labels, weight = torch.tensor([0, -100, 2, 1]), torch.rand(5).bfloat16()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(4, 5).to(dtype)
        for target in (labels, labels.to(torch.int8), torch.rand(4, 5).bfloat16()):
            way(lambda x, y=target: cross_entropy(x, y, weight), x)
        for target in (torch.rand(4, 5).to(dtype), torch.rand(4, 5) > 0.5):
            way(lambda x, y=target: binary_cross_entropy_with_logits(x, y, weight), x)
        way(lambda x: softmax(x, 1), x)


def test_vmap_over_no_samples():
    for reduction, shape in (("mean", (0,)), ("sum", (0,)), ("none", (0, 4))):
        found = vmap(lambda x, y, r=reduction: cross_entropy(x, y, reduction=r))(
            torch.randn(0, 4, 5), torch.zeros(0, 4, dtype=torch.int64)
        )
        assert found.shape == shape
        found = vmap(lambda x, y, r=reduction: binary_cross_entropy_with_logits(x, y, reduction=r))(
            torch.randn(0, 4), torch.rand(0, 4)
        )
        assert found.shape == shape


# Tensors that are none for a kernel -------------------------------------------------------------


def test_layouts_and_dtypes_without_arrays():
    eye = torch.eye(4)
    for given in (eye.to_sparse(), eye.to_mkldnn()):
        with pytest.raises(fastxent.DTypeError, match=r"input has layout .*input\.to_dense"):
            cross_entropy(given, LABELS)
        with pytest.raises(fastxent.DTypeError, match="input has layout"):
            softmax(given, 1)
        with pytest.raises(fastxent.DTypeError, match="input has layout"):
            binary_cross_entropy_with_logits(given, eye)
    with pytest.raises(fastxent.DTypeError, match="target has layout"):
        cross_entropy(eye, eye.to_sparse())
    pytest.importorskip("ml_dtypes", reason="its names among NumPy's must make no difference")
    small = eye.to(torch.float8_e4m3fn)
    with pytest.raises(fastxent.DTypeError, match=r"float8_e4m3fn.*float32"):
        cross_entropy(small, LABELS)
    with pytest.raises(fastxent.DTypeError, match=r"target has dtype torch\.float8_e4m3fn"):
        cross_entropy(eye, small)
    with pytest.raises(fastxent.DTypeError, match="float8_e4m3fn"):
        binary_cross_entropy_with_logits(eye, small)


def test_scalars_and_nothing_at_all():
    with pytest.raises(fastxent.ShapeError, match="logits is a scalar"):
        cross_entropy(torch.tensor(1.0), torch.tensor(0))
    for function in (cross_entropy, binary_cross_entropy_with_logits):
        with pytest.raises(fastxent.DTypeError, match="input must be a tensor, got NoneType"):
            function(None, LABELS)
        with pytest.raises(fastxent.DTypeError, match="target must be a tensor, got NoneType"):
            function(torch.randn(4, 5), None)


def test_logits_that_are_a_negative_view():
    logits = torch.complex(torch.randn(4, 5), torch.randn(4, 5)).conj().imag
    assert logits.is_neg()
    expected = torch.nn.functional.cross_entropy(logits, LABELS)
    torch.testing.assert_close(cross_entropy(logits, LABELS), expected)


# in_place ---------------------------------------------------------------------------------------


def test_in_place_refuses_float16():
    logits = torch.randn(4, 5, dtype=torch.float16, requires_grad=True) * 1
    with pytest.raises(OPTION, match="float16 the gradient of a mean goes below the smallest"):
        cross_entropy(logits, LABELS, in_place=True)
    with pytest.raises(OPTION, match="leave in_place out"):
        CrossEntropyLoss(in_place=True)(logits, LABELS)
    cross_entropy(logits.bfloat16(), LABELS, in_place=True).backward()


def test_in_place_refuses_a_batch_of_upstream_gradients():
    logits = torch.randn(4, 5, requires_grad=True) * 1
    loss = cross_entropy(logits, LABELS, in_place=True)
    with pytest.raises(fastxent.CallOrderError, match="is_grads_batched=True"):
        torch.autograd.grad(loss, logits, torch.ones(3), is_grads_batched=True)


# Words ------------------------------------------------------------------------------------------


def test_integers_are_told_how_to_convert_a_tensor():
    with pytest.raises(TypeError, match=r"logits\.to\(torch\.float32\) of a PyTorch tensor"):
        cross_entropy(torch.ones(4, 5, dtype=torch.int64), LABELS)


def test_modules_show_their_options():
    assert repr(CrossEntropyLoss()) == "CrossEntropyLoss()"
    loss = CrossEntropyLoss(reduction="sum", z_loss=0.1, aux=["lse"])
    assert repr(loss) == "CrossEntropyLoss(reduction='sum', z_loss=0.1, aux=('lse',))"

    class Loss(CrossEntropyLoss):
        def __init__(self):
            super().__init__(softcap=3.0)

    assert repr(Loss()) == "Loss(softcap=3.0)"
    assert repr(BCEWithLogitsLoss(memory="low")) == "BCEWithLogitsLoss(memory='low')"
