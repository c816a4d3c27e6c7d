"""Bad input: the right error class, a message that helps, and nothing written."""

import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx

N, C = 5, 7
RNG = np.random.default_rng(11)
LOGITS = RNG.standard_normal((N, C)).astype(np.float32)
LABELS = np.array([0, 6, 3, 3, 1])


# arguments that replace good ones, error class, builtin class, words of the message
BAD = {
    "label too large": (
        {"target": np.array([0, 6, 7, 3, 1])},
        fx.LabelError,
        IndexError,
        ["target[2] is 7", "[0, 7)", "C = 7", "ignore_index = -100"],
    ),
    "label negative": (
        {"target": np.array([0, 6, 3, -1, 1])},
        fx.LabelError,
        IndexError,
        ["target[3] is -1"],
    ),
    "label -100 without ignoring": (
        {"target": np.array([0, -100, 3, 3, 1]), "ignore_index": None},
        fx.LabelError,
        IndexError,
        ["target[1] is -100"],
    ),
    "label beyond int64": (
        {"target": np.array([0, 1, 2, 3, 2**64 - 1], np.uint64)},
        fx.LabelError,
        IndexError,
        ["target[4] is 18446744073709551615"],
    ),
    "label lowest int64": (
        {"target": np.array([0, 1, 2, 3, -(2**63)])},
        fx.LabelError,
        IndexError,
        ["target[4] is -9223372036854775808"],
    ),
    "target too short": ({"target": LABELS[:4]}, fx.ShapeError, ValueError, ["(5,)", "(4,)"]),
    "target is a scalar": ({"target": 3}, fx.ShapeError, ValueError, ["(5,)", "a scalar"]),
    "float labels": (
        {"target": LABELS.astype(float)},
        fx.ShapeError,
        ValueError,
        ["(5, 7)", "(5,)", "target.astype('int64')"],
    ),
    "integer labels of the logits' shape": (
        {"target": np.eye(N, C, dtype=int)},
        fx.ShapeError,
        ValueError,
        ["(5,)", "(5, 7)", "target.astype('float32')"],
    ),
    "labels of shape (N, 1)": (
        {"target": LABELS[:, None]},
        fx.ShapeError,
        ValueError,
        ["(5,)", "(5, 1)", "target.squeeze(1)"],
    ),
    "probabilities of another shape": (
        {"target": np.ones((N, C + 1))},
        fx.ShapeError,
        ValueError,
        ["(5, 7)", "(5, 8)"],
    ),
    "complex target": (
        {"target": np.ones((N, C), complex)},
        fx.DTypeError,
        TypeError,
        ["complex128", "integer dtype"],
    ),
    "object target": ({"target": np.array([None] * N)}, fx.DTypeError, TypeError, ["object"]),
    "text target": ({"target": list("abcde")}, fx.DTypeError, TypeError, ["<U1"]),
    "ragged target": ({"target": [[1], [1, 2]]}, fx.DTypeError, TypeError, ["target"]),
    "integer logits": (
        {"logits": np.ones((N, C), int)},
        fx.DTypeError,
        TypeError,
        ["int64", "logits.astype('float32')"],
    ),
    "boolean logits": ({"logits": np.ones((N, C), bool)}, fx.DTypeError, TypeError, ["bool"]),
    "bits of half precision": (
        {"logits": LOGITS.astype(np.float16).view(np.uint16)},
        fx.DTypeError,
        TypeError,
        ["uint16", "logits.view('float16')", "logits.view(ml_dtypes.bfloat16)"],
    ),
    "long double logits": (
        {"logits": LOGITS.astype(np.longdouble)},
        fx.DTypeError,
        TypeError,
        ["float16, bfloat16, float32 and float64 are supported"],
    ),
    "complex logits": ({"logits": LOGITS.astype(complex)}, fx.DTypeError, TypeError, ["complex"]),
    "object logits": ({"logits": LOGITS.astype(object)}, fx.DTypeError, TypeError, ["object"]),
    "masked logits": (
        {"logits": np.ma.masked_less(LOGITS, 0)},
        fx.DTypeError,
        TypeError,
        ["mask", "ignore_index"],
    ),
    "masked target": (
        {"target": np.ma.masked_equal(LABELS, 3)},
        fx.DTypeError,
        TypeError,
        ["target is a masked array"],
    ),
    "scalar logits": ({"logits": np.float32(1)}, fx.ShapeError, ValueError, ["scalar"]),
    "no classes": (
        {"logits": np.ones((N, 0))},
        fx.ShapeError,
        ValueError,
        ["(5, 0)", "no class"],
    ),
    "axis out of range": ({"axis": 2}, fx.ShapeError, ValueError, ["axis 2", "(5, 7)"]),
    "axis is a tuple": ({"axis": (0, 1)}, fx.DTypeError, TypeError, ["axis", "(0, 1)"]),
    "weight of wrong length": ({"weight": np.ones(6)}, fx.ShapeError, ValueError, ["(7,)", "(6,)"]),
    "weight negative": (
        {"weight": [1, 1, -2, 1, 1, 1, 1]},
        fx.OptionError,
        ValueError,
        ["weight[2] is -2.0", "not negative"],
    ),
    "weight NaN": ({"weight": [np.nan] * 7}, fx.OptionError, ValueError, ["weight[0] is nan"]),
    "weight beyond float32": (
        {"weight": [1, 1, 1, 1, 1e39, 1, 1]},
        fx.OptionError,
        ValueError,
        ["weight[4] is 1e+39", "class", "finite in float32"],
    ),
    "weight complex": ({"weight": np.ones(7, complex)}, fx.DTypeError, TypeError, ["complex"]),
    "sample_weight of wrong shape": (
        {"sample_weight": np.ones((N, C))},
        fx.ShapeError,
        ValueError,
        ["sample_weight", "(5,)"],
    ),
    "sample_weight negative": (
        {"sample_weight": [1, 1, 1, 1, -1]},
        fx.OptionError,
        ValueError,
        ["sample_weight[4]"],
    ),
    "label_smoothing above one": (
        {"label_smoothing": 1.5},
        fx.OptionError,
        ValueError,
        ["[0, 1]", "1.5"],
    ),
    "label_smoothing negative": (
        {"label_smoothing": -0.1},
        fx.OptionError,
        ValueError,
        ["[0, 1]", "-0.1"],
    ),
    "label_smoothing NaN": ({"label_smoothing": np.nan}, fx.OptionError, ValueError, ["nan"]),
    "label_smoothing text": ({"label_smoothing": "0.1"}, fx.DTypeError, TypeError, ["'0.1'"]),
    "unknown reduction": (
        {"reduction": "average"},
        fx.OptionError,
        ValueError,
        ["'none', 'mean', 'sum'", "'average'"],
    ),
    "reduction None": ({"reduction": None}, fx.OptionError, ValueError, ["None"]),
    "unknown all_ignored": (
        {"all_ignored": "one"},
        fx.OptionError,
        ValueError,
        ["'nan', 'zero'", "'one'"],
    ),
    "normalizer with sum": (
        {"normalizer": 3.0, "reduction": "sum"},
        fx.OptionError,
        ValueError,
        ["reduction='mean'", "'sum'"],
    ),
    "normalizer negative": ({"normalizer": -1}, fx.OptionError, ValueError, ["-1"]),
    "normalizer infinite": ({"normalizer": np.inf}, fx.OptionError, ValueError, ["finite"]),
    "ignore_index float": ({"ignore_index": 1.0}, fx.DTypeError, TypeError, ["ignore_index"]),
    "ignore_index with probabilities": (
        {"target": np.ones((N, C)), "ignore_index": 3},
        fx.OptionError,
        ValueError,
        ["ignore_index = 3", "probability"],
    ),
    "unknown backend": (
        {"backend": "fortran"},
        fx.OptionError,
        ValueError,
        ["'cython'", "'numpy'", "'fortran'"],
    ),
    "z_loss negative": ({"z_loss": -0.1}, fx.OptionError, ValueError, ["z_loss", "-0.1"]),
    "z_loss infinite": ({"z_loss": np.inf}, fx.OptionError, ValueError, ["finite", "inf"]),
    "z_loss NaN": ({"z_loss": np.nan}, fx.OptionError, ValueError, ["finite", "nan"]),
    "z_loss text": ({"z_loss": "0.1"}, fx.DTypeError, TypeError, ["z_loss", "'0.1'"]),
    "z_loss of rows": ({"z_loss": np.ones(N)}, fx.DTypeError, TypeError, ["one real number"]),
    "softcap zero": ({"softcap": 0}, fx.OptionError, ValueError, ["above 0", "softcap=None"]),
    "softcap negative": ({"softcap": -30.0}, fx.OptionError, ValueError, ["softcap", "-30.0"]),
    "softcap infinite": ({"softcap": np.inf}, fx.OptionError, ValueError, ["softcap", "inf"]),
    "softcap beyond float32": (
        {"softcap": 1e39},
        fx.OptionError,
        ValueError,
        ["softcap must be finite and above 0 in float32", "1e+39"],
    ),
    "softcap below float32": (
        {"softcap": np.float64(1e-46)},
        fx.OptionError,
        ValueError,
        ["softcap must be finite and above 0 in float32", "1e-46"],
    ),
    "1 over softcap beyond float32": (
        {"softcap": 1e-40},
        fx.OptionError,
        ValueError,
        ["1 / softcap", "finite and above 0 in float32", "1e-40"],
    ),
    "logit_scale over softcap beyond float32": (
        {"softcap": np.float64(1e-10), "logit_scale": 1e30},
        fx.OptionError,
        ValueError,
        ["logit_scale / softcap", "finite and above 0 in float32", "1e+30"],
    ),
    "logit_scale beyond float32": (
        {"logit_scale": 1e39},
        fx.OptionError,
        ValueError,
        ["logit_scale must be finite and above 0 in float32", "1e+39"],
    ),
    "softcap text": ({"softcap": "30"}, fx.DTypeError, TypeError, ["softcap", "'30'"]),
    "logit_scale zero": ({"logit_scale": 0.0}, fx.OptionError, ValueError, ["logit_scale=1.0"]),
    "logit_scale NaN": ({"logit_scale": np.nan}, fx.OptionError, ValueError, ["logit_scale"]),
    "logit_scale None": ({"logit_scale": None}, fx.DTypeError, TypeError, ["logit_scale", "None"]),
    "aux unknown": (
        {"aux": ("lse", "perplexity")},
        fx.OptionError,
        ValueError,
        ["aux[1]", "'entropy'", "'perplexity'"],
    ),
    "aux no name": ({"aux": (1,)}, fx.OptionError, ValueError, ["aux[0]", "'lse'"]),
    "aux repeated": (
        {"aux": ("lse", "argmax", "lse")},
        fx.OptionError,
        ValueError,
        ["'lse' twice"],
    ),
    "aux one string": ({"aux": "lse"}, fx.OptionError, ValueError, ["aux=('lse',)"]),
    "aux no iterable": ({"aux": 3}, fx.DTypeError, TypeError, ["aux", "('lse',)", "3"]),
    "aux a 0-d array": ({"aux": np.array("lse")}, fx.DTypeError, TypeError, ["aux", "('lse',)"]),
    "aux None": ({"aux": None}, fx.DTypeError, TypeError, ["aux", "None"]),
    "aux target_grad of labels": (
        {"aux": ("target_grad",)},
        fx.OptionError,
        ValueError,
        ["'target_grad'", "probabilities"],
    ),
    "no threads": ({"num_threads": 0}, fx.OptionError, ValueError, ["at least 1", "0"]),
    "negative threads": ({"num_threads": -1}, fx.OptionError, ValueError, ["at least 1"]),
    "threads float": ({"num_threads": 2.0}, fx.DTypeError, TypeError, ["num_threads"]),
    "grad_output of wrong shape": (
        {"grad_output": np.ones(3)},
        fx.ShapeError,
        ValueError,
        ["grad_output", "(5,)", "(3,)"],
    ),
    "out of wrong shape": ({"out": np.zeros((C, N), "f4")}, fx.ShapeError, ValueError, ["(5, 7)"]),
    "out of wrong dtype": (
        {"out": np.zeros((N, C))},
        fx.DTypeError,
        TypeError,
        ["float32", "float64"],
    ),
    "out big-endian": (
        {"out": np.zeros((N, C), ">f4")},
        fx.DTypeError,
        TypeError,
        ["native byte order"],
    ),
    "out is a list": ({"out": [[0.0] * C] * N}, fx.DTypeError, TypeError, ["list"]),
}
FORWARD_ONLY = {"grad_output", "out"}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument(name):
    replaced, error, builtin, words = BAD[name]
    good = {"logits": LOGITS.copy(), "target": LABELS, "out": np.full((N, C), 9, np.float32)}
    arguments = good | replaced
    out = arguments["out"]
    before = np.array(out), np.array(good["logits"])
    assert issubclass(error, fx.FastxentError)
    assert issubclass(error, builtin)
    with pytest.raises(error) as caught:
        fx.cross_entropy_and_grad(**arguments)
    for word in words:
        assert word in str(caught.value)
    assert np.array_equal(before[0], np.array(out))
    assert np.array_equal(before[1], good["logits"])
    if not FORWARD_ONLY & set(replaced):
        arguments.pop("out")
        with pytest.raises(error):
            fx.cross_entropy(**arguments)


