"""The loss of rows whose classes are spread over processes: statistics that add up to a row's."""

from fastxent.sharding.merging import NOWHERE, combined, merged, of_all_classes, relative_to
from fastxent.sharding.passes import Merged, check_suffice, grad_of, loss_of, runs_of, stats_of
from fastxent.sharding.stats import ShardStats

__all__ = [
    "NOWHERE",
    "Merged",
    "ShardStats",
    "check_suffice",
    "combined",
    "grad_of",
    "loss_of",
    "merged",
    "of_all_classes",
    "relative_to",
    "runs_of",
    "stats_of",
]
