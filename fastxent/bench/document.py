"""All results of one run as one JSON file, from which tables and pictures are made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastxent.bench import machine
from fastxent.bench.contest import Contest
from fastxent.bench.measure import Measurement
from fastxent.bench.workloads import Workload

__all__ = ["FULL_SECONDS", "Document"]

# What each is timed for, about, in a run whose results are kept.
FULL_SECONDS = 0.2


@dataclass
class Document:
    """What one run of the benchmarks measured.

    Attributes
    ----------
    machine : dict
        What `machine.facts` gave.
    measurements : list of Measurement
    latency : dict of str to float
        Seconds of a call at (32, 10), by peer.
    memory : dict of str to int
        Bytes beyond inputs and output, by peer.
    startup : dict of str to float
        Seconds: "import", "cold", "warm".
    large : dict
        What benchmarks/large.py measured, where it was run.
    instructions : dict of str to float
        Instructions an element, by backend, labels, dtype and instruction set.
    contests : list of Contest
        Boosting's gradients and Hessians, and fits.
    seconds : float
        What each was timed for, about.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    startup: dict[str, float] = field(default_factory=dict)
    large: dict[str, Any] = field(default_factory=dict)
    instructions: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    contests: list[Contest] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Threads of the main run."""
        return max((m.workload.threads for m in self.measurements), default=1)

    def unfit(self) -> list[str]:
        """Tell why these results are not to replace others; nothing where they may."""
        reasons = []
        if self.seconds < FULL_SECONDS:
            reasons.append(f"each was timed for {self.seconds:g} s, not {FULL_SECONDS:g}")
        if machine.is_busy(self.machine):
            load = self.machine["load_before"]
            reasons.append(f"the machine was BUSY: a load average of {load} when this began")
        return reasons

    def find(
        self,
        labels: str = "hard",
        dtype: str = "float32",
        threads: int | None = None,
        operation: str = "cross_entropy",
    ) -> list[Measurement]:
        """Give the measurements of one kind, in their order; by default with all threads.

        Those with classes on axis 1 are not among them: `find_class_axis_1` gives these.
        """
        wanted = (labels, dtype, threads or self.threads, operation)
        return [m for m in self.measurements if _kind(m.workload) == wanted]

    def find_class_axis_1(self) -> list[Measurement]:
        """Give the measurements with classes on axis 1, in their order."""
        return [m for m in self.measurements if m.workload.shape]

    def at(self, rows: int, classes: int, **kind: Any) -> Measurement | None:
        """Give one measurement, if there is one."""
        for measurement in self.find(**kind):
            if (measurement.workload.rows, measurement.workload.classes) == (rows, classes):
                return measurement
        return None

    def contest(self, title: str) -> Contest | None:
        """Give the contest of this title, if it was held."""
        return next((one for one in self.contests if one.title == title), None)

    def save(self, path: Path) -> None:
        """Write the file: one line a measurement, so that two runs can be compared by diff."""
        fields = {k: v for k, v in vars(self).items() if k != "measurements"}
        fields["contests"] = [contest.as_dict() for contest in self.contests]
        head = json.dumps(fields, indent=1)[:-2]
        lines = ",\n  ".join(json.dumps(m.as_dict()) for m in self.measurements)
        path.write_text(f'{head},\n "measurements": [\n  {lines}\n ]\n}}\n')

    @classmethod
    def load(cls, path: Path) -> Document:
        """Read what `save` wrote."""
        fields = json.loads(path.read_text())
        measurements = [Measurement.from_dict(entry) for entry in fields.pop("measurements")]
        contests = [Contest.from_dict(entry) for entry in fields.pop("contests", [])]
        return cls(**fields, measurements=measurements, contests=contests)


def _kind(workload: Workload) -> tuple[str, str, int, str] | None:
    if workload.shape:
        return None
    return workload.labels, workload.dtype, workload.threads, workload.operation
