from libc.stdint cimport int64_t

from binary_pass cimport fastxent_binary_pass
from watch cimport fastxent_watch


cdef extern from "kernels.hpp" nogil:
    const int64_t fastxent_block, fastxent_label_chunk, fastxent_tile_classes
    const int64_t fastxent_chunk_elements

    cdef enum fastxent_kind:
        fastxent_float32, fastxent_float64

    struct fastxent_labels:
        const void *data
        int64_t rows, classes
        int size, is_signed, has_skip
        int64_t skip

    struct fastxent_label_check:
        fastxent_labels labels
        const double *class_mass
        const double *row_mass
        int threads
        fastxent_watch *watch
        int64_t *bad_row
        int64_t *live
        double *mass

    struct fastxent_matrix:
        char *data
        int kind, levels
        int64_t class_stride
        int64_t size[4]
        int64_t stride[4]

    struct fastxent_schedule:
        pass

    struct fastxent_pass:
        int64_t rows, classes
        int size
        fastxent_matrix logits
        fastxent_labels labels
        fastxent_matrix soft
        const double *spike
        const double *row_scale
        int64_t spike_step, row_scale_step
        const void *background
        const void *gain
        int64_t background_step, gain_step
        double background_total
        double logit_scale, softcap, z_loss
        fastxent_matrix grad, proba, hess, log_proba, target_grad
        bint hess_is_distance
        double hess_factor, hess_floor
        void *loss
        void *row_max
        void *log_prob
        void *entropy
        int64_t *argmax
        double *row_sum
        double *total
        int threads
        fastxent_watch *watch
        fastxent_schedule schedule
        char *scratch

    struct fastxent_level:
        const char *name
        bint (*check_labels)(const fastxent_label_check &) noexcept nogil
        bint (*forward)(const fastxent_pass &) noexcept nogil
        bint (*binary)(const fastxent_binary_pass &) noexcept nogil
        bint (*softmax_backward)(const fastxent_jacobian &) noexcept nogil
        bint (*partial)(const fastxent_shard &) noexcept nogil
        bint (*merge)(const fastxent_shard &) noexcept nogil
        bint (*partial_backward)(const fastxent_shard &) noexcept nogil

    fastxent_schedule fastxent_schedule_of(const fastxent_pass &)
    int64_t fastxent_scratch_bytes(const fastxent_pass &)

    const fastxent_level *const *fastxent_levels
    const int fastxent_level_count
    int fastxent_supported_levels()
    int fastxent_openmp_version()
    int fastxent_openmp_limit()


cdef extern from "jacobian_pass.hpp" nogil:
    struct fastxent_jacobian_schedule:
        int64_t scratch_bytes

    struct fastxent_jacobian:
        int64_t rows, classes
        bint is_log
        fastxent_matrix first, grad, out
        int threads
        fastxent_watch *watch
        fastxent_jacobian_schedule schedule
        void *scratch

    fastxent_jacobian_schedule fastxent_jacobian_schedule_of(const fastxent_jacobian &)


cdef extern from "shard_pass.hpp" nogil:
    struct fastxent_part_sums:
        int64_t parts
        double *max
        double *sum
        double *mass
        double *dot
        double *spread
        int64_t *argmax
        double *label_logit

    struct fastxent_shard:
        fastxent_pass pass_ "pass"
        int64_t first_class
        fastxent_part_sums sums
        const double *row_max
        const double *row_sum
        const double *row_mass
        double *mass

    void fastxent_plan_shard(fastxent_shard &)
    void fastxent_plan_merge(fastxent_shard &)
