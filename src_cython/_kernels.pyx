# distutils: language = c++
# cython: language_level=3, freethreading_compatible=True
"""Compiled kernels: takes arrays by the buffer protocol and calls the chosen instruction level.

Not for users: arguments are canonical and checked (fastxent/problem.py). No NumPy header is
needed, at build time or later.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t

cdef extern from "kernels.hpp" nogil:
    const int64_t fastxent_block, fastxent_label_chunk

    struct fastxent_block_sums:
        pass

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
        void *proba
        void *log_proba
        double *row_sum
        int64_t out_stride
        fastxent_block_sums *blocks
        int threads

    struct fastxent_level:
        const char *name
        void (*check_labels)(const fastxent_label_check &) noexcept nogil
        void (*forward)(const fastxent_pass &) noexcept nogil
        void (*softmax)(const fastxent_pass &) noexcept nogil

    const fastxent_level *const *fastxent_levels
    const int fastxent_level_count
    int fastxent_supported_levels()
    int fastxent_openmp_version()
    int fastxent_openmp_limit()

cdef const fastxent_level *_level = fastxent_levels[fastxent_supported_levels() - 1]

BLOCK = fastxent_block
LABEL_CHUNK = fastxent_label_chunk


def levels():
    """Names of the instruction levels built, lowest first, and how many of them run here."""
    names = tuple(fastxent_levels[i].name.decode() for i in range(fastxent_level_count))
    return names, fastxent_supported_levels()


def level():
    """Name of the level in use."""
    return _level.name.decode()


def lower_level(str name):
    """Use the level `name`, or the highest that runs here if that is lower."""
    global _level
    cdef int i
    for i in range(fastxent_supported_levels()):
        _level = fastxent_levels[i]
        if _level.name.decode() == name:
            return


def openmp_version():
    """Date of the OpenMP specification built with, as a number; 0 when built without OpenMP."""
    return fastxent_openmp_version()


def openmp_limit():
    """Threads that OpenMP would give the calling thread."""
    return fastxent_openmp_limit()


# The arrays of one call, at most ten: logits, target or soft, spike, row_scale, background, gain,
# loss, row_max, row_sum, grad.
cdef struct Held:
    Py_buffer views[10]
    int count


cdef Py_buffer *_hold(Held *held, array, int flags) except NULL:
    cdef Py_buffer *view = &held.views[held.count]
    PyObject_GetBuffer(array, view, flags)
    held.count += 1
    return view


cdef void _release(Held *held) noexcept:
    cdef int i
    for i in range(held.count):
        PyBuffer_Release(&held.views[i])


cdef void *_input(Held *held, array) except? NULL:
    if array is None:
        return NULL
    return _hold(held, array, PyBUF_STRIDES).buf


cdef void *_output(Held *held, array) except? NULL:
    if array is None:
        return NULL
    return _hold(held, array, PyBUF_STRIDES | PyBUF_WRITABLE).buf


cdef const void *_rows(Held *held, array, int64_t *stride, int *size, int flags) except? NULL:
    """Address of 2-D rows, their stride in elements and the size of an element."""
    cdef Py_buffer *view = _hold(held, array, flags)
    size[0] = <int>view.itemsize
    stride[0] = view.strides[0] // view.itemsize
    return view.buf


cdef int _labels(
    Held *held, fastxent_labels *labels, target, int64_t classes, skip
) except -1:
    cdef Py_buffer *view = _hold(held, target, PyBUF_STRIDES | PyBUF_FORMAT)
    labels.data = view.buf
    labels.rows = view.shape[0]
    labels.classes = classes
    labels.size = <int>view.itemsize
    # signed formats of the struct module are lower-case letters
    labels.is_signed = view.format[0] >= 97
    labels.has_skip = skip is not None
    if skip is not None:
        labels.skip = <int64_t><uint64_t>(skip & 0xFFFFFFFFFFFFFFFF)
    return 0


cdef const double *_factor(Held *held, value, double *place, int64_t *step) except NULL:
    """One number, put at `place`, or an array of float64: a pointer and its step."""
    if isinstance(value, float):
        place[0] = value
        step[0] = 0
        return place
    step[0] = 1
    return <const double *>_input(held, value)


cdef union Constant:
    float singles[16]
    double doubles[8]


cdef const void *_class_factor(
    Held *held, value, Constant *place, int size, int64_t *step
) except NULL:
    """One number, repeated for a whole set of lanes, or an array of the compute dtype."""
    cdef int i
    if not isinstance(value, float):
        step[0] = 1
        return _input(held, value)
    step[0] = 0
    if size == 4:
        for i in range(16):
            place.singles[i] = value
    else:
        for i in range(8):
            place.doubles[i] = value
    return place


cdef fastxent_block_sums *_scratch(int64_t classes, int threads) except NULL:
    cdef int64_t blocks = (classes + fastxent_block - 1) // fastxent_block
    cdef void *scratch = PyMem_Malloc(blocks * threads * sizeof(fastxent_block_sums))
    if scratch == NULL:
        raise MemoryError
    return <fastxent_block_sums *>scratch


def check_labels(target, int64_t classes, skip, class_mass, row_mass, int threads):
    """First bad row or -1, live rows, and their mass."""
    cdef Held held
    cdef fastxent_label_check check
    cdef int64_t chunks, chunk, bad_row = -1, live = 0
    cdef double mass = 0
    cdef int64_t small[3]
    cdef void *scratch = NULL
    held.count = 0
    try:
        _labels(&held, &check.labels, target, classes, skip)
        check.class_mass = <const double *>_input(&held, class_mass)
        check.row_mass = <const double *>_input(&held, row_mass)
        check.threads = threads
        chunks = (check.labels.rows + fastxent_label_chunk - 1) // fastxent_label_chunk
        if chunks <= 1:
            check.bad_row = small
        else:
            scratch = PyMem_Malloc(3 * 8 * chunks)
            if scratch == NULL:
                raise MemoryError
            check.bad_row = <int64_t *>scratch
        check.live = check.bad_row + chunks
        check.mass = <double *>(check.live + chunks)
        with nogil:
            _level.check_labels(check)
        for chunk in range(chunks):
            if bad_row < 0:
                bad_row = check.bad_row[chunk]
            live += check.live[chunk]
            mass += check.mass[chunk]
        return bad_row, live, mass
    finally:
        PyMem_Free(scratch)
        _release(&held)


def forward(
    logits, target, skip, soft, spike, background, double background_total, gain, row_scale,
    loss, grad, row_max, row_sum, int threads,
):
    """Losses, gradients and statistics of rows: `Backend.forward`."""
    cdef Held held
    cdef fastxent_pass work
    cdef double spike_place, scale_place
    cdef Constant background_place, gain_place
    cdef int ignored
    held.count = 0
    work.blocks = NULL
    try:
        work.logits = _rows(&held, logits, &work.logits_stride, &work.size, PyBUF_STRIDES)
        work.rows = held.views[0].shape[0]
        work.classes = held.views[0].shape[1]
        work.labels.data = work.soft = work.background = work.gain = NULL
        work.background_step = work.gain_step = 0
        if target is None:
            work.soft = _rows(&held, soft, &work.soft_stride, &work.soft_size, PyBUF_STRIDES)
        else:
            _labels(&held, &work.labels, target, work.classes, skip)
        work.spike = _factor(&held, spike, &spike_place, &work.spike_step)
        work.row_scale = _factor(&held, row_scale, &scale_place, &work.row_scale_step)
        work.background_total = background_total
        if background is not None or gain is not None:
            work.background = _class_factor(
                &held, 0.0 if background is None else background,
                &background_place, work.size, &work.background_step,
            )
        if gain is not None:
            work.gain = _class_factor(&held, gain, &gain_place, work.size, &work.gain_step)
        work.loss = _output(&held, loss)
        work.row_max = _output(&held, row_max)
        work.row_sum = <double *>_output(&held, row_sum)
        work.grad = NULL
        if grad is not None:
            work.grad = <void *>_rows(
                &held, grad, &work.out_stride, &ignored, PyBUF_STRIDES | PyBUF_WRITABLE
            )
        work.threads = threads
        work.blocks = _scratch(work.classes, threads)
        with nogil:
            _level.forward(work)
    finally:
        PyMem_Free(work.blocks)
        _release(&held)


def softmax(logits, proba, log_proba, row_max, row_sum, int threads):
    """Softmax, its logarithm and the statistics of rows: `Backend.softmax`."""
    cdef Held held
    cdef fastxent_pass work
    cdef int ignored
    cdef int writable = PyBUF_STRIDES | PyBUF_WRITABLE
    held.count = 0
    work.blocks = NULL
    try:
        work.logits = _rows(&held, logits, &work.logits_stride, &work.size, PyBUF_STRIDES)
        work.rows = held.views[0].shape[0]
        work.classes = held.views[0].shape[1]
        work.row_max = _output(&held, row_max)
        work.row_sum = <double *>_output(&held, row_sum)
        work.proba = work.log_proba = NULL
        if proba is not None:
            work.proba = <void *>_rows(&held, proba, &work.out_stride, &ignored, writable)
        if log_proba is not None:
            work.log_proba = <void *>_rows(&held, log_proba, &work.out_stride, &ignored, writable)
        work.threads = threads
        work.blocks = _scratch(work.classes, threads)
        with nogil:
            _level.softmax(work)
    finally:
        PyMem_Free(work.blocks)
        _release(&held)