def test_read_only_out():
    out = np.zeros_like(LOGITS)
    out.flags.writeable = False
    with pytest.raises(fx.OutputError, match="read-only"):
        fx.cross_entropy_and_grad(LOGITS, LABELS, out=out)


def test_broadcast_out():
    memory = np.zeros(C, np.float32)
    out = np.lib.stride_tricks.as_strided(memory, (N, C), (0, 4))
    with pytest.raises(fx.OutputError, match="broadcast"):
        fx.cross_entropy_and_grad(LOGITS, LABELS, out=out)


def test_every_overlap_of_out_with_the_logits():
    """All offsets and steps on a small buffer: exact aliasing works, no overlap works, the rest
    is an error that leaves the buffer alone."""
    size = 3
    buffer = RNG.standard_normal(60)
    labels = np.array([0, 2, 1])
    seen = set()
    for offset in range(20):
        for row_step in (3, 4, 5, 6, 7):
            for class_step in (1, 2):
                source = np.lib.stride_tricks.as_strided(
                    buffer[10:], (size, size), (5 * 8, 8), writeable=True
                )
                out = np.lib.stride_tricks.as_strided(
                    buffer[offset:], (size, size), (row_step * 8, class_step * 8), writeable=True
                )
                elements = [
                    {
                        array.__array_interface__["data"][0]
                        + i * array.strides[0]
                        + j * array.strides[1]
                        for i in range(size)
                        for j in range(size)
                    }
                    for array in (source, out)
                ]
                if len(elements[1]) < size * size:
                    continue  # an output that overlaps itself
                expected = fx.cross_entropy_and_grad(source.copy(), labels)
                before = buffer.copy()
                same = offset == 10 and row_step == 5 and class_step == 1
                if elements[0] & elements[1] and not same:
                    seen.add("overlap")
                    with pytest.raises(fx.OutputError, match=r"overlaps logits.*out=logits"):
                        fx.cross_entropy_and_grad(source, labels, out=out)
                    assert np.array_equal(buffer, before)
                else:
                    seen.add("same" if same else "apart")
                    loss, grad = fx.cross_entropy_and_grad(source, labels, out=out)
                    assert loss == expected[0]
                    assert grad is out
                    assert np.array_equal(out, expected[1])
                buffer[:] = before
    assert seen == {"same", "apart", "overlap"}


