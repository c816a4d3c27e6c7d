"""The pictures of README and docs/, drawn from a document; the same document, the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastxent.bench.ceilings import COPY, COPY_ON_ONE_THREAD
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement
from fastxent.bench.summary import (
    ADAPTERS,
    COMPILED,
    IN_FRAMEWORKS,
    copy_share,
    is_own,
    is_peer,
    shown,
    time_ratio,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_all"]

# Colours that the most common colour blindness keeps apart (Okabe and Ito), ours first.
OWN = {"cython": "#0072b2", "numba": "#56b4e9"}
OTHERS = ("#d55e00", "#e69f00", "#009e73", "#cc79a7", "#999999", "#555555")
INK, GRID = "#1c2733", "#d0d7de"


def _labels(measurements: Sequence[Measurement]) -> list[str]:
    return [f"{m.workload.rows:,}\n\u00d7\n{m.workload.classes:,}" for m in measurements]


def _tidy(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_title(title, loc="left", color=INK)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _grouped_bars(
    axes: Axes, groups: Sequence[str], bars: dict[str, list[float]], colours: Sequence[str]
) -> None:
    """Draw one bar a name in each group; NaN leaves a gap."""
    width = 0.84 / len(bars)
    places = np.arange(len(groups))
    for number, (name, heights) in enumerate(bars.items()):
        shift = (number - (len(bars) - 1) / 2) * width
        axes.bar(places + shift, heights, width * 0.92, label=name, color=colours[number])
    axes.set_xticks(places, groups, fontsize="small")


def _known(number: float | None) -> float:
    return float("nan") if number is None else number


def _peers(figure: Figure, document: Document) -> None:
    measurements = document.find()
    names = dict.fromkeys(k for m in measurements for k in m.timings if is_peer(k))
    bars = {
        name: [_known(time_ratio(m, name, "cython/out")) for m in measurements] for name in names
    }
    bars["fastxent numba"] = [
        _known(time_ratio(m, "numba/out", "cython/out")) for m in measurements
    ]
    axes = figure.add_subplot()
    colours = [*OTHERS[: len(names)], OWN["numba"]]
    _grouped_bars(axes, _labels(measurements), bars, colours)
    axes.set_yscale("log")
    ticks = (1, 2, 5, 10, 20, 50, 100)
    axes.set_yticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.axhline(1, color=OWN["cython"], linewidth=2, label="fastxent cython")
    title = f"Loss and gradient, float32, {document.threads} threads: time over that of fastxent"
    _tidy(axes, title, "times as long (log scale)")
    figure.legend(ncols=8, frameon=False, fontsize="small", loc="outside lower center")


def _roofline(figure: Figure, document: Document) -> None:
    axes = figure.add_subplot()
    for dtype, style in (("float32", "-"), ("float64", "--")):
        measurements = sorted(document.find(dtype=dtype), key=lambda m: m.workload.classes)
        if not measurements:
            continue
        classes = [m.workload.classes for m in measurements]
        for backend in COMPILED:
            shares = [_known(copy_share(m, f"{backend}/out")) for m in measurements]
            label = f"fastxent {backend}, {dtype}"
            axes.plot(classes, shares, style, color=OWN[backend], marker="o", label=label)
        roof = [
            min(1.0, m.timings[COPY].median / min(m.arithmetic.values()))
            if COPY in m.timings and m.arithmetic
            else float("nan")
            for m in measurements
        ]
        label = f"arithmetic ceiling, {dtype}"
        axes.plot(classes, roof, style, color=OTHERS[0], linewidth=1, label=label)
    axes.axhline(1, color=INK, linewidth=1, label="copy limit")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.2)
    axes.set_xlabel("classes")
    _tidy(axes, "Share of the copy limit: a plain copy of the same bytes is 1", "share")
    figure.legend(ncols=4, frameon=False, fontsize="small", loc="outside lower center")


def _threads(figure: Figure, document: Document) -> None:
    measurements = [m for m in document.find() if any(" x1" in k for k in m.timings)]
    bars = {
        f"fastxent {backend}": [
            _known(time_ratio(m, f"{backend}/out x1", f"{backend}/out")) for m in measurements
        ]
        for backend in COMPILED
    }
    bars["copy"] = [_known(time_ratio(m, COPY_ON_ONE_THREAD, COPY)) for m in measurements]
    axes = figure.add_subplot()
    _grouped_bars(axes, _labels(measurements), bars, [*OWN.values(), OTHERS[4]])
    axes.axhline(document.threads, color=INK, linewidth=1)
    axes.set_ylim(0, document.threads * 1.3)
    _tidy(axes, f"From 1 to {document.threads} threads: how many times as fast", "times as fast")
    figure.legend(ncols=3, frameon=False, fontsize="small", loc="outside lower center")


def _memory(figure: Figure, document: Document) -> None:
    compared = {k: size for k, size in document.memory.items() if _is_compared(k)}
    sizes = sorted(compared.items(), key=lambda item: -item[1])
    names = [shown(name) for name, _ in sizes]
    megabytes = [size / 1e6 for _, size in sizes]
    axes = figure.add_subplot()
    colours = [OWN["cython"] if is_own(name) else OTHERS[4] for name, _ in sizes]
    axes.barh(names, megabytes, color=colours)
    for place, size in enumerate(megabytes):
        axes.text(size, place, f" {size:.1f} MB", va="center", fontsize="small", color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel("MB")
    _tidy(axes, "Peak memory of a call beyond inputs and output: 256 x 128,256, float32", "")
    axes.grid(False)


def _is_compared(name: str) -> bool:
    return not is_own(name) or name in ADAPTERS or "/out" in name


def _frameworks(figure: Figure, document: Document) -> None:
    measurements = [m for m in document.find() if any(name in m.timings for name in ADAPTERS)]
    bars = {
        f"{peer} / {adapter}": [_known(time_ratio(m, peer, adapter)) for m in measurements]
        for adapter, peer in IN_FRAMEWORKS
    }
    axes = figure.add_subplot()
    _grouped_bars(axes, _labels(measurements), bars, OTHERS)
    axes.axhline(1, color=INK, linewidth=1)
    _tidy(axes, "Training-style call inside the framework: how many times as fast", "times as fast")
    figure.legend(ncols=3, frameon=False, fontsize="small", loc="outside lower center")


PICTURES: dict[str, tuple[Callable[[Figure, Document], None], tuple[float, float]]] = {
    "peers.svg": (_peers, (10.0, 4.6)),
    "roofline.svg": (_roofline, (8.0, 4.2)),
    "threads.svg": (_threads, (9.0, 3.8)),
    "memory.svg": (_memory, (8.0, 3.8)),
    "frameworks.svg": (_frameworks, (9.0, 3.8)),
}


def draw_all(document: Document, directory: Path) -> list[Path]:
    """Write all pictures.

    Parameters
    ----------
    document : Document
    directory : Path
        Existing; the files are named as in `PICTURES`.

    Returns
    -------
    list of Path
        What was written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    paths = []
    # The salt makes the names inside the file the same every time; a date would not be.
    with mpl.rc_context({**mpl.rcParamsDefault, "svg.hashsalt": "fastxent"}):
        for name, (draw, size) in PICTURES.items():
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, document)
            paths.append(directory / name)
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths
