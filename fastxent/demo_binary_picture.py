"""The picture of `fastxent demo --binary`: the losses, and where the sigmoid puts each tumour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastxent.demo import Curves, Network
from fastxent.demo_binary import Tumours, is_malignant, sigmoid
from fastxent.demo_picture import BLUE, GREY, ORANGE, RED, draw_curves, new_figure, tidy

__all__ = ["draw"]

# Logits beyond these are drawn at the edge: there the sigmoid is flat.
MOST_LOGIT = 10.0


def draw(path: Path, tumours: Tumours, network: Network, fused: Curves, textbook: Curves) -> None:
    """Write the picture to `path`, as PNG."""
    figure, (curves, samples) = new_figure()
    draw_curves(curves, fused, textbook, "training, noisy measurements")
    _draw_samples(samples.subplots(), tumours, network)
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.15)


def _draw_samples(axes: Any, tumours: Tumours, network: Network) -> None:
    """The probability that the network gives each test tumour, by its logit."""
    _, z2 = network.forward(tumours.x_test)
    logits = np.clip(z2[:, 0], -MOST_LOGIT, MOST_LOGIT)
    wrong = is_malignant(z2) != tumours.y_test
    line = np.linspace(-MOST_LOGIT, MOST_LOGIT, 301)
    axes.plot(line, sigmoid(line), color=GREY, linewidth=1.5)
    axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle=":")
    # each on the curve, moved a little so that neighbours can be told apart
    shift = np.random.default_rng(0).uniform(-0.04, 0.04, len(logits))
    for label, name, colour in ((0, "benign", BLUE), (1, "malignant", ORANGE)):
        of_class = tumours.y_test == label
        height = sigmoid(logits) + shift
        axes.plot(
            logits[of_class & ~wrong],
            height[of_class & ~wrong],
            linestyle="none",
            marker="o",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=colour,
            label=f"{name}, read as such",
        )
        axes.plot(
            logits[of_class & wrong],
            height[of_class & wrong],
            linestyle="none",
            marker="X",
            markersize=11,
            markerfacecolor=colour,
            markeredgecolor=RED,
            label=f"{name}, read wrongly: {int((of_class & wrong).sum())}",
        )
    axes.set_xlabel("logit z2")
    axes.set_ylabel("probability of a malignant tumour, sigmoid(z2)")
    axes.set_title(f"{len(wrong)} test tumours: {int(wrong.sum())} read wrongly", loc="left")
    axes.legend(frameon=False, loc="center left")
    tidy(axes)