@pytest.mark.parametrize("name", ["target", "weight", "sample_weight", "grad_output"])
def test_out_must_not_be_another_input(name):
    memory = np.ones((4, 4))
    arguments = {"target": np.eye(4), name: memory if name == "target" else memory[0]}
    with pytest.raises(fx.OutputError, match=f"shares memory with {name}"):
        fx.cross_entropy_and_grad(RNG.standard_normal((4, 4)), **arguments, out=memory)
    assert np.array_equal(memory, np.ones((4, 4)))


@pytest.mark.parametrize("function", [fx.softmax, fx.log_softmax, fx.logsumexp])
def test_softmax_family(function):
    with pytest.raises(fx.DTypeError, match=r"x has dtype int64.*x\.astype"):
        function(np.ones((2, 2), int))
    with pytest.raises(fx.ShapeError, match="axis 2 is out of range for x"):
        function(np.ones((2, 2)), axis=2)
    if function is not fx.logsumexp:  # nothing adds up to 0, and its logarithm is -inf
        with pytest.raises(fx.ShapeError, match="no class"):
            function(np.ones((2, 0)))
    for axis in (0.0, "0", [0, 1], (0, None)):
        with pytest.raises(fx.DTypeError, match="a tuple of integers, or None"):
            function(np.ones((2, 2)), axis=axis)
    with pytest.raises(fx.ShapeError, match=r"axis \(0, -2\) names an axis of x.* twice"):
        function(np.ones((2, 2)), axis=(0, -2))
    with pytest.raises(fx.DTypeError, match="a tuple of integers, or None"):
        function(np.ones((2, 2)), axis=np.array([0, 1]))
    if function is not fx.logsumexp:
        x = np.ones((2, 2))
        for axis in (-1, (0, 1)):
            with pytest.raises(fx.OutputError, match=r"out overlaps x without.*pass out=x"):
                function(x, axis=axis, out=x[::-1])
    with pytest.raises(fx.ShapeError, match="x is a scalar"):
        function(np.float32(1))
    with pytest.raises(fx.OptionError, match="num_threads"):
        function(np.ones((2, 2)), num_threads=0)


