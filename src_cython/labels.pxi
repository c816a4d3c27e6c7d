# The verb check_labels; a part of _kernels.pyx, which has the imports.


cdef int _check(
    fastxent_label_check *check, int64_t *bad_row, int64_t *live, double *mass
) except -1:
    """First bad row or -1, live rows and their mass."""
    cdef int64_t chunks, chunk
    cdef double one, total = 0, added, rest = 0
    cdef int64_t small[192]
    cdef void *large = NULL
    cdef fastxent_watch watch
    cdef bint done
    _watch(&watch, &check.watch, check.labels.rows)
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
        done = _level.check_labels(check[0])
    bad_row[0] = -1
    live[0] = 0
    for chunk in range(chunks if done else 0):
        if bad_row[0] < 0:
            bad_row[0] = check.bad_row[chunk]
        live[0] += check.live[chunk]
        # as in long_sum.hpp: what an addition rounds off is added up beside
        one = check.mass[chunk]
        mass[0] = total + one
        added = mass[0] - total
        rest += (total - (mass[0] - added)) + (one - added)
        total = mass[0]
    mass[0] = total + rest if total - total == 0 else total
    PyMem_Free(large)
    return _came_to_its_end(done)


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
