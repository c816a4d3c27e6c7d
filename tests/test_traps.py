"""What other implementations of this loss have got wrong, one named test for each mistake.

The peers and their mistakes, found by reading their sources: Liger, unsloth and others cap padding
lanes; flash-attention's issue 1930, an online softmax whose first block is masked; and so on. The
comment of each test says whose it was.
"""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastxent as fx
from fastxent import reference

INF = np.inf
BLOCK = 1024
DTYPES = ["float16", "bfloat16", "float32", "float64"]
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# Around the lanes of every instruction set, and around a block.
WIDTHS = [
    1,
    2,
    3,
    5,
    7,
    9,
    15,
    17,
    31,
    33,
    63,
    65,
    100,
    101,
    127,
    BLOCK - 1,
    BLOCK + 1,
    2 * BLOCK + 3,
]


def dtype_of(name):
    if name == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="it has the dtype bfloat16").bfloat16
    return np.dtype(name)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return dtype_of(request.param)


def digits(dtype):
    """Relative tolerance of what is stored, and of what is computed, in a dtype."""
    stored = EPSILON[np.dtype(dtype).name]
    return 8 * stored, 16 * min(stored, EPSILON["float32"])


def assert_is_the_reference(logits, target, backend, **options):
    loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend, **options)
    expected, expected_grad = reference.cross_entropy_and_grad(logits, target, **options)
    stored, computed = digits(np.asarray(logits).dtype)
    assert_allclose(loss, expected, rtol=computed, atol=computed)
    assert_allclose(grad.astype(np.float64), expected_grad, rtol=stored, atol=stored)


