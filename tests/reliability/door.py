"""One call of a public function from any bytes: the result is right, or the error is documented.

What a fuzzer, Hypothesis and the stored inputs of `corpora/door` share. The modules `door_*` have
the calls of each family of functions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reliability import door_boosting, door_linear, door_losses, door_shards, door_softmax
from reliability.door_calls import Source
from reliability.door_checks import Refused, Wrong

__all__ = ["VERBS", "Wrong", "call"]

# The first byte of an input chooses one: stored inputs depend on the order, and on how many
# there are.
VERBS: tuple[Callable[[Source], None], ...] = (
    *(door_losses.loss,) * 4,
    door_softmax.softmax,
    *(door_softmax.backward,) * 2,
    door_losses.binary,
    door_softmax.labels,
    *(door_linear.linear,) * 3,
    *(door_shards.shards,) * 2,
    *(door_boosting.derivatives,) * 2,
)


def call(data: bytes) -> None:
    """Make the call that the bytes describe.

    Raises
    ------
    Wrong
        The result is not that of the reference, or something was written that must not be.
    Exception
        Any that is no `FastxentError`: nothing of the kind is documented.
    """
    source = Source(data)
    with np.errstate(all="ignore"):
        try:
            source.one_of(VERBS)(source)
        except Refused:
            return
