"""Every scheme of kernels on a few small rows, against the NumPy backend; for compute-sanitizer."""

import itertools
import sys

import numpy as np

import fastxent as fx

# One size for each scheme: tile, part of a warp, block, cluster, two passes; aligned and not.
CLASSES = (10, 33, 1001, 20000, 70001, 300001)
DTYPES = {"float16": 2e-3, "float32": 1e-5}
OPTIONS = (
    {},
    {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 1e-3, "aux": ("lse", "argmax", "entropy")},
)


def off(result, truth):
    """Largest error, as a share of the truth's largest entry or of 1."""
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    return np.abs(result - truth).max(initial=0) / max(1, np.abs(truth).max(initial=0))


def losses(rng, classes, dtype):
    """Name and error of losses and gradients, of labels and of probabilities, in place too."""
    rows = 3 if classes > 4000 else 37
    logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    labels = rng.integers(0, classes, rows)
    labels[1] = -100
    for options in OPTIONS:
        truth = fx.cross_entropy_and_grad(logits, labels, backend="numpy", **options)
        ours = fx.cross_entropy_and_grad(logits, labels, backend="cuda", **options)
        yield f"C={classes} loss {options}", off(ours[0], truth[0])
        yield f"C={classes} gradient {options}", off(rows * ours[1], rows * truth[1])
    soft = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
    truth = fx.cross_entropy_and_grad(logits, soft, backend="numpy")
    over = logits.copy()
    ours = fx.cross_entropy_and_grad(over, soft, backend="cuda", out=over)
    yield f"C={classes} probabilities, in place", off(rows * ours[1], rows * truth[1])


def others(rng, dtype):
    """Name and error of softmax along and across memory, its Jacobian, the binary loss."""
    x = (3 * rng.standard_normal((40, 33))).astype(dtype)
    for axis in (0, 1):
        yield (
            f"softmax, axis {axis}",
            off(fx.softmax(x, axis, backend="cuda"), fx.softmax(x, axis, backend="numpy")),
        )
    p = fx.softmax(x, backend="numpy")
    yield (
        "Jacobian",
        off(fx.softmax_backward(p, x, backend="cuda"), fx.softmax_backward(p, x, backend="numpy")),
    )
    target = (x > 1).astype(dtype)
    call = fx.binary_cross_entropy_with_logits_and_grad
    ours, truth = (call(x, target, backend=name) for name in ("cuda", "numpy"))
    yield "binary loss", off(ours[0], truth[0])
    yield "binary gradient", off(x.size * ours[1], x.size * truth[1])


def main():
    """Run all; the exit status says whether every number was right."""
    rng = np.random.default_rng(0)
    wrong = 0
    for dtype, allowed in DTYPES.items():
        found = itertools.chain(*(losses(rng, c, dtype) for c in CLASSES), others(rng, dtype))
        for name, error in found:
            if not error <= allowed:
                wrong += 1
                print(f"WRONG: {dtype} {name}: off by {error:.1e} of {allowed:g}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
