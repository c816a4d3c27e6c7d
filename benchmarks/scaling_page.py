"""Tables and picture of docs/scaling.md, from the results of benchmarks/scaling.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling_model import NETWORK, Model, bytes_of_logits, bytes_sent

from fastxent.bench import machine
from fastxent.bench.tables import table

__all__ = ["draw", "tables"]

# What the model is drawn for: every rank has a core and its memory for itself.
ROWS, CLASSES = 4096, 1_000_000
RANKS = (1, 8, 64, 256, 1024)
INK, GRID = "#1c2733", "#d0d7de"
COLOURS = ("#0072b2", "#d55e00", "#009e73")


def _models(results: dict[str, Any]) -> dict[str, Model]:
    cores = results["machine"]["cpu"]["available_cpus"]
    shape = results["rows"], results["classes"]
    return {name: Model.of(one, *shape, cores) for name, one in results["engines"].items()}


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.3g}" if size < 1e9 else f"{size / 1e6:,.0f}"


def _measured(results: dict[str, Any]) -> str:
    rows, classes = results["rows"], results["classes"]
    lines = []
    for name, model in _models(results).items():
        for ranks, one in results["engines"][name].items():
            lines.append(
                [
                    f"{name}, {ranks} rank{'s' if ranks != '1' else ''}",
                    _milliseconds(one["call"]),
                    _milliseconds(model.seconds(rows, classes, int(ranks))),
                    _milliseconds(one["passes"]),
                    _milliseconds(one["in_order"]),
                    f"{1e6 * one['exchanges']['1']:.3g}",
                    f"{one['memory'] / 1e6:.3g}",
                ]
            )
    headings = [
        *("", "call, ms", "model, ms", "passes alone, ms", "`in_order`, ms"),
        *("exchange of 1 number, us", "memory beside logits and gradient, MB"),
    ]
    return table(headings, lines)


def _apart(results: dict[str, Any]) -> str:
    """How far calls of several ranks are from the model, which one rank and exchanges gave."""
    cores = results["machine"]["cpu"]["available_cpus"]
    shape = results["rows"], results["classes"]
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for name, model in _models(results).items():
        for ranks, one in results["engines"][name].items():
            if int(ranks) > 1:
                found = one["call"] / model.seconds(*shape, int(ranks))
                ratios[int(ranks) <= cores].append(found)

    def took(found: list[float], where: str) -> str:
        if not found:
            return ""
        return f"\n{where}, calls took {min(found):.2f} to {max(found):.2f} times what it says."

    few = "2 ranks" if cores == 2 else f"2 to {cores} ranks"
    return (
        "The model has the time of one rank from the measurement."
        + took(ratios[True], f"With {few}, each on a core of its own")
        + took(ratios[False], f"With more ranks than the {cores} cores")
    )


def _networks(results: dict[str, Any]) -> str:
    lines = [
        [name, f"{1e6 * model.network.latency:.3g}", f"{model.network.bandwidth / 1e9:.3g}"]
        for name, model in _models(results).items()
    ]
    lines.append(["assumed for the curve", "10", "12.5"])
    return table(["", "latency of a message, us", "bandwidth, GB/s"], lines)


def _curve_model(results: dict[str, Any]) -> Model:
    model = next(iter(_models(results).values()))
    return Model(model.per_logit, model.per_row, NETWORK)


def _curve(results: dict[str, Any]) -> str:
    model = _curve_model(results)
    lines = [
        [
            f"{ranks:,}",
            _megabytes(bytes_sent(ROWS, ranks)),
            _megabytes(bytes_of_logits(ROWS, CLASSES, ranks)),
            _milliseconds(model.exchange(ROWS, ranks)),
            _milliseconds(model.passes(ROWS, CLASSES, ranks)),
            _milliseconds(model.seconds(ROWS, CLASSES, ranks)),
            _megabytes(8 * ROWS * CLASSES / ranks),
        ]
        for ranks in RANKS
    ]
    headings = [
        *("ranks", "sent by a rank, MB", "sent if logits were gathered, MB", "exchange, ms"),
        *("passes, ms", "call, ms", "logits and gradient of a rank, MB"),
    ]
    return table(headings, lines)


def tables(results: dict[str, Any]) -> str:
    """Everything between the markers of the page."""
    rows, classes, made = results["rows"], results["classes"], _curve_model(results)
    few = next(iter(results["engines"].values()))["1"]["few_classes"]
    missing = "".join(
        f"\nNot measured: {name}: {reason}.\n" for name, reason in results["missing"].items()
    )
    return f"""\