# Soft-capping the padding lanes (Liger, unsloth) -----------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_soft_capped_padding_lanes_add_no_mass(dtype, backend):
    # Below -30 all real classes are at the cap: padding capped from -inf to -5 would weigh as much
    # as they do. Above, it would weigh exp(-10) as much.
    for classes in WIDTHS:
        for offset in (-1000.0, 1000.0):
            logits = np.full((3, classes), offset, dtype)
            labels = np.array([0, classes // 2, classes - 1])
            options = {"softcap": 5.0, "reduction": "none", "backend": backend}
            loss, grad, aux = fx.cross_entropy_and_grad(logits, labels, aux=("lse",), **options)
            cap = math.copysign(5.0, offset)
            assert_allclose(loss, np.full(3, math.log(classes)), rtol=1e-6, atol=1e-7)
            assert_allclose(aux.lse, np.full(3, cap + math.log(classes)), rtol=1e-6)
            assert_allclose(grad, np.zeros_like(grad), atol=1e-6)


def test_a_masked_class_stays_masked_under_a_soft_cap(dtype, backend):
    rng = np.random.default_rng(0)
    for classes in (3, 17, 70, 130, BLOCK + 6):
        logits = (3 * rng.standard_normal((4, classes))).astype(dtype)
        masked = logits.copy()
        masked[:, 1::2] = -INF
        labels = 2 * rng.integers(0, (classes + 1) // 2, 4)
        options = {"softcap": 5.0, "reduction": "none", "backend": backend}
        loss, grad = fx.cross_entropy_and_grad(masked, labels, **options)
        kept, kept_grad = fx.cross_entropy_and_grad(
            np.ascontiguousarray(masked[:, ::2]), labels // 2, **options
        )
        stored, computed = digits(dtype)
        assert_allclose(loss, kept, rtol=computed, atol=computed)
        assert not np.any(grad[:, 1::2] != 0)
        assert_allclose(
            grad[:, ::2].astype(np.float64), kept_grad.astype(np.float64), rtol=stored, atol=stored
        )


# A first block of nothing but -inf (flash-attention 1930, Liger, TransformerEngine) -------------


@pytest.mark.parametrize("first", [1, 16, BLOCK, 2 * BLOCK, 2 * BLOCK + 29])
def test_a_first_block_of_masked_classes(first, dtype, backend):
    # An online softmax without care computes exp(-inf - -inf) = NaN.
    rng = np.random.default_rng(first)
    classes = 2 * BLOCK + 30
    logits = rng.standard_normal((4, classes)).astype(dtype)
    logits[:, :first] = -INF
    labels = rng.integers(first, classes, 4)
    probabilities = rng.uniform(0, 1e-3, (4, classes)).astype(dtype)
    probabilities[:, :first] = 0
    for target in (labels, probabilities):
        assert_is_the_reference(logits, target, backend, reduction="none")
    assert_is_the_reference(logits, labels, backend, z_loss=1e-3)
    p = fx.softmax(logits, backend=backend).astype(np.float64)
    assert_allclose(p, reference.softmax(logits), rtol=digits(dtype)[0], atol=1e-7)
    assert np.isfinite(fx.logsumexp(logits, backend=backend)).all()


# Sums in the dtype of the input (PyTorch on a CPU) ---------------------------------------------


def test_counts_and_sums_do_not_live_in_the_dtype_of_the_input(dtype, backend):
    # float16 ends at 65,504: a count of rows, a sum of weights or of losses beyond is infinite;
    # bfloat16 counts up to 256 and no further.
    rows = 70_000
    logits = np.zeros((rows, 2), dtype)
    labels = np.arange(rows) % 2
    weight = np.array([3.0, 3.0])
    q = np.full((rows, 2), 0.5).astype(dtype)
    for target, w in ((labels, None), (labels, weight), (q, None)):
        loss, grad = fx.cross_entropy_and_grad(logits, target, weight=w, backend=backend)
        assert_allclose(loss, math.log(2), rtol=1e-6)
        expected = np.full((rows, 2), 0.5 / rows)
        expected[np.arange(rows), labels] *= -1
        if target is q:
            expected[:] = 0
        half_subnormal = 2.0**-25 if np.dtype(dtype).name == "float16" else 0
        error = np.abs(grad.astype(np.float64) - expected).max()
        assert error <= EPSILON[np.dtype(dtype).name] / rows + half_subnormal
    total = fx.cross_entropy(logits, labels, reduction="sum", backend=backend)
    assert_allclose(total, rows * math.log(2), rtol=1e-6)
    total = fx.cross_entropy(logits, labels, sample_weight=np.full(rows, 8.0), backend=backend)
    assert_allclose(total, math.log(2), rtol=1e-6)


# A maximum that starts too high (XGBoost, llm.c) -----------------------------------------------


@pytest.mark.parametrize("classes", [4, 17, 130, BLOCK + 6])
@pytest.mark.parametrize("top", [-110.0, -800.0, -10_001.0, -60_000.0, -3e38])
def test_a_row_far_below_zero(top, classes, dtype, backend):
    # A row maximum that starts at the smallest positive float gives NaN below about -104 (XGBoost);
    # llm.c starts at -10000.
    if np.dtype(dtype).name == "float16" and top < -65_504:
        pytest.skip("float16 ends at -65,504")
    logits = np.full((2, classes), top).astype(dtype)
    logits[1, 1:] = -INF
    labels = np.zeros(2, np.int64)
    loss, grad, aux = fx.cross_entropy_and_grad(
        logits, labels, reduction="none", aux=("lse",), backend=backend
    )
    assert_allclose(loss, [math.log(classes), 0], rtol=1e-6)
    expected = np.full((2, classes), 1 / classes)
    expected[1] = 0
    expected[0, 0] -= 1
    assert_allclose(grad.astype(np.float64), expected, rtol=digits(dtype)[0], atol=1e-7)
    assert_allclose(aux.lse - logits[:, 0].astype(np.float64), loss, atol=1e-6 * -top)


# Labels that are not checked in time (Liger's fused linear, onnxruntime, apex) ------------------


@pytest.mark.parametrize("bad", [-1, 5, 10**9, -(2**63), 2**63 - 1])
def test_a_bad_label_is_found_before_anything_is_written(bad, backend):
    logits = np.random.default_rng(0).standard_normal((40, 5))
    labels = np.zeros(40, np.int64)
    labels[33] = bad
    for out in (np.full((40, 5), 7.0), logits):
        before = out.copy()
        for options in (
            {},
            {"weight": np.ones(5)},
            {"label_smoothing": 0.1},
            {"reduction": "none"},
        ):
            with pytest.raises(fx.LabelError, match=rf"target\[33\] is {bad}"):
                fx.cross_entropy_and_grad(logits, labels, out=out, backend=backend, **options)
        assert_array_equal(out, before)


@pytest.mark.parametrize("ignore_index", [-100, 255, 5, 2**62, -(2**63)])
def test_an_ignored_label_is_no_index(ignore_index, backend):
    # onnxruntime and QuACK looked up weight[label] before they tested for ignored labels.
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((9, 5))
    labels = rng.integers(0, 5, 9)
    labels[::2] = ignore_index
    options = {"weight": rng.uniform(1, 2, 5), "sample_weight": rng.uniform(1, 2, 9)}
    for smoothing in (0.0, 0.1):
        for reduction in ("mean", "sum", "none"):
            assert_is_the_reference(
                logits,
                labels,
                backend,
                ignore_index=ignore_index,
                label_smoothing=smoothing,
                reduction=reduction,
                **options,
            )


# 32-bit offsets (apex, onnxruntime) ------------------------------------------------------------


def test_offsets_beyond_32_bits(backend):
    # Few elements, far apart, in pages that are never written. `more elements than 32 bits can
    # count`, in test_numerics.py, goes through as many.
    step = 2**29 + 8
    try:
        memory = np.zeros(9 * step, np.float32)
    except MemoryError as error:
        pytest.skip(f"no address space: {error}")
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((9, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 9)
    expected = fx.cross_entropy_and_grad(plain, labels, backend=backend)
    rows_apart = np.lib.stride_tricks.as_strided(memory, (9, 5), (4 * step, 4))
    rows_apart[...] = plain
    results = fx.cross_entropy_and_grad(rows_apart, labels, backend=backend)
    assert_array_equal(results[0], expected[0])
    assert_array_equal(results[1], expected[1])
    out = np.lib.stride_tricks.as_strided(memory[64:], (9, 5), (4 * step, 4))
    _, grad = fx.cross_entropy_and_grad(plain, labels, out=out, backend=backend)
    assert_array_equal(grad, expected[1])


def test_classes_beyond_32_bits_apart(backend):
    step = 2**29 + 8
    try:
        memory = np.zeros(9 * step, np.float32)
    except MemoryError as error:
        pytest.skip(f"no address space: {error}")
    plain = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    labels = np.array([0, 8, 4, 3, 7])
    classes_apart = np.lib.stride_tricks.as_strided(memory, (9, 5), (4 * step, 4))
    classes_apart[...] = plain
    results = fx.cross_entropy_and_grad(classes_apart, labels, axis=0, backend=backend)
    expected = reference.cross_entropy_and_grad(plain, labels, axis=0)
    assert_allclose(results[0], expected[0], rtol=1e-6)
    assert_allclose(results[1], expected[1], atol=1e-6)


# -log(p) instead of lse - x_y (llm.c, the ONNX reference, the textbook class) -------------------


@pytest.mark.parametrize("classes", [2, 17, 130, BLOCK + 6])
def test_the_loss_outlives_the_probability(classes, dtype, backend):
    # p underflows 104 below the maximum in float32, 745 in float64: -log(p) is infinite there.
    logits = np.zeros((2, classes), dtype)
    logits[:, 1] = -2000
    p = fx.softmax(logits, backend=backend)
    assert p[0, 1] == 0
    expected = 2000 + math.log(classes - 1)
    labels = np.array([1, 1])
    one_hot = np.eye(classes)[labels]
    for target in (labels, one_hot.astype(dtype), one_hot.astype(bool)):
        loss = fx.cross_entropy(logits, target, reduction="none", backend=backend)
        assert_allclose(loss, [expected, expected], rtol=1e-6)
    log_p = fx.log_softmax(logits, backend=backend)[0, 1]
    assert_allclose(float(log_p), -expected, rtol=EPSILON[np.dtype(dtype).name])


def test_zero_times_log_zero_is_zero(dtype, backend):
    # The textbook class computes -Y * log(softmax(A)): 0 * log(0) = NaN.
    logits = np.array([[0.0, -5000.0, 1.0]] * 2).astype(dtype)
    one_hot = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for target in (one_hot.astype(dtype), one_hot.astype(bool)):
        loss_function = fx.CrossEntropyLoss(backend=backend)
        assert_allclose(
            loss_function.forward(logits, target), math.log(1 + math.e) - 0.5, rtol=1e-6
        )
        assert np.isfinite(loss_function.backward().astype(np.float64)).all()


# (sigma - Y) / N, hard-wired -------------------------------------------------------------------


@pytest.mark.parametrize("classes", [5, 130, BLOCK + 6])
def test_rows_of_probabilities_need_not_sum_to_one(classes, backend):
    # The gradient is (S * sigma - t) / N with S the sum of the row's t: of probabilities that do
    # not sum to one, and of weighted ones, S is not 1.
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, classes))
    q = rng.uniform(0, 2, (6, classes))
    sigma = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for weight in (np.ones(classes), rng.uniform(0.5, 2, classes)):
        t = weight * q
        expected = (t.sum(axis=1, keepdims=True) * sigma - t) / 6
        options = {} if weight[0] == 1 else {"weight": weight}
        _, grad = fx.cross_entropy_and_grad(logits, q, backend=backend, **options)
        assert_allclose(grad, expected, rtol=1e-12, atol=1e-14 * classes)
        assert np.abs(grad - (sigma - q) / 6).max() > 0.01


# The attribute that overwrites the method, and other state --------------------------------------


def test_the_second_forward_works_as_the_first(backend):
    # A class whose attribute `softmax` overwrites its method `softmax` works once.
    logits, labels = np.random.default_rng(0).standard_normal((2, 6, 5)), np.arange(6) % 5
    loss_function = fx.CrossEntropyLoss(backend=backend)
    names = set(vars(type(loss_function)))
    for A in (logits[0], logits[1], logits[0]):
        loss = loss_function.forward(A, labels)
        expected = fx.cross_entropy_and_grad(A, labels, backend=backend)
        assert loss == expected[0]
        assert_array_equal(loss_function.backward(), expected[1])
    assert not names & set(vars(loss_function))


def test_a_second_backward_is_not_scaled_twice(backend):
    # Liger and TransformerEngine multiply the stored gradient by the upstream one, in place.
    logits, labels = np.random.default_rng(0).standard_normal((6, 5)), np.arange(6) % 5
    loss_function = fx.CrossEntropyLoss(backend=backend)
    loss_function.forward(logits, labels)
    once = loss_function.backward().copy()
    assert_array_equal(loss_function.backward(), once)
    for _ in range(2):
        _, grad = fx.cross_entropy_and_grad(logits, labels, grad_output=3.0, backend=backend)
        assert_allclose(grad, 3 * once, rtol=1e-15)


def test_the_logits_are_written_over_only_when_asked(dtype, backend):
    # Liger 272: the gradient goes over logits that are used elsewhere.
    logits = np.random.default_rng(0).standard_normal((6, 5)).astype(dtype)
    labels = np.arange(6) % 5
    before = logits.tobytes()
    loss_function = fx.CrossEntropyLoss(backend=backend)
    loss_function.forward(logits, labels)
    assert not np.shares_memory(loss_function.backward(), logits)
    for reduction in ("mean", "sum", "none"):
        _, grad = fx.cross_entropy_and_grad(logits, labels, reduction=reduction, backend=backend)
        assert not np.shares_memory(grad, logits)
    for function in (fx.softmax, fx.log_softmax):
        assert not np.shares_memory(function(logits, backend=backend), logits)
    assert logits.tobytes() == before
    _, grad = fx.cross_entropy_and_grad(logits, labels, out=logits, backend=backend)
    assert grad is logits
    assert logits.tobytes() != before


# reduction="none" (Liger 678 and 968) ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
@pytest.mark.parametrize("leading", [(6,), (2, 3), ()])
def test_no_reduction_has_a_loss_and_a_gradient_for_each_row(leading, kind, backend):
    # A scalar, zeros, then wrong gradients, in three releases.
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*leading, 5))
    target = rng.integers(0, 5, leading) if kind == "class indices" else rng.random((*leading, 5))
    upstream = rng.standard_normal(leading)
    loss, grad = fx.cross_entropy_and_grad(
        logits, target, reduction="none", grad_output=upstream, backend=backend
    )
    assert np.shape(loss) == leading
    for row in np.ndindex(leading):
        alone = fx.cross_entropy_and_grad(logits[row], target[row], backend=backend)
        assert_allclose(np.asarray(loss)[row], alone[0], rtol=1e-14)
        assert_allclose(grad[row], np.asarray(upstream)[row] * alone[1], rtol=1e-13, atol=1e-16)
        assert np.abs(grad[row]).max() > 0


