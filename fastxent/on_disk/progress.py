"""A bar on the terminal for passes that take a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from fastxent.checks.on_disk import raise_no_bar

__all__ = ["Bar"]

# Seconds after which a bar is drawn that nobody asked for.
_PATIENCE = 2.0


class Bar:
    """How much of `total` bytes is done.

    Parameters
    ----------
    total : int
    wanted : bool or None
        None for a bar if the work goes on for more than two seconds, stderr is a terminal and rich
        is installed.
    """

    def __init__(self, total: int, wanted: bool | None) -> None:
        self._total, self._done = total, 0
        self._wanted = sys.stderr.isatty() if wanted is None else wanted
        self._shown: Any = None
        self._begin = time.monotonic() + (0.0 if wanted else _PATIENCE)
        if wanted:
            try:
                self._show()
            except ImportError as error:
                raise_no_bar(error)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown is not None:
            self._shown.stop()

    def advance(self, count: int) -> None:
        """Say that so many more bytes are done."""
        self._done += count
        if self._shown is None and self._wanted and time.monotonic() > self._begin:
            try:
                self._show()
            except ImportError:
                self._wanted = False
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=self._done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())
        self._shown = Progress(
            TextColumn("cross-entropy"),
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._shown.add_task("", total=self._total, completed=self._done)
        self._shown.start()