def test_check_labels():
    fx.check_labels([[0, 1], [2, -100]], 3)
    fx.check_labels(np.zeros(0, int), 1)
    fx.check_labels(np.array([255, 0], np.uint8), 2, ignore_index=255)
    with pytest.raises(fx.LabelError, match=r"target\[1, 0\] is 3"):
        fx.check_labels([[0, 1], [3, 5]], 3)
    with pytest.raises(fx.LabelError, match=r"target is 4"):
        fx.check_labels(4, 3)
    with pytest.raises(fx.DTypeError, match="float64"):
        fx.check_labels([0.0, 1.0], 3)
    with pytest.raises(fx.OptionError, match="num_classes"):
        fx.check_labels([0], 0)
    with pytest.raises(fx.DTypeError, match="num_classes"):
        fx.check_labels([0], 2.5)


def test_place_of_a_bad_label_in_many_dimensions():
    logits = np.zeros((2, 4, 3), np.float32)
    target = np.zeros((2, 3), int)
    target[1, 2] = 4
    with pytest.raises(fx.LabelError, match=r"target\[1, 2\] is 4.*C = 4"):
        fx.cross_entropy(logits, target, axis=1)


def test_first_bad_label_of_many_rows(backend):
    target = np.zeros(100_000, np.int16)
    target[[60_001, 60_000, 99_999]] = 2
    logits = np.zeros((100_000, 2), np.float32)
    for num_threads in (1, 4):
        with pytest.raises(fx.LabelError, match=r"target\[60000\] is 2"):
            fx.cross_entropy(logits, target, backend=backend, num_threads=num_threads)


