# The verb softmax_backward; part of _kernels.pyx, which has the imports.


cdef int _strided(Held *held, fastxent_strided *rows, array, int flags) except -1:
    """Rows of classes, the last axis, as they lie."""
    cdef Py_buffer *view = hold(held, array, flags)
    cdef int i
    cdef int64_t size = view.itemsize
    rows.data = view.buf
    rows.dims = view.ndim - 1
    rows.class_stride = view.strides[rows.dims]
    rows.aligned = <uint64_t>view.buf % <uint64_t>size == 0 and rows.class_stride % size == 0
    for i in range(rows.dims):
        rows.sizes[i] = view.shape[i]
        rows.strides[i] = view.strides[i]
        rows.aligned = rows.aligned and view.strides[i] % size == 0
    return 0


def softmax_backward(proba, log_proba, grad, out, str kind, int threads):
    """Jacobian product of the softmax or of its logarithm: `Backend.softmax_backward`."""
    cdef Held held
    cdef fastxent_jacobian work
    cdef double small[512]
    cdef void *large = NULL
    cdef int64_t size
    cdef int i
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        work.is_log = proba is None
        work.kind = ord(kind)
        _strided(&held, &work.first, log_proba if proba is None else proba, PyBUF_STRIDES)
        _strided(&held, &work.grad, grad, PyBUF_STRIDES)
        _strided(&held, &work.out, out, PyBUF_STRIDES | PyBUF_WRITABLE)
        work.rows = 1
        for i in range(work.out.dims):
            work.rows *= work.out.sizes[i]
        work.classes = held.views[2].shape[work.out.dims]
        work.threads = threads
        work.schedule = fastxent_jacobian_schedule_of(work)
        size = fastxent_jacobian_scratch_bytes(work)
        work.scratch = small
        if size > <int64_t>sizeof(small):
            large = PyMem_Malloc(size)
            if large == NULL:
                raise MemoryError
            work.scratch = large
        with nogil:
            _level.softmax_backward(work)
        PyMem_Free(large)
    finally:
        release(&held)
