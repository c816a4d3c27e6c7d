"""The loss of rows whose classes are spread over processes: statistics that add up to a row's."""

from fastxent.sharding.merging import combined, merged
from fastxent.sharding.passes import Merged, check_suffice, grad_of, loss_of, runs_of, stats_of
from fastxent.sharding.stats import OF_PARTS, ShardStats, given

__all__ = [
    "OF_PARTS",
    "Merged",
    "ShardStats",
    "check_suffice",
    "combined",
    "given",
    "grad_of",
    "loss_of",
    "merged",
    "runs_of",
    "stats_of",
]
