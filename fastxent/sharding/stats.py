"""ShardStats: what rows hand up of some of their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from fastxent.interchange import Home

__all__ = ["OF_PARTS", "ShardStats", "given"]

# The arrays with an entry for each part.
OF_PARTS = ("max", "sum", "mass", "dot", "argmax", "spread", "bare_mass", "bare_dot")


class ShardStats(NamedTuple):
    """What rows hand up of some of their classes, in parts: a part is a run of classes.

    `fastxent.partial_stats` makes it, `fastxent.merge_stats` puts several together. Arrays are
    float64, of shape (parts, *rows) but for `label_logit`, and of the library that the logits came
    from; JAX without 64 bits cannot hold them, and then they are NumPy's. z are the scaled and
    capped logits. The numbers of an ignored row are finite and mean nothing.

    Attributes
    ----------
    max : array
        Largest z; -inf where all classes are masked.
    sum : array
        ``sum(exp(z - max))``; relative to 0, and so 0, where `max` is -inf.
    mass : array or None
        Target mass of these classes. None for class indices without label smoothing, whose mass is
        on the label only; else without that of the label itself.
    dot : array or None
        ``sum(mass * (z - max))`` of the same; relative to 0 where `max` is -inf.
    label_logit : array of shape (*rows) or None
        z of the label where its class is among these, 0 elsewhere. None for probabilities.
    argmax : int64 array or None
        First class that holds `max`, counted from the first of all classes. Where `aux` asks.
    spread : array or None
        ``sum(exp(z - max) * (z - max))``. Where `aux` asks for the entropy.
    bare_mass, bare_dot : array or None
        `mass` and `dot` without class weights and label smoothing. Where `aux` asks for the
        "log_prob" of probabilities that have either.
    first_class : tuple of int
        Where each part begins, rising; no two overlap.
    classes : tuple of int
        How many classes each part has.
    dtype : numpy.dtype
        Of the loss.
    by_block : bool
        Whether every part is of the 1,024 classes that kernels add up together. Then these
        statistics lead to the very bits of a call that has all classes.
    softcap : float or None
    logit_scale : float
        Of the logits. `fastxent.grad_from_stats` takes the same.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> stats = fx.partial_stats(np.zeros((2, 3), "f4"), [0, 4], class_offset=3, num_classes=6)
    >>> stats.sum, stats.first_class, stats.classes
    (array([[3., 3.]]), (3,), (3,))
    """

    max: Any
    sum: Any
    mass: Any
    dot: Any
    label_logit: Any
    argmax: Any
    spread: Any
    bare_mass: Any
    bare_dot: Any
    first_class: tuple[int, ...]
    classes: tuple[int, ...]
    dtype: np.dtype[Any]
    by_block: bool
    softcap: float | None
    logit_scale: float

    @property
    def of_parts(self) -> dict[str, Any]:
        """Arrays with an entry for each part, by name; None where there is none."""
        return {name: getattr(self, name) for name in OF_PARTS}


def given(home: Home, stats: ShardStats) -> ShardStats:
    """Arrays of statistics as those of a library, NumPy's where it has no float64 (JAX, mostly)."""
    if home.library is None:
        return stats
    if home.library.read(home.give(stats.sum)).dtype != stats.sum.dtype:
        return stats
    arrays = {**stats.of_parts, "label_logit": stats.label_logit}
    there = {name: home.give(array) for name, array in arrays.items() if array is not None}
    return stats._replace(**there)
