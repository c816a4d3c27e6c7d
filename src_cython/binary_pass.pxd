from libc.stdint cimport int64_t

from watch cimport fastxent_watch


cdef extern from "binary_pass.hpp" nogil:
    struct fastxent_elements:
        char *data
        int kind
        const int64_t *strides
        double constant

    struct fastxent_binary_pass:
        int dims, size
        const int64_t *shape
        int64_t count
        fastxent_elements logits, target, ones, factor, upstream
        double gain, background
        fastxent_elements loss, grad, proba, hess
        bint hess_is_distance
        double hess_factor, hess_floor
        double *total
        int threads
        fastxent_watch *watch
        double *totals
        int64_t *bad
