"""One workload: check everybody, then time everybody and the ceilings, turn and turn about.

Others may be timed beside it, in the same rounds: that is what makes their times comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench import ceilings
from fastxent.bench.check import Truth
from fastxent.bench.peers.contract import Peer
from fastxent.bench.timer import Call, Plan, Timing, interleave
from fastxent.bench.workloads import Workload, arrays

__all__ = ["Beside", "Measurement", "Progress", "beside", "checked_calls", "measure"]

Progress = Callable[[str, float], object]
Beside = Mapping[str, tuple[Workload, Sequence[Peer]]]

LOOKED_AT = 1 << 16  # logits, about, that have to be the same after a call


@dataclass
class Measurement:
    """What came of one workload.

    Attributes
    ----------
    timings : dict of str to Timing
        By the name of the peer; the copies of `ceilings` are among them, and who was timed beside
        them on another workload, as `beside` names them.
    skipped : dict of str to str
        Who was not timed, and why: a reason, or what is wrong with the result.
    wrong : list of str
        Those whose result is wrong.
    arithmetic : dict of str to float
        Seconds for the whole workload by each backend's slope.
    """

    workload: Workload
    timings: dict[str, Timing] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    arithmetic: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        return {
            "workload": self.workload.as_dict(),
            "timings": {name: timing.as_dict() for name, timing in self.timings.items()},
            "skipped": self.skipped,
            "wrong": self.wrong,
            "arithmetic": {k: float(f"{v:.4g}") for k, v in self.arithmetic.items()},
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Measurement:
        """Read what `as_dict` gave."""
        return cls(
            Workload.from_dict(fields["workload"]),
            {name: Timing(**timing) for name, timing in fields["timings"].items()},
            dict(fields["skipped"]),
            list(fields["wrong"]),
            dict(fields["arithmetic"]),
        )


def beside(peer: str, label: str) -> str:
    """Name a peer's time on the workload of this label, which another one was measured with."""
    return f"{peer}, {label}"


def measure(
    workload: Workload,
    peers: Sequence[Peer],
    plan: Plan,
    progress: Progress = lambda doing, share: None,
    others: Beside | None = None,
) -> Measurement:
    """Measure a workload.

    Parameters
    ----------
    workload : Workload
    peers : sequence of Peer
    plan : Plan
        How long to time each.
    progress : callable, optional
        Is told what is being done, and the share that is done.
    others : mapping of str to (Workload, sequence of Peer), optional
        What to time in the same rounds, by a label.

    Returns
    -------
    Measurement
    """
    measurement = Measurement(workload)
    calls = checked_calls(measurement, peers, lambda doing, share: progress(doing, 0.4 * share))
    for label, (other, its_peers) in (others or {}).items():
        calls |= _calls_beside(measurement, label, other, its_peers)
    if ceilings.why_no_copies() is None:
        calls |= ceilings.copies(workload)
    else:
        measurement.skipped[ceilings.COPY] = str(ceilings.why_no_copies())
    slopes = ceilings.slopes(workload)
    probes = {f"slope of {name}": Call(slope) for name, slope in slopes.items()}
    timings = interleave(calls | probes, plan, lambda share: progress("timing", 0.4 + 0.6 * share))
    measurement.timings = {name: timings[name] for name in calls}
    measurement.arithmetic = {k: slope.seconds(workload.elements) for k, slope in slopes.items()}
    return measurement


def checked_calls(
    measurement: Measurement,
    peers: Sequence[Peer],
    progress: Progress = lambda doing, share: None,
) -> dict[str, Call]:
    """Prepare all peers and check their results; note who cannot be timed, and why."""
    progress("making the data and the truth", 0.0)
    truth = Truth.of(measurement.workload)
    calls: dict[str, Call] = {}
    for at, peer in enumerate(peers):
        progress(f"checking {peer.name}", at / len(peers))
        call = _checked(peer, truth, measurement)
        if call is not None:
            calls[peer.name] = call
    return calls


def _calls_beside(
    measurement: Measurement, label: str, other: Workload, peers: Sequence[Peer]
) -> dict[str, Call]:
    theirs = Measurement(other)
    calls = checked_calls(theirs, peers)
    measurement.skipped |= {beside(name, label): why for name, why in theirs.skipped.items()}
    measurement.wrong += [beside(name, label) for name in theirs.wrong]
    return {beside(name, label): call for name, call in calls.items()}


def _checked(peer: Peer, truth: Truth, measurement: Measurement) -> Call | None:
    workload = measurement.workload
    reason = peer.why_not(workload)
    if reason is not None:
        measurement.skipped[peer.name] = reason
        return None
    logits = arrays(workload).logits.reshape(-1)
    some = slice(None, None, 1 + logits.size // LOOKED_AT)
    before = logits[some].copy()
    try:
        call = peer.prepare(workload)
        faults = truth.faults(call())
    except fx.BackendError as error:
        measurement.skipped[peer.name] = str(error)
        return None
    except Exception as error:  # whatever is wrong with one must not keep back the others
        faults = [f"{type(error).__name__}: {error}".splitlines()[0]]
    if not np.array_equal(before, logits[some]):
        faults.append("it overwrote the logits")
    if faults:
        measurement.skipped[peer.name] = "wrong result: " + "; ".join(faults)
        measurement.wrong.append(peer.name)
        return None
    return call
