# distutils: language = c++
# cython: language_level=3, freethreading_compatible=True
"""Compiled kernels: takes arrays by the buffer protocol and calls the chosen instruction level.

Not for users: arguments are canonical and checked (fastxent/problem.py). No NumPy header is
needed, at build time or later.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from arrays cimport Held, hold, plain_output, plain_rows, release
from kernels cimport (
    fastxent_block,
    fastxent_jacobian,
    fastxent_jacobian_schedule_of,
    fastxent_jacobian_scratch_bytes,
    fastxent_label_check,
    fastxent_label_chunk,
    fastxent_labels,
    fastxent_level,
    fastxent_level_count,
    fastxent_levels,
    fastxent_openmp_limit,
    fastxent_openmp_version,
    fastxent_pass,
    fastxent_schedule_of,
    fastxent_scratch_bytes,
    fastxent_strided,
    fastxent_supported_levels,
    fastxent_tile_classes,
)

cdef const fastxent_level *_level = fastxent_levels[fastxent_supported_levels() - 1]

BLOCK = fastxent_block
LABEL_CHUNK = fastxent_label_chunk
TILE_CLASSES = fastxent_tile_classes


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


cdef void *_input(Held *held, array) except? NULL:
    if array is None:
        return NULL
    return hold(held, array, PyBUF_STRIDES).buf


cdef void *_output(Held *held, array) except? NULL:
    if array is None:
        return NULL
    return hold(held, array, PyBUF_STRIDES | PyBUF_WRITABLE).buf


cdef const void *_rows(Held *held, array, int64_t *stride, int *size, int flags) except? NULL:
    """Address of 2-D rows, their stride in elements and the size of an element."""
    cdef Py_buffer *view = hold(held, array, flags)
    size[0] = <int>view.itemsize
    stride[0] = view.strides[0] // view.itemsize
    return view.buf


cdef int _labels(
    Held *held, fastxent_labels *labels, target, int64_t classes, skip
) except -1:
    return _describe(
        labels, hold(held, target, PyBUF_STRIDES | PyBUF_FORMAT), classes, skip
    )


cdef int _describe(
    fastxent_labels *labels, Py_buffer *view, int64_t classes, skip
) except -1:
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


cdef int _run(fastxent_pass *work) except -1:
    """Plan the pass, give it scratch memory, run it: a small one allocates nothing."""
    cdef double small[512]
    cdef void *large = NULL
    work.schedule = fastxent_schedule_of(work.rows, work.classes, work.threads)
    cdef int64_t size = fastxent_scratch_bytes(work[0])
    if size <= <int64_t>sizeof(small):
        work.scratch = small
    else:
        large = PyMem_Malloc(size)
        if large == NULL:
            raise MemoryError
        work.scratch = large
    with nogil:
        _level.forward(work[0])
    PyMem_Free(large)
    return 0


cdef int _check(
    fastxent_label_check *check, int64_t *bad_row, int64_t *live, double *mass
) except -1:
    """First bad row or -1, live rows and their mass."""
    cdef int64_t chunks, chunk
    cdef int64_t small[192]
    cdef void *large = NULL
    chunks = (check.labels.rows + fastxent_label_chunk - 1) // fastxent_label_chunk
    if chunks <= 64:
        check.bad_row = small
    else:
        large = PyMem_Malloc(3 * 8 * chunks)
        if large == NULL:
            raise MemoryError
        check.bad_row = <int64_t *>large
    check.live = check.bad_row + chunks
    check.mass = <double *>(check.live + chunks)
    with nogil:
        _level.check_labels(check[0])
    bad_row[0] = -1
    live[0] = 0
    mass[0] = 0
    for chunk in range(chunks):
        if bad_row[0] < 0:
            bad_row[0] = check.bad_row[chunk]
        live[0] += check.live[chunk]
        mass[0] += check.mass[chunk]
    PyMem_Free(large)
    return 0


def check_labels(target, int64_t classes, skip, class_mass, row_mass, int threads):
    """First bad row or -1, live rows, and their mass."""
    cdef Held held
    cdef fastxent_label_check check
    cdef int64_t bad_row, live
    cdef double mass
    held.count = 0
    try:
        _labels(&held, &check.labels, target, classes, skip)
        check.class_mass = <const double *>_input(&held, class_mass)
        check.row_mass = <const double *>_input(&held, row_mass)
        check.threads = threads
        _check(&check, &bad_row, &live, &mass)
        return bad_row, live, mass
    finally:
        release(&held)


cdef int _statistics(Held *held, fastxent_pass *work, row_max, row_sum) except -1:
    work.row_max = _output(held, row_max)
    work.row_sum = <double *>_output(held, row_sum)
    return 0


def forward(
    logits, target, skip, soft, spike, background, double background_total, gain, row_scale,
    loss, total, grad, row_max, row_sum, int threads,
):
    """Losses, gradients and statistics of rows: `Backend.forward`."""
    cdef Held held
    cdef fastxent_pass work
    cdef double spike_place, scale_place
    cdef Constant background_place, gain_place
    cdef int ignored
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        work.logits = _rows(&held, logits, &work.logits_stride, &work.size, PyBUF_STRIDES)
        work.rows = held.views[0].shape[0]
        work.classes = held.views[0].shape[1]
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
        work.total = <double *>_output(&held, total)
        _statistics(&held, &work, row_max, row_sum)
        if grad is not None:
            work.grad = <void *>_rows(
                &held, grad, &work.out_stride, &ignored, PyBUF_STRIDES | PyBUF_WRITABLE
            )
        work.threads = threads
        _run(&work)
    finally:
        release(&held)


def softmax(logits, proba, log_proba, row_max, row_sum, int threads):
    """Softmax or its logarithm, and the statistics of rows: `Backend.softmax`.

    The softmax is the gradient of rows whose whole mass is 1 and lies on no class.
    """
    cdef Held held
    cdef fastxent_pass work
    cdef double one = 1.0
    cdef int ignored
    cdef int writable = PyBUF_STRIDES | PyBUF_WRITABLE
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        work.logits = _rows(&held, logits, &work.logits_stride, &work.size, PyBUF_STRIDES)
        work.rows = held.views[0].shape[0]
        work.classes = held.views[0].shape[1]
        work.row_scale = &one
        work.background_total = 1.0
        _statistics(&held, &work, row_max, row_sum)
        if proba is not None:
            work.grad = <void *>_rows(&held, proba, &work.out_stride, &ignored, writable)
        if log_proba is not None:
            work.log_proba = <void *>_rows(&held, log_proba, &work.out_stride, &ignored, writable)
        work.threads = threads
        _run(&work)
    finally:
        release(&held)


def mean_loss(logits, target, skip, grad, int threads):
    """Mean loss of plain rows, and its gradient: `Backend.mean_loss`."""
    cdef Held held
    cdef fastxent_label_check check
    cdef fastxent_pass work
    cdef int64_t bad_row, live
    cdef double total, mass, scale, one = 1.0
    cdef Py_buffer *rows
    cdef Py_buffer *labels
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        rows = hold(&held, logits, PyBUF_STRIDES | PyBUF_FORMAT)
        labels = hold(&held, target, PyBUF_STRIDES | PyBUF_FORMAT)
        if not plain_rows(rows, labels):
            return None
        work.logits = rows.buf
        work.rows, work.classes = rows.shape[0], rows.shape[1]
        work.size = <int>rows.itemsize
        work.logits_stride = rows.strides[0] // rows.itemsize
        if grad is not None:
            hold(&held, grad, PyBUF_STRIDES | PyBUF_FORMAT)
            if not plain_output(&held.views[2], rows, labels):
                return None
            work.grad = held.views[2].buf
            work.out_stride = held.views[2].strides[0] // rows.itemsize
        _describe(&work.labels, labels, work.classes, skip)
        check.labels = work.labels
        check.class_mass = check.row_mass = NULL
        check.threads = threads
        _check(&check, &bad_row, &live, &mass)
        if bad_row >= 0 or live == 0:
            return None
        scale = 1.0 / mass
        work.spike = &one
        work.row_scale = &scale
        work.total = &total
        work.threads = threads
        _run(&work)
        return total / mass
    finally:
        release(&held)


include "jacobian.pxi"
