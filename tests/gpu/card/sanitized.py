"""Every kernel on a few small rows, against the NumPy backend; run under compute-sanitizer."""

import itertools
import sys

import numpy as np

import fastxent as fx

# One size for each kernel: tile, part of a warp, warp, block, cluster, two passes, and odd ones.
CLASSES = (5, 10, 31, 33, 100, 1000, 1001, 4099, 20000, 40001, 70000, 300001)
OPTIONS = (
    {},
    {"label_smoothing": 0.1, "weight": True},
    {"softcap": 5.0, "z_loss": 1e-3, "aux": ("lse", "argmax", "entropy")},
)


def close(result, truth, dtype):
    """Whether a result is within a rounding of the storage of the truth's largest entry."""
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    allowed = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
    return np.abs(result - truth).max(initial=0) <= allowed * max(1, np.abs(truth).max(initial=0))


def main():
    """Run all; the exit status says whether every number was right."""
    rng = np.random.default_rng(0)
    wrong = 0
    for classes, dtype in itertools.product(CLASSES, ("float16", "float32", "float64")):
        rows = 3 if classes > 4000 else 37
        logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
        labels = rng.integers(0, classes, rows)
        labels[1] = -100
        for options in OPTIONS:
            given = dict(options)
            if given.pop("weight", False):
                given["weight"] = rng.uniform(0.5, 2, classes)
            for target in (labels, rng.dirichlet(np.ones(classes), rows).astype(np.float32)):
                ours = fx.cross_entropy_and_grad(logits, target, backend="cuda", **given)
                truth = fx.cross_entropy_and_grad(logits, target, backend="numpy", **given)
                right = close(ours[0], truth[0], dtype)
                right &= close(rows * ours[1], rows * truth[1], dtype)
                wrong += not right
                if not right:
                    print(f"WRONG: {rows}x{classes} {dtype} {sorted(given)}")
        for axis in (0, 1):
            ours = fx.softmax(logits, axis, backend="cuda")
            wrong += not close(ours, fx.softmax(logits, axis, backend="numpy"), dtype)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
