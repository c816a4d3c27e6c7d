"""One call of the loss as a recipe, and the arrays that are baked from it."""

import functools
import importlib
import math
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastxent.cases.layouts import LAYOUTS

Array = NDArray[Any]

AUX = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss", "target_grad")
# Fields that are arguments of the same name.
AS_THEY_ARE = (
    *("ignore_index", "label_smoothing", "reduction", "normalizer", "all_ignored", "axis"),
    *("z_loss", "softcap", "logit_scale"),
)
# Logits with rows that have a NaN, a +inf, or nothing but -inf.
ROWS_WITHOUT_SOFTMAX = ("special-rows", "nan-payloads")
# Below these, numbers of a dtype have fewer digits.
SMALLEST_NORMAL = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}
SMALLEST_NORMAL["float64"] = 2.0**-1022
READ_ONLY = ("broadcast rows", "broadcast classes", "read-only")
# What the diagonal of the Hessian may be: a kind, its factor and its floor.
HESS_RULES = {
    "product": ("product", 1.0, 0.0),
    "doubled": ("product", 2.0, 1e-16),
    "floored": ("product", 1.0, 0.05),
    "distance": ("distance", 1.0, 1e-16),
}
BLOCK = 1024  # classes in a block of the kernels: -inf blocks and shapes on both sides of it


