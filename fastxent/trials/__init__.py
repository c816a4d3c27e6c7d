"""Random calls of every function of the library, each held against the float64 reference.

What ``fastxent check --thorough`` and the differential program of the tests share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fastxent.cases import Case
from fastxent.cases.drawn import FLOATS, drawn
from fastxent.conformance import CaseResult, run_case, run_softmax_case
from fastxent.trials import binary, jacobian, linear, sharding

__all__ = ["FUNCTIONS", "Trial", "drawn_trial"]

_PLACE = ("rows", "classes", "axis", "seed", "num_threads", "layout", "out", "logits")
_TARGET: tuple[str, ...] = (
    "labels",
    "label_dtype",
    "target_layout",
    "label_smoothing",
    "reduction",
)
_TARGET += ("weight", "sample_weight", "grad_output")
_LOSS = (*_TARGET, "ignore_index", "normalizer", "all_ignored", "z_loss", "softcap", "logit_scale")


@dataclass(frozen=True)
class _Function:
    """How one function of the library is tried: what runs a case, and what it sees of it."""

    run: Callable[[Case, str, str], CaseResult]
    sees: tuple[str, ...]
    share: float  # of all trials


FUNCTIONS = {
    "loss": _Function(run_case, tuple(field.name for field in fields(Case)), 0.55),
    "softmax": _Function(run_softmax_case, _PLACE, 0.12),
    "jacobian": _Function(jacobian.run, (*_PLACE, "target_layout"), 0.08),
    "binary": _Function(binary.run, (*_PLACE, *_TARGET), 0.13),
    "linear": _Function(linear.run, (*_PLACE, *_LOSS, "aux"), 0.06),
    "shards": _Function(sharding.run, (*_PLACE, *_LOSS, "aux"), 0.06),
}


@dataclass(frozen=True)
class Trial:
    """One call of one function; its text is the Python expression that makes it again.

    Attributes
    ----------
    function : str
        A name of `FUNCTIONS`.
    case : Case
        With the defaults in all fields that the function does not see.
    dtype : str
        Of the logits.
    backend : str
        Name of the backend.
    """

    function: str
    case: Case
    dtype: str
    backend: str

    def run(self) -> CaseResult:
        """Make the call; what it raises is a fault, for only legal calls are drawn."""
        try:
            return FUNCTIONS[self.function].run(self.case, self.dtype, self.backend)
        except Exception as error:
            return CaseResult(repr(self), (), (f"raised {type(error).__name__}: {error}",))


def drawn_trial(
    rng: np.random.Generator, backends: Sequence[str], dtypes: Sequence[str] = FLOATS
) -> Trial:
    """Draw a trial on one of the backends, in one of the dtypes that there are here.

    Parameters
    ----------
    rng : Generator
        In the same state it gives the same trial.
    backends : sequence of str
        Names of backends that can run.
    dtypes : sequence of str
        Of the logits.

    Returns
    -------
    Trial
    """
    names = list(FUNCTIONS)
    shares = [FUNCTIONS[name].share for name in names]
    function = names[int(rng.choice(len(names), p=shares))]
    backend = backends[int(rng.integers(len(backends)))]
    dtype = dtypes[int(rng.integers(len(dtypes)))]
    while True:
        case = _seen_by(function, drawn(rng))
        if case.why_not(dtype) is None:
            return Trial(function, case, dtype, backend)


def _seen_by(function: str, case: Case) -> Case:
    unseen = {field.name for field in fields(Case)} - {*FUNCTIONS[function].sees}
    defaults: dict[str, Any] = {
        field.name: field.default for field in fields(Case) if field.name in unseen
    }
    case = replace(case, **defaults)
    if function == "binary":  # whose labels are 0 and 1
        plain = {"ignored": "hard", "all-ignored": "hard"}
        case = replace(case, labels=plain.get(case.labels, case.labels))
    if function == "linear":  # the logits are products
        case = replace(case, logits="peaked", out="none")
    return case
