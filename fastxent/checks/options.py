"""Options that are one number, one word or a few names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent.checks.reading import integer, number
from fastxent.errors import DTypeError, OptionError
from fastxent.precision import HALF_KINDS

__all__ = [
    "check_aux",
    "check_choice",
    "check_ignore_index",
    "check_label_smoothing",
    "check_logit_scale",
    "check_normalizer",
    "check_num_classes",
    "check_num_threads",
    "check_softcap",
    "check_storage",
    "check_z_loss",
]


def check_label_smoothing(value: Any) -> float:
    """A number in [0, 1]."""
    smoothing = number(value, "label_smoothing")
    if not 0.0 <= smoothing <= 1.0:
        raise OptionError(f"label_smoothing must lie in [0, 1], got {value!r}")
    return smoothing


def check_ignore_index(value: Any, hard: bool) -> int | None:
    """The label that drops its row; None where there is none, as for probabilities."""
    if value is None:
        return None
    index = integer(value, "ignore_index")
    if hard:
        return index
    if index >= 0:
        raise OptionError(
            f"ignore_index = {index} was given with probability targets, which have no labels to "
            "compare it with: pass ignore_index=None, and leave such rows out"
        )
    return None


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not (isinstance(value, str) and value in choices):
        known = ", ".join(repr(choice) for choice in choices)
        raise OptionError(f"{name} must be one of {known}; got {value!r}")
    return value


def check_normalizer(value: Any, reduction: str) -> float | None:
    """The denominator that stands in for the mean's own; not negative."""
    if value is None:
        return None
    normalizer = number(value, "normalizer")
    if reduction != "mean":
        raise OptionError(
            f"normalizer replaces the mean's denominator and needs reduction='mean', not "
            f"{reduction!r}"
        )
    if not (math.isfinite(normalizer) and normalizer >= 0):
        raise OptionError(f"normalizer must be finite and not negative, got {value!r}")
    return normalizer


def check_num_threads(value: Any, name: str = "num_threads") -> int:
    """At least one thread."""
    threads = integer(value, name)
    if threads < 1:
        raise OptionError(f"{name} must be at least 1, got {threads}")
    return threads


def check_num_classes(value: Any) -> int:
    """At least one class."""
    num_classes = integer(value, "num_classes")
    if not 1 <= num_classes < 2**63:
        raise OptionError(f"num_classes must be at least 1 and below 2**63, got {num_classes}")
    return num_classes


def check_z_loss(value: Any) -> float:
    """Factor of lse^2: finite and not negative."""
    factor = number(value, "z_loss")
    if not (math.isfinite(factor) and factor >= 0):
        raise OptionError(f"z_loss must be finite and not negative, got {value!r}")
    return factor


def _is_positive(factor: float, compute: np.dtype[Any]) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        return bool(0 < compute.type(factor) < np.inf)


def _positive(value: Any, name: str, absent: str, compute: np.dtype[Any]) -> float:
    factor = number(value, name)
    if not _is_positive(factor, compute):
        raise OptionError(
            f"{name} must be finite and above 0 in {compute}, which computes; got {value!r}; "
            f"{absent} is for none"
        )
    return float(factor)


def check_logit_scale(value: Any, compute: np.dtype[Any]) -> float:
    """Factor of the logits."""
    return _positive(value, "logit_scale", "logit_scale=1.0", compute)


def check_softcap(value: Any, logit_scale: float, compute: np.dtype[Any]) -> float | None:
    """Bound of the capped logits, or None."""
    if value is None:
        return None
    softcap = _positive(value, "softcap", "softcap=None", compute)
    for what, factor in (("1", 1.0), ("logit_scale", logit_scale)):
        if not _is_positive(factor / softcap, compute):
            raise OptionError(
                f"{what} / softcap must be finite and above 0 in {compute}, which computes; it is "
                f"{factor!r} / {value!r}"
            )
    return softcap


def check_aux(value: Any, names: tuple[str, ...], hard: bool) -> tuple[str, ...]:
    """Names of side outputs, each once; the gradient of the target for probabilities only."""
    if isinstance(value, str):
        raise OptionError(f"aux needs an iterable of names, not one string: pass aux=({value!r},)")
    try:
        asked = tuple(value)
    except TypeError:
        raise DTypeError(
            f"aux must be an iterable of names such as ('lse',), got {value!r}"
        ) from None
    for at, name in enumerate(asked):
        check_choice(name, f"aux[{at}]", names)
        if name in asked[:at]:
            raise OptionError(f"aux names {name!r} twice: name each side output once")
    if hard and "target_grad" in asked:
        raise OptionError(
            "aux names 'target_grad', and class indices have no gradient: pass probabilities as "
            "the target, or leave the name out"
        )
    return tuple(map(str, asked))


def check_storage(value: Any) -> str | None:
    """What the bits of uint16 arrays are."""
    return None if value is None else check_choice(value, "storage", HALF_KINDS)
