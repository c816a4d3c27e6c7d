"""`fastxent demo`: train with fastxent and by the textbook, compare, draw, and measure."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastxent as fx
from fastxent import demo_binary
from fastxent.demo import (
    SEED,
    Curves,
    Loss,
    Network,
    Recipe,
    Samples,
    Watcher,
    fused_loss,
    load_digits,
    textbook_loss,
    train,
)
from fastxent.demo_speed import binary_speed_table, speed_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "MOST_DIFFERENCE",
    "NEEDED_ACCURACY",
    "NEEDED_BINARY_ACCURACY",
    "missing_extras",
    "run",
    "run_binary",
]

NEEDED_ACCURACY = 0.97
NEEDED_BINARY_ACCURACY = 0.95
MOST_DIFFERENCE = 1e-9


def missing_extras() -> list[str]:
    """Name the packages of the extra "demo" that cannot be imported."""
    missing = []
    for module, package in {
        "sklearn": "scikit-learn",
        "matplotlib": "matplotlib",
        "rich": "rich",
    }.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    return missing


class _BarPerEpoch(Watcher):
    """One progress bar for each epoch, which stays as a line with its loss and accuracy."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console = console
        self._epochs = epochs
        self._bar: Any = None

    def after_batch(self, curves: Curves, done: float) -> None:
        """Move the bar of this epoch, after making it for the first mini-batch."""
        if self._bar is None:
            self._bar = self._new_bar(len(curves.accuracy) + 1)
        self._bar.update(
            self._bar.task_ids[0], completed=done, result=f"loss {curves.batch_loss[-1]:.4f}"
        )

    def after_epoch(self, curves: Curves) -> None:
        """Close the bar with what the epoch came to."""
        result = f"loss {curves.train_loss[-1]:.4f}   test accuracy {curves.accuracy[-1]:7.2%}"
        self._bar.update(self._bar.task_ids[0], completed=1.0, result=result)
        self.close()

    def close(self) -> None:
        """Give the terminal back, be the training broken off or not."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _new_bar(self, epoch: int) -> Any:
        from rich.progress import BarColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[result]}"),
            console=self._console,
        )
        bar.add_task(f"epoch {epoch:3d}/{self._epochs}", total=1.0, result="")
        bar.start()
        return bar


@dataclass(frozen=True)
class _Subject:
    """What one demo trains on and with, and how its results are shown."""

    name: str
    samples: Samples
    new_network: Callable[[np.random.Generator], Network]
    recipe: Recipe
    loss: Loss
    textbook: Loss
    logits: int  # of a row
    needed_accuracy: float
    picture: str
    draw: Callable[[Path, Any, Network, Curves, Curves], None]
    speed_table: Callable[[Console], bool]

    def train(self, loss: Loss, epochs: int, watcher: Watcher | None) -> tuple[Network, Curves]:
        """Train from the seed; both trainings start alike."""
        network = self.new_network(np.random.default_rng(SEED))
        curves = train(
            network, self.samples, loss, epochs=epochs, watcher=watcher, recipe=self.recipe
        )
        return network, curves


def run(out: Path, epochs: int, backend: str, speed: bool = True) -> int:
    """Run the demo.

    Parameters
    ----------
    out : Path
        Existing directory for the picture.
    epochs : int
    backend : str
        What trains.
    speed : bool
        Whether to measure and print the table of times.

    Returns
    -------
    int
        0; or 1 if the accuracy is too low, the two trainings differ, or a result is wrong.
    """
    from fastxent.demo_picture import draw

    subject = _Subject(
        name="handwritten digits",
        samples=load_digits(),
        new_network=Network.random,
        recipe=Recipe(),
        loss=fused_loss(backend),
        textbook=textbook_loss,
        logits=10,
        needed_accuracy=NEEDED_ACCURACY,
        picture="digits.png",
        draw=draw,
        speed_table=speed_table,
    )
    return _run(subject, out, epochs, backend, speed)


def run_binary(out: Path, epochs: int, backend: str, speed: bool = True) -> int:
    """Run the demo with one sigmoid output; parameters and result as those of `run`."""
    from fastxent.demo_binary_picture import draw

    subject = _Subject(
        name="tumours of the breast, malignant or benign",
        samples=demo_binary.load_tumours(),
        new_network=demo_binary.random_network,
        recipe=demo_binary.RECIPE,
        loss=demo_binary.fused_loss(backend),
        textbook=demo_binary.textbook_loss,
        logits=1,
        needed_accuracy=NEEDED_BINARY_ACCURACY,
        picture="tumours.png",
        draw=draw,
        speed_table=binary_speed_table,
    )
    return _run(subject, out, epochs, backend, speed)


def _run(subject: _Subject, out: Path, epochs: int, backend: str, speed: bool) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    samples = subject.samples
    console.print(
        f"fastxent {fx.__version__}, backend {backend}: {subject.name}, "
        f"{len(samples.y_train)} to train on and {len(samples.y_test)} to test",
        soft_wrap=True,
    )
    with console.status(f"getting backend {backend} ready: the first time it may have to compile"):
        subject.loss(np.zeros((1, subject.logits)), np.zeros(1, np.int64))
    with closing(_BarPerEpoch(console, epochs)) as bars:
        network, fused = subject.train(subject.loss, epochs, bars)
    with console.status("the same training through the textbook formulas"):
        _, textbook = subject.train(subject.textbook, epochs, None)

    accuracy, needed = fused.accuracy[-1], subject.needed_accuracy
    difference = fused.largest_difference(textbook)
    right = [
        _verdict(
            console,
            f"test accuracy {accuracy:.2%}, at least {needed:.0%} needed",
            accuracy >= needed,
        ),
        _verdict(
            console,
            f"largest difference from the losses of textbook NumPy over {len(fused.batch_loss)} "
            f"steps: {difference:.1e}, at most {MOST_DIFFERENCE:.0e} allowed",
            difference <= MOST_DIFFERENCE,
        ),
    ]
    picture = out / subject.picture
    subject.draw(picture, samples, network, fused, textbook)
    console.print(f"picture: {picture}", soft_wrap=True, markup=False)
    if speed:
        console.print()
        right.append(subject.speed_table(console))
    return 0 if all(right) else 1


def _verdict(console: Console, statement: str, good: bool) -> bool:
    style, word = ("green", "ok") if good else ("bold red", "FAILED")
    console.print(f"[{style}]{word}[/]: {statement}", soft_wrap=True)
    return good
