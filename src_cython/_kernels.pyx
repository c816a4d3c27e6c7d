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
    fastxent_chunk_elements,
    fastxent_float32,
    fastxent_float64,
    fastxent_jacobian,
    fastxent_jacobian_schedule_of,
    fastxent_label_check,
    fastxent_label_chunk,
    fastxent_labels,
    fastxent_level,
    fastxent_level_count,
    fastxent_levels,
    fastxent_matrix,
    fastxent_openmp_limit,
    fastxent_openmp_version,
    fastxent_part_sums,
    fastxent_pass,
    fastxent_plan_merge,
    fastxent_plan_shard,
    fastxent_schedule_of,
    fastxent_scratch_bytes,
    fastxent_shard,
    fastxent_supported_levels,
    fastxent_tile_classes,
)
from watch cimport fastxent_begin_watch, fastxent_slice_elements, fastxent_watch


cdef const fastxent_level *_level = fastxent_levels[fastxent_supported_levels() - 1]

BLOCK = fastxent_block
LABEL_CHUNK = fastxent_label_chunk
CHUNK_ELEMENTS = fastxent_chunk_elements
SLICE_ELEMENTS = fastxent_slice_elements
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


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_in_parallel() { return 0; }
    #endif
    """
    int omp_in_parallel()


def in_openmp_region():
    """Whether the calling thread is inside a parallel region of OpenMP."""
    return omp_in_parallel() != 0


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


cdef int _place(fastxent_matrix *matrix, Py_buffer *view, int kind) noexcept:
    """Describe an array of rows, in one to four dimensions, and classes, the last."""
    cdef int level
    matrix.data = <char *>view.buf
    matrix.kind = kind
    matrix.levels = view.ndim - 1
    # a single class may have any stride
    matrix.class_stride = view.itemsize
    if view.shape[view.ndim - 1] > 1:
        matrix.class_stride = view.strides[view.ndim - 1]
    for level in range(view.ndim - 1):
        matrix.size[level] = view.shape[view.ndim - 2 - level]
        matrix.stride[level] = view.strides[view.ndim - 2 - level]
    return 0


cdef int _input_matrix(Held *held, fastxent_matrix *matrix, array, int kind) except -1:
    if array is not None:
        _place(matrix, hold(held, array, PyBUF_STRIDES), kind)
    return 0


cdef int _output_matrix(Held *held, fastxent_matrix *matrix, array, int kind) except -1:
    if array is not None:
        _place(matrix, hold(held, array, PyBUF_STRIDES | PyBUF_WRITABLE), kind)
    return 0


cdef int _begin(Held *held, fastxent_pass *work, logits, int kind, int threads) except -1:
    """What every pass knows first: logits without options."""
    cdef Py_buffer *view
    cdef int dimension
    memset(work, 0, sizeof(fastxent_pass))
    view = hold(held, logits, PyBUF_STRIDES)
    _place(&work.logits, view, kind)
    work.rows = 1
    for dimension in range(view.ndim - 1):
        work.rows *= view.shape[dimension]
    work.classes = view.shape[view.ndim - 1]
    work.size = 8 if kind == fastxent_float64 else 4
    work.logit_scale = 1.0
    work.threads = threads
    return 0


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


cdef struct Constants:
    double spike, row_scale
    Constant background, gain


cdef int _options(
    Held *held, fastxent_pass *work, Constants *places, target, int64_t num_classes, skip, soft,
    int soft_kind, spike, background, double background_total, gain, row_scale,
    double logit_scale, double softcap, double z_loss,
) except -1:
    """Targets, their mass and the options of a pass that was begun."""
    work.logit_scale, work.softcap, work.z_loss = logit_scale, softcap, z_loss
    if target is None:
        _input_matrix(held, &work.soft, soft, soft_kind)
    else:
        _labels(held, &work.labels, target, num_classes, skip)
    work.spike = _factor(held, spike, &places.spike, &work.spike_step)
    work.row_scale = _factor(held, row_scale, &places.row_scale, &work.row_scale_step)
    work.background_total = background_total
    if background is not None or gain is not None:
        work.background = _class_factor(
            held, 0.0 if background is None else background,
            &places.background, work.size, &work.background_step,
        )
    if gain is not None:
        work.gain = _class_factor(held, gain, &places.gain, work.size, &work.gain_step)
    return 0


cdef int _run(fastxent_pass *work) except -1:
    """Plan the pass, give it scratch memory, run it: a small one allocates nothing."""
    cdef char small[4096 + 64]
    cdef char *place = small
    cdef void *large = NULL
    cdef fastxent_watch watch
    cdef bint done
    work.schedule = fastxent_schedule_of(work[0])
    cdef int64_t size = fastxent_scratch_bytes(work[0])
    _watch(&watch, &work.watch, work.rows * work.classes)
    if size > 4096:
        large = PyMem_Malloc(size + 64)
        if large == NULL:
            raise MemoryError
        place = <char *>large
    work.scratch = place + (64 - <uint64_t>place % 64)
    with nogil:
        done = _level.forward(work[0])
    PyMem_Free(large)
    return _came_to_its_end(done)


def forward(
    logits, int kind, target, skip, soft, int soft_kind, spike, background,
    double background_total, gain, row_scale, double logit_scale, double softcap, double z_loss,
    loss, total, grad, row_max, row_sum, proba, hess, hess_rule, log_prob, argmax, entropy,
    target_grad, int target_grad_kind, int threads,
):
    """Losses, gradients and statistics of rows: `Backend.forward`."""
    cdef Held held
    cdef fastxent_pass work
    cdef Constants constants
    held.count = 0
    try:
        _begin(&held, &work, logits, kind, threads)
        _options(
            &held, &work, &constants, target, work.classes, skip, soft, soft_kind, spike,
            background, background_total, gain, row_scale, logit_scale, softcap, z_loss,
        )
        work.loss = _output(&held, loss)
        work.total = <double *>_output(&held, total)
        work.row_max = _output(&held, row_max)
        work.row_sum = <double *>_output(&held, row_sum)
        work.log_prob = _output(&held, log_prob)
        work.argmax = <int64_t *>_output(&held, argmax)
        work.entropy = _output(&held, entropy)
        _output_matrix(&held, &work.target_grad, target_grad, target_grad_kind)
        _output_matrix(&held, &work.grad, grad, kind)
        _output_matrix(&held, &work.proba, proba, kind)
        if hess is not None:
            _output_matrix(&held, &work.hess, hess, kind)
            work.hess_is_distance = hess_rule.kind == "distance"
            work.hess_factor, work.hess_floor = hess_rule.factor, hess_rule.floor
        _run(&work)
    finally:
        release(&held)


def softmax(logits, int kind, proba, log_proba, row_max, row_sum, int threads):
    """Softmax or its logarithm, and the statistics of rows: `Backend.softmax`.

    The softmax is the gradient of rows whose whole mass is 1 and lies on no class.
    """
    cdef Held held
    cdef fastxent_pass work
    cdef double one = 1.0
    held.count = 0
    try:
        _begin(&held, &work, logits, kind, threads)
        work.row_scale = &one
        work.background_total = 1.0
        work.row_max = _output(&held, row_max)
        work.row_sum = <double *>_output(&held, row_sum)
        _output_matrix(&held, &work.grad, proba, kind)
        _output_matrix(&held, &work.log_proba, log_proba, kind)
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
    cdef int kind
    cdef Py_buffer *rows
    cdef Py_buffer *labels
    held.count = 0
    try:
        rows = hold(&held, logits, PyBUF_STRIDES | PyBUF_FORMAT)
        labels = hold(&held, target, PyBUF_STRIDES | PyBUF_FORMAT)
        if not plain_rows(rows, labels):
            return None
        kind = fastxent_float32 if rows.itemsize == 4 else fastxent_float64
        memset(&work, 0, sizeof(work))
        _place(&work.logits, rows, kind)
        work.rows, work.classes = rows.shape[0], rows.shape[1]
        work.size = <int>rows.itemsize
        work.logit_scale = 1.0
        if grad is not None:
            hold(&held, grad, PyBUF_STRIDES | PyBUF_FORMAT)
            if not plain_output(&held.views[2], rows, labels):
                return None
            _place(&work.grad, &held.views[2], kind)
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


include "binary.pxi"
include "jacobian.pxi"
include "jax.pxi"
include "labels.pxi"
include "shard.pxi"
include "watch.pxi"
