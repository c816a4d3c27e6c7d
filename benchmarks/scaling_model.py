"""The cost model of docs/scaling.md: bytes, seconds and memory of a loss over sharded classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["DESCRIPTOR", "NETWORK", "Model", "Network", "bytes_of_logits", "bytes_sent"]

# Bytes by which a rank tells the others what it was given.
DESCRIPTOR = 1024
# Numbers a row: the maximum; the sum and the logit of the label. All are float64.
MAXIMA, SUMS = 1, 2
NUMBER = 8


@dataclass(frozen=True)
class Network:
    """Between two ranks.

    Attributes
    ----------
    latency : float
        Seconds that a message takes besides its bytes.
    bandwidth : float
        Bytes a second.
    """

    latency: float
    bandwidth: float

    def all_reduce(self, ranks: int, size: float) -> float:
        """Seconds in which all ranks get the sum of arrays of `size` bytes of each.

        Reduce-scatter and all-gather: 2 log2(p) messages one after the other, by which each rank
        sends 2 (p - 1) / p times the array (Thakur et al. 2005, "Optimization of collective
        communication operations in MPICH").
        """
        if ranks == 1:
            return 0.0
        steps = 2 * math.ceil(math.log2(ranks))
        return steps * self.latency + 2 * (ranks - 1) / ranks * size / self.bandwidth

    def all_gather(self, ranks: int, size: float) -> float:
        """Seconds in which all ranks get arrays of `size` bytes from each."""
        if ranks == 1:
            return 0.0
        steps = math.ceil(math.log2(ranks))
        return steps * self.latency + (ranks - 1) * size / self.bandwidth

    @classmethod
    def of(cls, exchanges: dict[str, float]) -> Network:
        """What exchanges of so many float64 between two ranks say."""
        points = sorted((int(numbers), seconds) for numbers, seconds in exchanges.items())
        (_, least), (most, longest) = points[0], points[-1]
        return cls(least / 2, NUMBER * most / max(longest - least, 1e-9))


# 100 Gbit/s and 10 us between any two ranks: assumed, not measured.
NETWORK = Network(latency=10e-6, bandwidth=12.5e9)


def bytes_sent(rows: int, ranks: int) -> float:
    """What a rank sends during a call: its descriptor to all, and its share of two reductions."""
    if ranks == 1:
        return 0.0
    reduced = 2 * (ranks - 1) / ranks * NUMBER * (MAXIMA + SUMS) * rows
    return DESCRIPTOR * (ranks - 1) + reduced


def bytes_of_logits(rows: int, classes: int, ranks: int) -> float:
    """What a rank sends where the logits themselves are gathered, as float32."""
    return 4 * rows * classes / ranks * (ranks - 1)


@dataclass(frozen=True)
class Model:
    """Seconds of a call with its gradient.

    Attributes
    ----------
    per_logit : float
        Seconds that a logit takes, on one thread: two passes, and memory for its gradient.
    per_row : float
        Seconds that a row takes besides, however many its classes are: for its statistics.
    network : Network
    cores : int
        Ranks that compute at the same time; more than these share them.
    """

    per_logit: float
    per_row: float
    network: Network
    cores: float = math.inf

    def passes(self, rows: int, classes: int, ranks: int) -> float:
        """Seconds of arithmetic."""
        return self.per_logit * rows * classes / ranks * max(1.0, ranks / self.cores)

    def exchange(self, rows: int, ranks: int) -> float:
        """Seconds of three exchanges."""
        network = self.network
        agreement = network.all_gather(ranks, DESCRIPTOR)
        return agreement + sum(
            network.all_reduce(ranks, NUMBER * numbers * rows) for numbers in (MAXIMA, SUMS)
        )

    def seconds(self, rows: int, classes: int, ranks: int) -> float:
        """Seconds of a call."""
        return self.passes(rows, classes, ranks) + self.per_row * rows + self.exchange(rows, ranks)

    @classmethod
    def of(cls, measured: dict[str, Any], rows: int, classes: int, cores: float) -> Model:
        """What one rank alone says, with all classes and with few, and two ranks together.

        What a call takes beyond its passes grows with the logits where memory for the gradient is
        new, so that it may not be put down to rows.
        """
        one, two = measured["1"], measured["2"]
        few = one["few_classes"]
        per_logit = (one["call"] - one["call_of_few"]) / (rows * (classes - few))
        per_row = max(0.0, one["call_of_few"] / rows - per_logit * few)
        return cls(per_logit, per_row, Network.of(two["exchanges"]), cores)
