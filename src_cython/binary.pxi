# The verb binary: a part of _kernels.pyx.

from binary_pass cimport fastxent_binary_pass, fastxent_elements


cdef int _elements(Held *held, fastxent_elements *place, value, int kind, int flags) except -1:
    """An array of the pass's shape, a number, or nothing."""
    cdef Py_buffer *view
    place.kind = kind
    if value is None:
        return 0
    if isinstance(value, float):
        place.constant = value
        return 0
    view = hold(held, value, flags)
    place.data = <char *>view.buf
    place.strides = <const int64_t *>view.strides
    return 0


def binary(
    logits, int logits_kind, target, int target_kind, ones, factor, upstream, int compute_kind,
    double gain, double background, loss, grad, proba, hess, hess_rule, total, int threads,
):
    """Loss and gradient of elements; whether an integer target is neither 0 nor 1."""
    cdef Held held
    cdef fastxent_binary_pass work
    cdef int64_t small[128]
    cdef void *large = NULL
    cdef int64_t chunks, chunk
    cdef bint bad = False, done
    cdef fastxent_watch watch
    cdef int readable = PyBUF_STRIDES, writable = PyBUF_STRIDES | PyBUF_WRITABLE
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        _elements(&held, &work.logits, logits, logits_kind, readable)
        work.dims = held.views[0].ndim
        work.shape = <const int64_t *>held.views[0].shape
        work.count = held.views[0].len // held.views[0].itemsize
        _elements(&held, &work.target, target, target_kind, readable)
        _elements(&held, &work.ones, ones, compute_kind, readable)
        _elements(&held, &work.factor, factor, compute_kind, readable)
        _elements(&held, &work.upstream, upstream, compute_kind, readable)
        _elements(&held, &work.loss, loss, compute_kind, writable)
        _elements(&held, &work.grad, grad, logits_kind, writable)
        _elements(&held, &work.proba, proba, logits_kind, writable)
        if hess is not None:
            _elements(&held, &work.hess, hess, logits_kind, writable)
            work.hess_is_distance = hess_rule.kind == "distance"
            work.hess_factor, work.hess_floor = hess_rule.factor, hess_rule.floor
        work.size = 8 if compute_kind == fastxent_float64 else 4
        work.gain, work.background = gain, background
        work.total = <double *>_output(&held, total)
        work.threads = threads
        _watch(&watch, &work.watch, work.count)
        chunks = (work.count + fastxent_chunk_elements - 1) // fastxent_chunk_elements
        if chunks <= 64:
            work.bad = small
        else:
            large = PyMem_Malloc(2 * 8 * chunks)
            if large == NULL:
                raise MemoryError
            work.bad = <int64_t *>large
        work.totals = <double *>(work.bad + chunks)
        with nogil:
            done = _level.binary(work)
        _came_to_its_end(done)
        for chunk in range(chunks):
            bad = bad or work.bad[chunk] != 0
        return bad
    finally:
        PyMem_Free(large)
        release(&held)
