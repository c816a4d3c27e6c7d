from libc.stdint cimport int64_t
from libcpp cimport bool


cdef extern from "kernels.hpp" nogil:
    const int64_t fastxent_slice_elements

    struct fastxent_watch:
        pass

    void fastxent_begin_watch(fastxent_watch &, bool (*)() noexcept nogil)