# Masked classes without mass (optax's safe variant) ----------------------------------------------


@pytest.mark.parametrize("classes", [5, 130, BLOCK + 6])
def test_a_masked_class_without_mass_costs_nothing(classes, dtype, backend):
    # 0 * -inf = NaN everywhere but in optax.safe_softmax_cross_entropy
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, classes)).astype(dtype)
    logits[:, 1::3] = -INF
    q = rng.uniform(0, 1, (4, classes)).astype(dtype)
    q[:, 1::3] = 0
    weight = np.ones(classes)
    weight[1::3] = 0
    for target, options in (
        (q, {}),
        (q, {"weight": np.full(classes, 2.0)}),
        (rng.uniform(0, 1, q.shape).astype(dtype), {"weight": weight}),
        (q, {"weight": weight, "label_smoothing": 0.1}),
        (np.zeros(4, np.int64), {"weight": weight, "label_smoothing": 0.1}),
        (np.eye(classes, dtype=bool)[[0, 0, 3, 3]], {}),
        (q, {"z_loss": 1e-3}),
    ):
        assert_is_the_reference(logits, target, backend, reduction="none", **options)
        losses = fx.cross_entropy(logits, target, reduction="none", backend=backend, **options)
        assert np.isfinite(losses).all()


def test_that_is_what_optax_gives(backend):
    optax = pytest.importorskip("optax", reason="it is the peer with the same rule")
    logits = np.array([[1.0, -INF, 2.0], [-INF, 0.5, -1.0]], np.float32)
    q = np.array([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]], np.float32)
    expected = np.asarray(optax.losses.safe_softmax_cross_entropy(logits, q))
    losses = fx.cross_entropy(logits, q, reduction="none", backend=backend)
    assert_allclose(losses, expected, rtol=1e-6)
