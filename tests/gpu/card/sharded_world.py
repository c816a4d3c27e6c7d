"""Starts the processes of `sharded_rank`."""

import subprocess
import sys
from pathlib import Path

from gpu.card.run import environment

__all__ = ["told"]

RANK = Path(__file__).parent / "sharded_rank.py"


def told(ranks, kind, folder, seconds):
    """What each process that did not end well has said."""
    running = [
        subprocess.Popen(
            [sys.executable, RANK, str(rank), str(ranks), str(folder / "store"), kind],
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=seconds)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [text for text, process in zip(said, running, strict=True) if process.returncode]
