# The verb softmax_backward; part of _kernels.pyx, which has the imports.


def softmax_backward(proba, log_proba, grad, out, int kind, int threads):
    """Jacobian product of the softmax or of its logarithm: `Backend.softmax_backward`."""
    cdef Held held
    cdef fastxent_jacobian work
    cdef double small[512]
    cdef void *large = NULL
    cdef int level
    cdef fastxent_watch watch
    cdef bint done
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        work.is_log = proba is None
        _input_matrix(&held, &work.first, log_proba if proba is None else proba, kind)
        _input_matrix(&held, &work.grad, grad, kind)
        _output_matrix(&held, &work.out, out, kind)
        work.rows = 1
        for level in range(work.out.levels):
            work.rows *= work.out.size[level]
        work.classes = held.views[2].shape[work.out.levels]
        work.threads = threads
        _watch(&watch, &work.watch, work.rows * work.classes)
        work.schedule = fastxent_jacobian_schedule_of(work)
        work.scratch = small
        if work.schedule.scratch_bytes > <int64_t>sizeof(small):
            large = PyMem_Malloc(work.schedule.scratch_bytes)
            if large == NULL:
                raise MemoryError
            work.scratch = large
        with nogil:
            done = _level.softmax_backward(work)
        PyMem_Free(large)
        _came_to_its_end(done)
    finally:
        release(&held)
