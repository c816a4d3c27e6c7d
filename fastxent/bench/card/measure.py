"""One workload: everybody checked against float64, then timed beside a plain copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastxent.bench.card.clock import host_seconds, interleave
from fastxent.bench.card.peers import COPY, PEERS, CardPeer, copy
from fastxent.bench.card.workloads import LATENCY_SHAPE, CardWorkload
from fastxent.bench.timer import Timing

__all__ = ["CardMeasurement", "latency", "measure"]

# Largest error of the gradient, as a share of its largest entry: a rounding of what is stored and
# what float32 loses over a long row.
_TOLERANCE = {"bfloat16": 2.0**-7, "float32": 1e-5}
# Rows that the check looks at: float64 takes four times the memory.
_ROWS_CHECKED = 64


@dataclass
class CardMeasurement:
    """Times of one workload by name, and why somebody has none."""

    workload: CardWorkload
    timings: dict[str, Timing] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def share(self, name: str) -> float | None:
        """Share of the bandwidth that the copy reached: counted bytes a second over its own."""
        if name not in self.timings or COPY not in self.timings:
            return None
        copied = self.workload.counted_bytes - 8 * self.workload.rows
        bandwidth = copied / self.timings[COPY].median
        return self.workload.counted_bytes / self.timings[name].median / bandwidth

    def ratio(self, peer: str, ours: str) -> float | None:
        """How many times as long a peer takes."""
        if peer not in self.timings or ours not in self.timings:
            return None
        return self.timings[peer].median / self.timings[ours].median

    def as_dict(self) -> dict[str, Any]:
        """Give the fields for JSON."""
        timings = {name: timing.as_dict() for name, timing in self.timings.items()}
        return {
            "workload": asdict(self.workload),
            "timings": timings,
            "share_of_copy": {name: self.share(name) for name in self.timings},
            "skipped": self.skipped,
        }


def _data(rows: int, classes: int, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    random = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"device": device, "generator": random}
    logits = torch.randn(rows, classes, dtype=getattr(torch, dtype), **options)
    return logits.mul_(3), torch.randint(0, classes, (rows,), **options)


def measure(
    workload: CardWorkload, device: str, progress: Callable[[str], object] = lambda doing: None
) -> CardMeasurement:
    """Check and time everybody who can do this workload."""
    found = CardMeasurement(workload)
    logits, labels = _data(workload.rows, workload.classes, workload.dtype, device)
    calls: dict[str, Callable[[], Any]] = {COPY: copy(logits, labels)}
    for peer in PEERS:
        progress(f"{workload.title}: {peer.name} is checked")
        call = _prepared(peer, logits, labels, workload.dtype)
        if isinstance(call, str):
            found.skipped[peer.name] = call
        else:
            calls[peer.name] = call
    progress(f"{workload.title}: {len(calls)} are timed")
    found.timings = interleave(calls, device)
    return found


def _prepared(
    peer: CardPeer, logits: Tensor, labels: Tensor, dtype: str
) -> Callable[[], Any] | str:
    """What is timed; why not, where a peer is missing, fails, or has a wrong gradient.

    The first and the last rows of the very call that is timed are checked.
    """
    reason = peer.why_not(logits.shape[1])
    if reason is not None:
        return reason
    try:
        call = peer.prepare(logits.clone() if peer.overwrites else logits, labels)
        grad = call()[-1]
    except Exception as error:  # a peer that fails is reported, whatever it raised
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for part in (slice(0, _ROWS_CHECKED), slice(-_ROWS_CHECKED, None)):
        off = _error(grad[part], logits[part], labels[part], len(logits))
        if not off <= _TOLERANCE[dtype]:
            return f"WRONG: the gradient is off by {off:.1e} of {_TOLERANCE[dtype]:g}"
    return call


def _error(grad: Tensor, logits: Tensor, labels: Tensor, rows: int) -> float:
    """Largest error of some rows of a gradient, as a share of its largest entry."""
    truth = F.softmax(logits.double(), -1)
    truth[torch.arange(len(logits)), labels] -= 1
    grad = grad.double()
    # of a mean, or of a sum
    scale = 1 / rows if float(grad.abs().max()) < 2 / rows else 1.0
    return float((grad - scale * truth).abs().max()) / (scale * float(truth.abs().max()))


def latency(device: str, progress: Callable[[str], object]) -> dict[str, float]:
    """Seconds of the host for a small call, by name."""
    rows, classes = LATENCY_SHAPE
    logits, labels = _data(rows, classes, "float32", device)
    found = {}
    for peer in PEERS:
        progress(f"a small call: {peer.name}")
        call = _prepared(peer, logits, labels, "float32")
        if not isinstance(call, str):
            found[peer.name] = host_seconds(call, device)
    return found
