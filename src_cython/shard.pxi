# The verbs partial, merge and partial_backward; part of _kernels.pyx, which has the imports.


cdef int _sums(Held *held, fastxent_part_sums *place, sums, bint written) except -1:
    """Arrays (parts, rows) of float64, but the argmax, and the logits at the labels."""
    cdef int flags = PyBUF_STRIDES | (PyBUF_WRITABLE if written else 0)
    cdef Py_buffer *view = hold(held, sums.max, flags)
    place.parts = view.shape[0]
    place.max = <double *>view.buf
    place.sum = <double *>hold(held, sums.sum, flags).buf
    if sums.mass is not None:
        place.mass = <double *>hold(held, sums.mass, flags).buf
    if sums.dot is not None:
        place.dot = <double *>hold(held, sums.dot, flags).buf
    if sums.spread is not None:
        place.spread = <double *>hold(held, sums.spread, flags).buf
    if sums.argmax is not None:
        place.argmax = <int64_t *>hold(held, sums.argmax, flags).buf
    if sums.label_logit is not None:
        place.label_logit = <double *>hold(held, sums.label_logit, flags).buf
    return 0


cdef int _scratch(fastxent_pass *work, void **large) except -1:
    """Memory for a pass that is planned, which the caller frees."""
    cdef int64_t size = fastxent_scratch_bytes(work[0])
    large[0] = PyMem_Malloc(size + 64)
    if large[0] == NULL:
        raise MemoryError
    work.scratch = <char *>large[0] + (64 - <uint64_t>large[0] % 64)
    return 0


def partial(
    logits, int kind, target, skip, soft, int soft_kind, background, gain, double logit_scale,
    double softcap, int64_t first_class, int64_t num_classes, sums, int threads,
):
    """Sums of the blocks of rows of which some classes are here: `Backend.partial`."""
    cdef Held held
    cdef fastxent_shard work
    cdef Constants constants
    cdef void *large = NULL
    cdef fastxent_watch watch
    cdef bint done
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        _begin(&held, &work.pass_, logits, kind, threads)
        _options(
            &held, &work.pass_, &constants, target, num_classes, skip, soft, soft_kind, 0.0,
            background, 0.0, gain, 1.0, logit_scale, softcap, 0.0,
        )
        work.first_class = first_class
        _sums(&held, &work.sums, sums, True)
        work.pass_.argmax, work.pass_.entropy = work.sums.argmax, work.sums.spread
        fastxent_plan_shard(work)
        _watch(&watch, &work.pass_.watch, work.pass_.rows * work.pass_.classes)
        _scratch(&work.pass_, &large)
        if work.sums.label_logit != NULL and work.pass_.classes == 0:
            memset(work.sums.label_logit, 0, 8 * work.pass_.rows)
        with nogil:
            done = _level.partial(work)
        _came_to_its_end(done)
    finally:
        PyMem_Free(large)
        release(&held)


def merge(
    int64_t rows, int size, target, skip, spike, double background_total, double z_loss,
    int64_t num_classes, sums, loss, total, row_max, row_sum, log_prob, argmax, entropy, mass,
    int threads,
):
    """Results of rows from the sums of all their blocks: `Backend.merge`."""
    cdef Held held
    cdef fastxent_shard work
    cdef double spike_place
    cdef void *large = NULL
    cdef fastxent_watch watch
    cdef bint done
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        work.pass_.rows, work.pass_.classes, work.pass_.size = rows, num_classes, size
        work.pass_.threads = threads
        work.pass_.z_loss = z_loss
        if target is not None:
            _labels(&held, &work.pass_.labels, target, num_classes, skip)
        work.pass_.spike = _factor(&held, spike, &spike_place, &work.pass_.spike_step)
        work.pass_.background_total = background_total
        _sums(&held, &work.sums, sums, False)
        work.pass_.loss = _output(&held, loss)
        work.pass_.total = <double *>_output(&held, total)
        work.pass_.row_max = _output(&held, row_max)
        work.pass_.row_sum = <double *>_output(&held, row_sum)
        work.pass_.log_prob = _output(&held, log_prob)
        work.pass_.argmax = <int64_t *>_output(&held, argmax)
        work.pass_.entropy = _output(&held, entropy)
        work.mass = <double *>_output(&held, mass)
        fastxent_plan_merge(work)
        _watch(&watch, &work.pass_.watch, rows * (work.sums.parts + 1))
        _scratch(&work.pass_, &large)
        with nogil:
            done = _level.merge(work)
        _came_to_its_end(done)
    finally:
        PyMem_Free(large)
        release(&held)


def partial_backward(
    logits, int kind, target, skip, soft, int soft_kind, spike, background, gain, row_scale,
    double logit_scale, double softcap, double z_loss, int64_t first_class, int64_t num_classes,
    row_max, row_sum, row_mass, grad, int threads,
):
    """Gradient of the classes here from the rows' statistics: `Backend.partial_backward`."""
    cdef Held held
    cdef fastxent_shard work
    cdef Constants constants
    cdef void *large = NULL
    cdef fastxent_watch watch
    cdef bint done
    held.count = 0
    memset(&work, 0, sizeof(work))
    try:
        _begin(&held, &work.pass_, logits, kind, threads)
        _options(
            &held, &work.pass_, &constants, target, num_classes, skip, soft, soft_kind, spike,
            background, 0.0, gain, row_scale, logit_scale, softcap, z_loss,
        )
        # rows ask for the spike of a label by its number among the classes here
        work.pass_.spike += first_class * work.pass_.spike_step
        work.first_class = first_class
        work.row_max = <const double *>_input(&held, row_max)
        work.row_sum = <const double *>_input(&held, row_sum)
        work.row_mass = <const double *>_input(&held, row_mass)
        _output_matrix(&held, &work.pass_.grad, grad, kind)
        fastxent_plan_shard(work)
        _watch(&watch, &work.pass_.watch, work.pass_.rows * work.pass_.classes)
        _scratch(&work.pass_, &large)
        with nogil:
            done = _level.partial_backward(work)
        _came_to_its_end(done)
    finally:
        PyMem_Free(large)
        release(&held)
