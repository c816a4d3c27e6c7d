"""The loss of rows whose classes are spread over processes: statistics that add up to a row's."""

from fastxent.sharding.merging import combined, merged
from fastxent.sharding.passes import grad_of, loss_of, stats_of
from fastxent.sharding.stats import ShardStats

__all__ = ["ShardStats", "combined", "grad_of", "loss_of", "merged", "stats_of"]
