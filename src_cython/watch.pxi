# Ctrl-C in a long call; a part of _kernels.pyx, which has the imports.

from libcpp cimport bool

from threading import get_ident, main_thread


cdef extern from "Python.h":
    # it leaves the exception where the verb's caller finds it
    int PyErr_CheckSignals() noexcept


cdef bool _interrupted() noexcept with gil:
    return PyErr_CheckSignals() < 0


cdef int _watch(fastxent_watch *place, fastxent_watch **watch, int64_t elements) except -1:
    """Have a call of so many elements watched, where that is worth a look: Python runs the handlers
    of signals in its main thread only."""
    watch[0] = NULL
    if elements > fastxent_slice_elements and get_ident() == main_thread().ident:
        fastxent_begin_watch(place[0], _interrupted)
        watch[0] = place
    return 0


cdef int _came_to_its_end(bint done) except -1:
    """Raise what a signal's handler raised in a verb that was interrupted."""
    return 0 if done else -1
