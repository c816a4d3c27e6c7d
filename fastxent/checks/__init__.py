"""The door: every message for a bad argument, and the only place that raises one.

Each function takes what the caller gave and returns what the rest of the library can trust.
Nothing is computed and nothing is written before all of them have passed.
"""

from fastxent.checks.arrays import (
    check_class_indices,
    check_grad_output,
    check_logits,
    check_sample_weight,
    check_target,
    check_weight,
    raise_bad_label,
)
from fastxent.checks.axes import check_axes, check_axis
from fastxent.checks.binary import (
    check_binary_target,
    check_element_factor,
    check_element_upstream,
    raise_bad_binary_target,
)
from fastxent.checks.jacobian import check_out_of_product, check_upstream
from fastxent.checks.on_device import (
    as_device_array,
    check_class_weight_on_device,
    check_dense,
    check_element_factor_on_device,
    check_is_writable,
    check_row_factor_on_device,
    check_same_device,
    check_view,
    is_on_device,
    read_from,
)
from fastxent.checks.options import (
    check_aux,
    check_choice,
    check_ignore_index,
    check_label_smoothing,
    check_logit_scale,
    check_normalizer,
    check_num_classes,
    check_num_threads,
    check_softcap,
    check_storage,
    check_z_loss,
)
from fastxent.checks.output import as_output, check_out
from fastxent.checks.sharding import (
    check_aux_of_stats,
    check_begins_block,
    check_by_block,
    check_mergeable,
    check_out_apart,
    check_shard,
    check_stats,
    check_stats_fit,
    check_stats_suffice,
    check_target_of_stats,
    check_whole_stats,
)
from fastxent.checks.states import raise_backend, raise_call_order

__all__ = [
    "as_device_array",
    "as_output",
    "check_aux",
    "check_aux_of_stats",
    "check_axes",
    "check_axis",
    "check_begins_block",
    "check_binary_target",
    "check_by_block",
    "check_choice",
    "check_class_indices",
    "check_class_weight_on_device",
    "check_dense",
    "check_element_factor",
    "check_element_factor_on_device",
    "check_element_upstream",
    "check_grad_output",
    "check_ignore_index",
    "check_is_writable",
    "check_label_smoothing",
    "check_logit_scale",
    "check_logits",
    "check_mergeable",
    "check_normalizer",
    "check_num_classes",
    "check_num_threads",
    "check_out",
    "check_out_apart",
    "check_out_of_product",
    "check_row_factor_on_device",
    "check_same_device",
    "check_sample_weight",
    "check_shard",
    "check_softcap",
    "check_stats",
    "check_stats_fit",
    "check_stats_suffice",
    "check_storage",
    "check_target",
    "check_target_of_stats",
    "check_upstream",
    "check_view",
    "check_weight",
    "check_whole_stats",
    "check_z_loss",
    "is_on_device",
    "raise_backend",
    "raise_bad_binary_target",
    "raise_bad_label",
    "raise_call_order",
    "read_from",
]
