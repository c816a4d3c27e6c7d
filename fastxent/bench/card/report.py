"""What a run on a card gave: JSON, tables in Markdown, what was asked and reached, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastxent.bench.aim import Aim
from fastxent.bench.card.measure import CardMeasurement
from fastxent.bench.card.peers import COPY, PEERS
from fastxent.bench.card.workloads import ASKED_OF_PEERS
from fastxent.bench.tables import table

__all__ = ["CardDocument", "aims", "draw", "page"]

OURS = "fastxent"
_IN_TORCH = "fastxent.torch"
# Of the host, at 128 x 1000: seconds a call.
_LATENCY_ASKED = 20e-6
_FROM_CLASSES = 1000


@dataclass
class CardDocument:
    """One run: where, with what, and what came of it.

    Attributes
    ----------
    card : dict
        Its name and what the driver tells of it.
    versions : dict of str to str
    measurements : list of CardMeasurement
    latency : dict of str to float
        Seconds of the host for a small call, by name.
    first_use : dict of str to float
        Seconds until the first gradient: "cold", and "cached" in a process after it.
    """

    card: dict[str, Any]
    versions: dict[str, str]
    measurements: list[CardMeasurement] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    first_use: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        fields = dict(vars(self))
        fields["measurements"] = [one.as_dict() for one in self.measurements]
        fields["aims"] = [
            [aim.title, aim.asked_text, aim.measured_text, aim.verdict] for aim in aims(self)
        ]
        path.write_text(json.dumps(fields, indent=1) + "\n")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _milliseconds(found: CardMeasurement, name: str) -> str:
    timing = found.timings.get(name)
    return "-" if timing is None else f"{1e3 * timing.median:.3f}"


def aims(document: CardDocument) -> list[Aim]:
    """Everything that was asked of a card, and what was measured."""
    found = []
    for one in document.measurements:
        workload = one.workload
        if workload.asked is not None:
            title = f"share of the copy, {workload.classes} {workload.dtype}"
            found.append(Aim(title, "cuda", workload.asked, one.share(OURS)))
        if workload.classes < _FROM_CLASSES:
            continue
        for peer, (aligned, odd) in ASKED_OF_PEERS.items():
            ours = OURS if peer == "QuACK" else _IN_TORCH
            title = f"over {peer}, {workload.classes} {workload.dtype}"
            asked = aligned if workload.is_aligned else odd
            found.append(Aim(title, "cuda", asked, one.ratio(peer, ours)))
    small = document.latency.get(_IN_TORCH)
    microseconds = None if small is None else 1e6 * small
    found.append(Aim("small call", "cuda", 1e6 * _LATENCY_ASKED, microseconds, False, "us"))
    eager = document.latency.get("PyTorch eager")
    over_eager = None if eager is None or small is None else small / eager
    found.append(Aim("small call, over PyTorch eager", "cuda", 1.0, over_eager, False))
    for name, asked in (("cold", 5.0), ("cached", 0.5)):
        seconds = document.first_use.get(name)
        found.append(Aim(f"first use, {name}", "cuda", asked, seconds, False, "s"))
    return found


def page(document: CardDocument) -> str:
    """Make the tables in Markdown."""
    names = [COPY, *(peer.name for peer in PEERS)]
    timed = [n for n in names if any(n in one.timings for one in document.measurements)]
    times = [
        [one.workload.title, _percent(one.share(OURS)), *(_milliseconds(one, n) for n in timed)]
        for one in document.measurements
    ]
    asked = [[aim.title, aim.asked_text, aim.measured_text, aim.verdict] for aim in aims(document)]
    small = [[name, f"{1e6 * seconds:.1f}"] for name, seconds in document.latency.items()]
    facts = [f"{name} {text}" for name, text in {**document.card, **document.versions}.items()]
    missing = {
        f"{name}: {reason}" for one in document.measurements for name, reason in one.skipped.items()
    }
    parts = [
        "; ".join(facts) + ".",
        "Loss and gradient; milliseconds, the median of interleaved rounds.",
        table(["", "of the copy", *(f"{name}, ms" for name in timed)], times),
        "A small call, microseconds of the host:",
        table(["", "us"], small),
        "Asked and measured:",
        table(["", "asked", "measured", ""], asked),
        *sorted(f"Not timed: {reason}." for reason in missing),
    ]
    return "\n\n".join(parts) + "\n"


def draw(measurements: Sequence[CardMeasurement], title: str, path: Path) -> str | None:
    """Draw the share of the copy's bandwidth that everybody reaches, by the number of classes.

    Gives the reason where nothing can be drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture was drawn: matplotlib is not installed"
    dtypes = list(dict.fromkeys(one.workload.dtype for one in measurements))
    figure = Figure(figsize=(5 * len(dtypes), 4), layout="constrained")
    for axes, dtype in zip(figure.subplots(1, len(dtypes), squeeze=False)[0], dtypes, strict=True):
        chosen = [one for one in measurements if one.workload.dtype == dtype]
        for peer in PEERS:
            points = sorted((one.workload.classes, one.share(peer.name)) for one in chosen)
            known = [(classes, share) for classes, share in points if share is not None]
            if known:
                width = 2.5 if peer.name == OURS else 1.0
                axes.plot(*zip(*known, strict=True), marker="o", label=peer.name, linewidth=width)
        axes.axhline(1, color="#555555", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.1)
        axes.set_title(dtype, loc="left")
        axes.set_xlabel("classes")
        axes.set_ylabel("share of a device copy")
    figure.legend(*axes.get_legend_handles_labels(), ncols=4, loc="outside lower center")
    figure.suptitle(title)
    figure.savefig(path)
    return None
