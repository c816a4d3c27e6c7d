from libc.stdint cimport int64_t


cdef extern from "kernels.hpp" nogil:
    const int64_t fastxent_block, fastxent_label_chunk, fastxent_tile_classes

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
        int64_t *bad_row
        int64_t *live
        double *mass

    struct fastxent_schedule:
        pass

    struct fastxent_pass:
        int64_t rows, classes
        int size
        const void *logits
        int64_t logits_stride
        fastxent_labels labels
        const void *soft
        int64_t soft_stride
        int soft_size
        const double *spike
        const double *row_scale
        int64_t spike_step, row_scale_step
        const void *background
        const void *gain
        int64_t background_step, gain_step
        double background_total
        void *loss
        void *grad
        void *row_max
        void *log_proba
        double *row_sum
        double *total
        int64_t out_stride
        int threads
        fastxent_schedule schedule
        void *scratch

    struct fastxent_level:
        const char *name
        void (*check_labels)(const fastxent_label_check &) noexcept nogil
        void (*forward)(const fastxent_pass &) noexcept nogil
        void (*softmax_backward)(const fastxent_jacobian &) noexcept nogil

    fastxent_schedule fastxent_schedule_of(int64_t rows, int64_t classes, int threads)
    int64_t fastxent_scratch_bytes(const fastxent_pass &)

    const fastxent_level *const *fastxent_levels
    const int fastxent_level_count
    int fastxent_supported_levels()
    int fastxent_openmp_version()
    int fastxent_openmp_limit()


cdef extern from "jacobian_pass.hpp" nogil:
    const int fastxent_most_dims

    struct fastxent_strided:
        void *data
        int dims
        int64_t sizes[4]
        int64_t strides[4]
        int64_t class_stride
        bint aligned

    struct fastxent_jacobian_schedule:
        pass

    struct fastxent_jacobian:
        int64_t rows, classes
        char kind
        bint is_log
        fastxent_strided first
        fastxent_strided grad
        fastxent_strided out
        int threads
        fastxent_jacobian_schedule schedule
        void *scratch

    fastxent_jacobian_schedule fastxent_jacobian_schedule_of(const fastxent_jacobian &)
    int64_t fastxent_jacobian_scratch_bytes(const fastxent_jacobian &)
