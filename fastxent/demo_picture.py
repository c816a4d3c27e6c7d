"""The picture of `fastxent demo`: the loss of both trainings, and what the network reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.demo import Curves, Digits, Network
from fastxent.precision import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["BLUE", "GREY", "ORANGE", "RED", "draw", "draw_curves", "new_figure", "tidy"]

ROWS, COLUMNS = 5, 7

# Colours that the most common colour blindness keeps apart.
BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#666666"


def draw(path: Path, digits: Digits, network: Network, fused: Curves, textbook: Curves) -> None:
    """Write the picture to `path`, as PNG."""
    figure, (curves, samples) = new_figure()
    draw_curves(curves, fused, textbook, "training, noisy pixels")
    _draw_samples(samples, digits, network.predict(digits.x_test))
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.15)


def new_figure() -> tuple[Any, Any]:
    """Figure that needs no display, and its two halves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subfigures(1, 2, width_ratios=(1.0, 1.05), wspace=0.04)


def draw_curves(half: Any, fused: Curves, textbook: Curves, training: str) -> None:
    """Draw the losses of both trainings, and how far they are apart."""
    upper, lower = half.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0))
    _draw_losses(upper, fused, textbook, training)
    _draw_difference(lower, fused, textbook)


def _draw_losses(axes: Axes, fused: Curves, textbook: Curves, training: str) -> None:
    epochs = np.arange(1, len(fused.train_loss) + 1)
    lines = (
        (training, BLUE, fused.train_loss, textbook.train_loss),
        ("test", ORANGE, fused.test_loss, textbook.test_loss),
    )
    for name, colour, ours, theirs in lines:
        axes.plot(epochs, ours, color=colour, linewidth=2.0, label=f"{name}: fastxent")
        axes.plot(
            epochs,
            theirs,
            linestyle="none",
            marker="o",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=colour,
            label=f"{name}: textbook NumPy",
        )
    axes.set_yscale("log")
    axes.set_ylabel("cross-entropy loss")
    axes.set_title(
        f"Loss of each epoch; in the end {fused.accuracy[-1]:.1%} of the test are right", loc="left"
    )
    axes.legend(frameon=False)
    tidy(axes)


def _draw_difference(axes: Axes, fused: Curves, textbook: Curves) -> None:
    epochs = np.arange(1, len(fused.train_loss) + 1)
    difference = np.abs(np.subtract(fused.batch_loss, textbook.batch_loss))
    axes.plot(epochs, difference.reshape(len(epochs), -1).max(axis=1), color=GREY, linewidth=1.5)
    axes.set_ylabel("largest\ndifference")
    axes.set_xlabel("epoch")
    tidy(axes)


def tidy(axes: Axes) -> None:
    """Take away what does not help to read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _chosen(wrong: Array) -> Array:
    """Places of the digits to show: wrong ones first, at most half of the grid, then right ones."""
    shown_wrong = np.flatnonzero(wrong)[: ROWS * COLUMNS // 2]
    right = np.flatnonzero(~wrong)[: ROWS * COLUMNS - len(shown_wrong)]
    return np.concatenate([shown_wrong, right])


def _draw_samples(figure: SubFigure, digits: Digits, predicted: Array) -> None:
    wrong = predicted != digits.y_test
    chosen = _chosen(wrong)
    count = int(wrong.sum())
    grid: Any = figure.subplots(ROWS, COLUMNS)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, at in zip(grid.flat, chosen, strict=False):
        axes.imshow(digits.x_test[at].reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0)
        if wrong[at]:
            axes.set_title(f"{predicted[at]}, is {digits.y_test[at]}", color=RED, fontweight="bold")
            for side in axes.spines.values():
                side.set(color=RED, linewidth=2.5)
        else:
            axes.set_title(str(predicted[at]))
            for side in axes.spines.values():
                side.set(color="#cccccc")
    figure.suptitle(
        f"{len(wrong)} test digits as the network reads them: {count} wrong (red, shown first)",
        fontsize="large",
    )
