"""Contests: what is no loss of a batch, timed turn and turn about with what others would call.

Gradients and Hessians for boosting, and whole fits. Each result is checked before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastxent.bench.timer import Call, Plan, Timing, interleave

__all__ = ["Contest", "Contestant", "hold"]

FASTXENT = "fastxent"


@dataclass(frozen=True)
class Contestant:
    """One way to do it.

    Attributes
    ----------
    run : callable
        What is timed.
    faults : callable
        What is wrong with a result of `run`; nothing where it is right.
    share : int
        `run` does one in so many of the rows, where all of them would take minutes.
    """

    run: Callable[[], Any]
    faults: Callable[[Any], list[str]]
    share: int = 1


@dataclass
class Contest:
    """What came of one contest.

    Attributes
    ----------
    title : str
    timings : dict of str to Timing
        Seconds of the whole, by name; fastxent's is `FASTXENT`.
    skipped : dict of str to str
        Who was not timed, and why.
    """

    title: str
    timings: dict[str, Timing] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str) -> float | None:
        """Tell how many times as long as fastxent somebody takes."""
        other, ours = self.timings.get(name), self.timings.get(FASTXENT)
        return None if other is None or ours is None else other.median / ours.median

    def as_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        timings = {name: timing.as_dict() for name, timing in self.timings.items()}
        return {"title": self.title, "timings": timings, "skipped": self.skipped}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Contest:
        """Read what `as_dict` gave."""
        timings = {name: Timing(**timing) for name, timing in fields["timings"].items()}
        return cls(fields["title"], timings, dict(fields["skipped"]))


def hold(title: str, contestants: Mapping[str, Contestant], plan: Plan) -> Contest:
    """Check everybody, then time those whose results are right.

    Parameters
    ----------
    title : str
    contestants : mapping of str to Contestant
    plan : Plan

    Returns
    -------
    Contest
    """
    contest = Contest(title)
    for name, contestant in contestants.items():
        faults = contestant.faults(contestant.run())
        if faults:
            contest.skipped[name] = "wrong result: " + "; ".join(faults)
    able = {name: one for name, one in contestants.items() if name not in contest.skipped}
    timings = interleave({name: Call(one.run) for name, one in able.items()}, plan)
    contest.timings = {k: timing.times(able[k].share) for k, timing in timings.items()}
    return contest
