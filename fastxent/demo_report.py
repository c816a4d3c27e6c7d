"""`fastxent demo`: train with fastxent and by the textbook, compare, draw, and measure."""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastxent as fx
from fastxent.demo import (
    SEED,
    Curves,
    Digits,
    Loss,
    Network,
    Watcher,
    fused_loss,
    load_digits,
    textbook_loss,
    train,
)
from fastxent.demo_speed import speed_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["MOST_DIFFERENCE", "NEEDED_ACCURACY", "missing_extras", "run"]

NEEDED_ACCURACY = 0.97
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


def _train_from_seed(
    digits: Digits, loss: Loss, epochs: int, watcher: Watcher | None = None
) -> tuple[Network, Curves]:
    network = Network.random(np.random.default_rng(SEED))
    return network, train(network, digits, loss, epochs=epochs, watcher=watcher)


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
    from rich.console import Console

    from fastxent.demo_picture import draw

    console = Console(highlight=False)
    digits = load_digits()
    console.print(
        f"fastxent {fx.__version__}, backend {backend}: handwritten digits, "
        f"{len(digits.y_train)} to train on and {len(digits.y_test)} to test"
    )
    loss = fused_loss(backend)
    with console.status(f"getting backend {backend} ready: the first time it may have to compile"):
        loss(np.zeros((1, 10)), np.zeros(1, np.int64))
    with closing(_BarPerEpoch(console, epochs)) as bars:
        network, fused = _train_from_seed(digits, loss, epochs, bars)
    with console.status("the same training through the textbook formulas"):
        _, textbook = _train_from_seed(digits, textbook_loss, epochs)

    accuracy = fused.accuracy[-1]
    difference = fused.largest_difference(textbook)
    right = [
        _verdict(
            console,
            f"test accuracy {accuracy:.2%}, at least {NEEDED_ACCURACY:.0%} needed",
            accuracy >= NEEDED_ACCURACY,
        ),
        _verdict(
            console,
            f"largest difference from the losses of textbook NumPy over {len(fused.batch_loss)} "
            f"steps: {difference:.1e}, at most {MOST_DIFFERENCE:.0e} allowed",
            difference <= MOST_DIFFERENCE,
        ),
    ]
    picture = out / "digits.png"
    draw(picture, digits, network, fused, textbook)
    console.print(f"picture: {picture}", soft_wrap=True, markup=False)
    if speed:
        console.print()
        right.append(speed_table(console))
    return 0 if all(right) else 1


def _verdict(console: Console, statement: str, good: bool) -> bool:
    style, word = ("green", "ok") if good else ("bold red", "FAILED")
    console.print(f"[{style}]{word}[/]: {statement}", soft_wrap=True)
    return good