@functools.cache
def has_bfloat16() -> bool:
    """Whether ml_dtypes, which has the dtype, is installed."""
    try:
        importlib.import_module("ml_dtypes")
    except ImportError:
        return False
    return True


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype of this name, or that of `ml_dtypes` for bfloat16."""
    known: Any = name
    if name == "bfloat16":
        known = importlib.import_module("ml_dtypes").bfloat16
    dtype: np.dtype[Any] = np.dtype(known)
    return dtype


@dataclass(frozen=True, repr=False)
class Case:
    """One call of the loss, described by its public arguments.

    ``rows`` is a number, or the leading dimensions; () stands for 1-D logits and a scalar label.

    - ``labels``: hard | ignored (every third row) | all-ignored | one-hot | soft | unnormalised
    - ``label_dtype``: "" is int64 for class indices, the logits' dtype for probabilities
    - ``logits``: peaked | flat | ties | subnormal | huge-offset | far-below-zero | far-above-zero
      | minus-inf | special-rows | nan-payloads | masked-block
    - ``weight``: none | positive | some-zero | all-zero
    - ``grad_output``: none | scalar | rows
    - ``out``: none | new | in-place
    - ``hess``: none | a name of `HESS_RULES`: with the Hessian's diagonal and the probabilities
    - ``aux``: names of `AUX`; "target_grad" is left out for class indices
    - ``layout``, ``target_layout``: how logits (and ``out``) and target lie in memory, of `LAYOUTS`
    - ``seed``: other numbers for the same options
    """

    rows: int | tuple[int, ...]
    classes: int
    labels: str = "hard"
    label_dtype: str = ""
    logits: str = "peaked"
    weight: str = "none"
    ignore_index: int | None = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    normalizer: float | None = None
    sample_weight: bool = False
    grad_output: str = "none"
    all_ignored: str = "nan"
    axis: int = -1
    out: str = "none"
    num_threads: int | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    aux: tuple[str, ...] = ()
    hess: str = "none"
    layout: str = "C"
    target_layout: str = "C"
    seed: int = 0

    def __repr__(self) -> str:
        given = [f"{self.rows}", f"{self.classes}"]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                given.append(f"{field.name}={value!r}")
        return f"Case({', '.join(given)})"

    def __str__(self) -> str:
        words = ["x".join(map(str, self.shape))]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                shown = "+".join(value) if isinstance(value, tuple) else value
                words.append(field.name if value is True else f"{field.name}={shown}")
        return " ".join(words)

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the logits without the class axis."""
        return (self.rows,) if isinstance(self.rows, int) else self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits."""
        at = self.axis % (len(self.leading) + 1)
        return (*self.leading[:at], self.classes, *self.leading[at:])

    @property
    def soft(self) -> bool:
        """Whether the target holds probabilities, and not class indices."""
        return self.labels in ("one-hot", "soft", "unnormalised")

    @property
    def legal(self) -> bool:
        """Whether the public functions accept this combination."""
        if self.out == "in-place" and self.layout in READ_ONLY:
            return False
        if self.normalizer is not None and self.reduction != "mean":
            return False
        if self.soft:
            return self.ignore_index is None or self.ignore_index < 0
        return self.labels == "hard" or self.ignore_index is not None

    @property
    def asked(self) -> tuple[str, ...]:
        """The side outputs to ask for."""
        return tuple(name for name in self.aux if self.soft or name != "target_grad")

    def why_not(self, dtype: DTypeLike) -> str | None:
        """Why there are no such arrays for logits of a dtype, here; None if there are."""
        names = (dtype if isinstance(dtype, str) else np.dtype(dtype).name, self.label_dtype)
        if "bfloat16" in names and not has_bfloat16():
            return "bfloat16 is a dtype of ml_dtypes, which is not installed"
        if names[0] == "float16" and self.logits == "huge-offset":
            return "float16 ends at 65,504"
        return None

    def arguments(self, dtype: DTypeLike) -> tuple[Array, Array, dict[str, Any]]:
        """Logits, target and options for `fastxent.cross_entropy_and_grad`.

        Only options that differ from their default are named, so the defaults get tested too.
        ``out`` and ``num_threads`` are left out: they change no number, and the reference does
        not know them. So is ``aux``, whose names are `asked`.
        """
        dtype = dtype_of(np.dtype(dtype).name if not isinstance(dtype, str) else dtype)
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        z = self._logits(rng, math.prod(self.leading), dtype)
        if self.soft:
            label_dtype = np.dtype(bool) if self.labels == "one-hot" else dtype
            if self.label_dtype:
                label_dtype = dtype_of(self.label_dtype)
            target = self._in_shape(self._probabilities(rng, z).astype(label_dtype))
        else:
            target = self._class_indices(rng, z).reshape(self.leading)
        stored = z.astype(dtype)
        if self.logits == "nan-payloads":
            _set_payloads(stored, rng)
        logits = self._in_shape(stored)
        class_axis = self.axis % logits.ndim
        logits = LAYOUTS[self.layout](logits, class_axis)
        target = LAYOUTS[self.target_layout](target, class_axis if self.soft else None)
        return logits, target, self._options(rng, dtype)

    def _in_shape(self, rows: Array) -> Array:
        """Turn an (N, C) array into a C-contiguous one of the logits' shape."""
        leading_first = rows.reshape(*self.leading, self.classes)
        return np.ascontiguousarray(np.moveaxis(leading_first, -1, self.axis))

    def _logits(self, rng: np.random.Generator, rows: int, dtype: np.dtype[Any]) -> Array:
        z: Array = rng.standard_normal((rows, self.classes))
        at = np.arange(rows)
        # Without outliers every probability of a long row lies below any absolute tolerance.
        z[rng.random(z.shape) < 0.1] *= 20
        if self.logits == "flat":
            z *= 0.001
        elif self.logits == "ties":  # several classes share the maximum of almost every row
            z = np.clip(np.rint(z), -3, 1)
        elif self.logits == "subnormal":
            z *= SMALLEST_NORMAL[dtype.name]
        elif self.logits == "huge-offset":
            z += np.where(at % 2, 1e6, -1e6)[:, None]
        elif self.logits == "far-below-zero":
            z -= 1e4
        elif self.logits == "far-above-zero":  # beyond 709, where exp overflows in float64 too
            z += 1e3
        elif self.logits == "minus-inf":
            z[(rng.random(z.shape) < 0.3) & (np.arange(self.classes) != at[:, None])] = -np.inf
        elif self.logits in ROWS_WITHOUT_SOFTMAX:  # every fourth row is ordinary
            z[0::4, self.classes // 2] = np.nan
            z[1::4, self.classes // 2] = np.inf
            z[2::4] = -np.inf
        elif self.logits == "masked-block":
            z[0::3, :BLOCK] = -np.inf
            z[1::3, BLOCK : 2 * BLOCK] = -np.inf
            z[2::3, :-1] = -np.inf
        return z

    def _class_indices(self, rng: np.random.Generator, z: Array) -> Array:
        rows, classes = z.shape
        dtype = np.dtype(np.int64 if self.soft else self.label_dtype or np.int64)
        y: Array = rng.integers(0, min(classes, np.iinfo(dtype).max + 1), rows)
        if self.logits == "masked-block":  # a class that is not masked, for a finite loss
            y = np.where(np.isfinite(z), rng.random(z.shape), -1).argmax(axis=1)
        y = y.astype(dtype)
        if self.labels in ("ignored", "all-ignored"):
            y[:: 3 if self.labels == "ignored" else 1] = self.ignore_index
        return y

    def _probabilities(self, rng: np.random.Generator, z: Array) -> Array:
        rows, classes = z.shape
        if self.labels == "one-hot":
            # not np.eye(classes), which has 13 GB for 40,001 of them
            mass = np.zeros(z.shape)
            mass[np.arange(rows), self._class_indices(rng, z)] = 1
        elif self.labels == "soft":
            mass = rng.dirichlet(np.full(classes, 0.5), rows)
        else:
            mass = rng.uniform(0, 2, z.shape) * (rng.random(z.shape) < 0.8)
        # Masked classes without mass, for a finite loss; with mass in every other row of the
        # minus-inf cases, for an infinite one.
        masked = np.isneginf(z)
        if self.logits == "minus-inf":
            masked[1::2] = False
        elif self.logits in ROWS_WITHOUT_SOFTMAX:  # among the rows of ordinary logits
            mass[3::8, 0] = np.nan
        return np.where(masked, 0, mass)

    def _options(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        dtype = np.dtype(np.float32) if dtype.itemsize < 4 else dtype  # factors are not stored
        if self.weight != "none":
            weight = rng.uniform(0.5, 2, self.classes).astype(dtype)
            if self.weight != "positive":
                weight[:: 1 if self.weight == "all-zero" else 2] = 0
            options["weight"] = weight
        if self.sample_weight:
            sample_weight = rng.uniform(0.5, 2, self.leading)
            options["sample_weight"] = np.asarray(sample_weight, dtype)
        if self.grad_output == "scalar":
            options["grad_output"] = -1.75
        elif self.grad_output == "rows":
            options["grad_output"] = np.asarray(rng.standard_normal(self.leading), dtype)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in AS_THEY_ARE and value != field.default:
                options[field.name] = value
        return options


def _set_payloads(x: Array, rng: np.random.Generator) -> None:
    """Give each NaN other bits: of either sign, quiet and signalling."""
    bits = x.view(f"u{x.itemsize}")
    infinity = int(np.array([np.inf]).astype(x.dtype).view(bits.dtype)[0])
    quiet = (infinity & -infinity) >> 1  # the bit below the lowest of the exponent
    sign = 1 << (8 * x.itemsize - 1)
    patterns = [
        infinity | more | payload
        for more in (0, quiet, sign, sign | quiet)
        for payload in (1, 2, quiet - 1)
    ]
    places = np.isnan(x)
    bits[places] = rng.choice(np.array(patterns, bits.dtype), np.count_nonzero(places))