def test_ignored_rows_are_never_read(backend):
    """The rows lie on pages that may not be read: reading one would end the process."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    rows = 4 * page // (8 * 4)
    memory = mmap.mmap(-1, 4 * page)
    logits = np.frombuffer(memory, np.float32).reshape(rows, 8)
    target = np.zeros(rows, int)
    target[page // 32 : 2 * page // 32] = -100
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(logits.ctypes.data + page)
    assert libc.mprotect(address, ctypes.c_size_t(page), 0) == 0
    try:
        loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
    finally:
        assert libc.mprotect(address, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE) == 0
    assert loss == pytest.approx(np.log(8), rel=1e-6)
    assert not grad[target == -100].any()


@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_labels_that_change_during_the_call(backend):
    """Checked labels are the caller's memory still; a row whose label went bad is NaN."""
    code = """
import sys, threading
import numpy as np
import fastxent as fx
logits, target = np.zeros((20_000, 500), "f4"), np.zeros(20_000, np.int64)
stop = threading.Event()

def flip():
    while not stop.is_set():
        target[-1] = 1 << 40
        target[-1] = 0

thread = threading.Thread(target=flip)
thread.start()
grad = np.empty_like(logits)
for _ in range(60):
    try:
        fx.cross_entropy_and_grad(logits, target, out=grad, backend=sys.argv[1], num_threads=1)
    except fx.LabelError:
        pass
stop.set()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code, backend], timeout=300, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_numbers_beyond_float64(number):
    for name in ("label_smoothing", "normalizer"):
        with pytest.raises((fx.OptionError, fx.DTypeError), match=name):
            fx.cross_entropy(LOGITS, LABELS, **{name: number})
    with pytest.raises(fx.OptionError, match="num_classes"):
        fx.check_labels([0], abs(number))


def test_infinite_factors_do_not_warn():
    """Every warning is an error in these tests."""
    logits = np.array([[0.0, -np.inf]] * 2, np.float32)
    losses = fx.cross_entropy(logits, [1, 0], sample_weight=[0, 1], reduction="none")
    assert np.isnan(losses[0])
    assert losses[1] == 0
    huge = {"sample_weight": [1e300] * 2, "reduction": "none"}
    assert np.isposinf(fx.cross_entropy(np.zeros((2, 2), "f4"), [1, 0], **huge)).all()
    _, grad = fx.cross_entropy_and_grad(
        np.zeros((2, 2)), [1, 0], sample_weight=[0, 1], grad_output=np.inf
    )
    assert np.isnan(grad[0]).all()
    fx.cross_entropy_and_grad(np.zeros((2, 2)), [1, 0], sample_weight=[1, 1], normalizer=5e-324)


def test_out_shares_memory_with_what_is_no_array():
    memory = np.ones((5, 5))
    for name in ("weight", "sample_weight", "grad_output"):
        with pytest.raises(fx.OutputError, match=f"shares memory with {name}"):
            fx.cross_entropy_and_grad(
                np.zeros((5, 5)), np.arange(5), out=memory, **{name: memoryview(memory[0])}
            )


def test_out_that_overlaps_itself():
    memory = np.zeros(40)
    overlapping = np.lib.stride_tricks.as_strided(memory, (4, 5), (16, 8))
    with pytest.raises(fx.OutputError, match="one in memory"):
        fx.cross_entropy_and_grad(np.zeros((4, 5)), np.arange(4), out=overlapping)
    interleaved = np.lib.stride_tricks.as_strided(memory, (3, 3), (24, 16))
    _, grad = fx.cross_entropy_and_grad(np.zeros((3, 3)), np.arange(3), out=interleaved)
    assert np.array_equal(grad, fx.cross_entropy_and_grad(np.zeros((3, 3)), np.arange(3))[1])


def test_masked_out():
    with pytest.raises(fx.DTypeError, match="MaskedArray"):
        fx.softmax(LOGITS, out=np.ma.masked_less(LOGITS.copy(), 0))


def test_one_row_in_place_whatever_the_strides_of_its_axes_of_length_one():
    row = np.arange(5.0)
    logits = row[None]
    expected = fx.cross_entropy_and_grad(logits.copy(), [0])
    loss, grad = fx.cross_entropy_and_grad(logits, [0], out=row.reshape(1, 5))
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])


@pytest.mark.skipif(fx.backends()["cuda"] is None, reason="there is a card")
def test_arrays_of_a_gpu_without_a_gpu():
    class OnDevice:
        __cuda_array_interface__ = {"shape": (2, 2), "typestr": "<f4", "version": 3}  # noqa: RUF012

    with pytest.raises(fx.BackendError, match=r"GPU need backend 'cuda'.*copy them to the host"):
        fx.cross_entropy(OnDevice(), [0, 1])
    with pytest.raises(fx.DTypeError, match=r"target.*lives on a GPU"):
        fx.cross_entropy(LOGITS, OnDevice())


def test_tensors_that_numpy_cannot_read():
    torch = pytest.importorskip("torch", reason="PyTorch makes the tensors")
    logits = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(fx.DTypeError, match=r"requires grad.*fastxent\.torch.*logits\.detach\(\)"):
        fx.cross_entropy(logits, [0, 1])
    fx.cross_entropy(logits.detach(), [0, 1])


def test_options_that_do_not_fit_float32_fit_float64(backend):
    logits = LOGITS.astype(float)
    for options in ({"softcap": 1e39}, {"softcap": 1e-46}, {"logit_scale": 1e39}):
        loss, grad = fx.cross_entropy_and_grad(logits, LABELS, backend=backend, **options)
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()
    assert np.isfinite(fx.cross_entropy(logits, LABELS, weight=[1e39] * 7, backend=backend))


def test_options_of_later_versions_are_not_swallowed():
    for name in ("vocab_start", "total_classes", "axes"):
        with pytest.raises(TypeError, match=name):
            fx.cross_entropy(LOGITS, LABELS, **{name: 1})
        with pytest.raises(TypeError, match=name):
            fx.CrossEntropyLoss(**{name: 1})