Loss and gradient, {rows:,} rows, {classes:,} classes, float32, one thread a rank; median of rounds
that all ranks begin together, of the slowest rank:

{_measured(results)}
{missing}
{_apart(results)}

What the model takes from these and from a call of {few:,} classes, of one rank: for both passes and
the memory of the gradient {1e9 * made.per_logit:.3g} ns a logit, for its statistics
{1e6 * made.per_row:.3g} us a row ({next(iter(results["engines"]))}), and

{_networks(results)}

{machine.summary(results["machine"])}.

The model for {ROWS:,} rows and {CLASSES:,} classes, one rank to a core:

{_curve(results)}

![Seconds, bytes and memory up to 1,024 ranks](pictures/scaling.svg)"""


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture; the same results, the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, "svg.hashsalt": "fastxent"}):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        panels = figure.subplots(1, 3)
        _draw_measured(panels[0], results)
        _draw_seconds(panels[1], results)
        _draw_bytes(panels[2])
        figure.savefig(path, metadata={"Date": None})


def _tidy(axes: Any, title: str, ylabel: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize="medium")
    axes.set_ylabel(ylabel)
    axes.set_xlabel("ranks")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize="small")


def _draw_measured(axes: Any, results: dict[str, Any]) -> None:
    rows, classes = results["rows"], results["classes"]
    for colour, (name, model) in zip(COLOURS, _models(results).items(), strict=False):
        ranks = [int(count) for count in results["engines"][name]]
        calls = [1e3 * one["call"] for one in results["engines"][name].values()]
        expected = [1e3 * model.seconds(rows, classes, count) for count in ranks]
        axes.plot(ranks, calls, "o", color=colour, label=name)
        axes.plot(ranks, expected, "-", color=colour, linewidth=1, label="model")
    axes.set_ylim(bottom=0)
    axes.set_xticks(ranks)
    cores = results["machine"]["cpu"]["available_cpus"]
    _tidy(axes, f"Measured: {rows:,} x {classes:,}, {cores} cores", "ms a call")


def _draw_seconds(axes: Any, results: dict[str, Any]) -> None:
    model = _curve_model(results)
    ranks = [1 << power for power in range(11)]
    curves = {
        "call": [model.seconds(ROWS, CLASSES, count) for count in ranks],
        "passes": [model.passes(ROWS, CLASSES, count) for count in ranks],
        "exchange": [model.exchange(ROWS, count) or float("nan") for count in ranks],
    }
    for colour, (name, seconds) in zip(COLOURS, curves.items(), strict=True):
        axes.plot(ranks, [1e3 * one for one in seconds], color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _tidy(axes, f"Model: {ROWS:,} x {CLASSES:,}", "ms")


def _draw_bytes(axes: Any) -> None:
    ranks = [1 << power for power in range(1, 11)]
    curves = {
        "logits and gradient of a rank": [8 * ROWS * CLASSES / count for count in ranks],
        "sent if logits were gathered": [bytes_of_logits(ROWS, CLASSES, n) for n in ranks],
        "sent": [bytes_sent(ROWS, count) for count in ranks],
    }
    for colour, (name, sizes) in zip(COLOURS, curves.items(), strict=True):
        axes.plot(ranks, [size / 1e6 for size in sizes], color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _tidy(axes, f"Model: {ROWS:,} x {CLASSES:,}", "MB a rank")
