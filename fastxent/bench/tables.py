"""Tables of measurements in Markdown: one shape a line, one option a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastxent.bench.contest import FASTXENT, Contest
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement, beside
from fastxent.bench.summary import (
    ADAPTERS,
    COMPILED,
    IN_FRAMEWORKS,
    fastest_peer,
    is_peer,
    peer_ratio,
    share,
    time_ratio,
)
from fastxent.bench.workloads import HALVES, OPTIONS, OPTIONS_SHAPE

__all__ = [
    "comparison",
    "contests",
    "inside_frameworks",
    "kinds",
    "milliseconds",
    "options",
    "overview",
    "percent",
    "table",
    "times",
]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table; all columns but the first are numbers."""
    marks = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, marks, *rows))


def milliseconds(measurement: Measurement, name: str | None) -> str:
    """Write the median of somebody, to the digits that matter."""
    timing = measurement.timings.get(name or "")
    if timing is None:
        return "-"
    time = 1e3 * timing.median
    return f"{time:.3f}" if time < 1 else f"{time:.2f}" if time < 100 else f"{time:.0f}"


def percent(number: float | None) -> str:
    """Write a share."""
    return "-" if number is None else f"{100 * number:.0f} %"


def times(number: float | None, digits: int = 1) -> str:
    """Write a ratio."""
    return "-" if number is None else f"{number:.{digits}f}"


def _peers(measurements: Iterable[Measurement]) -> list[str]:
    """Everybody else, in the order of the registry."""
    return list(dict.fromkeys(k for m in measurements for k in m.timings if is_peer(k)))


def comparison(measurements: Sequence[Measurement]) -> str:
    """Make the table of milliseconds, one line a shape."""
    peers = _peers(measurements)
    rows = []
    for m in measurements:
        best = faster(m)
        rows.append(
            [
                m.workload.shape_text,
                *(milliseconds(m, f"{backend}/out") for backend in COMPILED),
                percent(share(m, best)),
                *(milliseconds(m, peer) for peer in peers),
                f"**{times(peer_ratio(m, best))}**",
            ]
        )
    headings = ["N x C", *(f"{name}, ms" for name in COMPILED), "of the ceiling", *peers, "times"]
    return table(headings, rows)


def faster(measurement: Measurement) -> str:
    """Name the faster of the compiled backends, with ``out=``."""
    names = [f"{backend}/out" for backend in COMPILED]
    return min(names, key=lambda name: _median(measurement, name))


def _median(measurement: Measurement, name: str) -> float:
    timing = measurement.timings.get(name)
    return float("inf") if timing is None else timing.median


def kinds(document: Document) -> list[tuple[str, list[Measurement]]]:
    """Give the measurements of half precision, of other class axes, of softmax, of two classes."""
    groups = [(f"{dtype}, class indices", document.find(dtype=dtype)) for dtype in HALVES]
    groups.append(("classes on axis 1, float32", document.find_class_axis_1()))
    groups += [
        (f"{operation}, float32", document.find(operation=operation))
        for operation in ("softmax", "log_softmax")
    ]
    groups.append(("binary cross-entropy and gradient, float32", document.find(operation="binary")))
    return [(title, found) for title, found in groups if found]


def overview(document: Document) -> str:
    """Make the short table of all kinds: ours, and the fastest of the others."""
    rows = []
    for title, measurements in kinds(document):
        for m in measurements:
            peer = fastest_peer(m)
            rows.append(
                [
                    f"{title}: {m.workload.shape_text}",
                    *(milliseconds(m, f"{backend}/out") for backend in COMPILED),
                    percent(share(m, faster(m))),
                    f"{peer or '-'} {milliseconds(m, peer)}",
                    f"**{times(peer_ratio(m, faster(m)))}**",
                ]
            )
    headings = ["", *(f"{name}, ms" for name in COMPILED), "of the ceiling"]
    return table([*headings, "fastest of the others, ms", "times"], rows)


def options(document: Document) -> str:
    """Make the table of what each option takes; empty if none was measured."""
    found = document.at(*OPTIONS_SHAPE)
    names = [f"{backend}/out" for backend in COMPILED]
    if found is None or not any(beside(names[0], one) in found.timings for one in OPTIONS):
        return ""
    rows = [
        [
            f"`{one}`",
            *(milliseconds(found, beside(name, one)) for name in names),
            *(times(time_ratio(found, beside(name, one), name), 2) for name in names),
        ]
        for one in OPTIONS
    ]
    rows.insert(0, ["none", *(milliseconds(found, name) for name in names), "1.00", "1.00"])
    units = (", ms", ", times the plain call")
    return table(["option", *(f"{name}{unit}" for unit in units for name in COMPILED)], rows)


def inside_frameworks(document: Document) -> str:
    """Make the table of calls inside PyTorch and JAX; empty if none was measured."""
    found = [m for m in document.find() if any(name in m.timings for name in ADAPTERS)]
    if not found:
        return ""
    rows = [
        [
            m.workload.shape_text,
            *(milliseconds(m, name) for name in ADAPTERS),
            *(
                f"{milliseconds(m, peer)} (**{times(time_ratio(m, peer, adapter))}**)"
                for adapter, peer in IN_FRAMEWORKS
            ),
        ]
        for m in found
    ]
    headings = (f"{name}, ms" for name in ADAPTERS)
    peers = (f"{peer}, ms (over {adapter})" for adapter, peer in IN_FRAMEWORKS)
    return table(["N x C", *headings, *peers], rows)


def contests(document: Document) -> str:
    """Make the table of contests; empty if none was held."""
    rows = [
        [
            contest.title,
            _contest_milliseconds(contest, FASTXENT),
            f"{name} {_contest_milliseconds(contest, name)}",
            f"**{times(contest.ratio(name))}**",
        ]
        for contest in document.contests
        for name in contest.timings
        if name != FASTXENT
    ]
    return table(["", "fastxent, ms", "the other, ms", "times"], rows) if rows else ""


def _contest_milliseconds(contest: Contest, name: str) -> str:
    timing = contest.timings.get(name)
    return "-" if timing is None else f"{1e3 * timing.median:,.1f}"
