# The caller's arrays by the buffer protocol: held during a call, and what makes them plain.

from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t


# The arrays of one call, at most seventeen: logits, target or soft, spike, row_scale, background,
# gain, loss, total, row_max, row_sum, log_prob, argmax, entropy, target_grad, proba, hess, and grad
# or another of its shape.
cdef struct Held:
    Py_buffer views[17]
    int count


cdef inline Py_buffer *hold(Held *held, array, int flags) except NULL:
    cdef Py_buffer *view = &held.views[held.count]
    PyObject_GetBuffer(array, view, flags)
    held.count += 1
    return view


cdef inline void release(Held *held) noexcept:
    cdef int i
    for i in range(held.count):
        PyBuffer_Release(&held.views[i])


cdef inline bint native(Py_buffer *view, const char *formats) noexcept:
    """Whether the numbers are of one of these formats, aligned, in native byte order."""
    cdef char kind = view.format[0]
    cdef int64_t step
    cdef int i
    if view.format[1] != 0 or <uint64_t>view.buf % <uint64_t>view.itemsize:
        return False
    for i in range(view.ndim):
        step = view.strides[i]
        if step % view.itemsize:
            return False
    i = 0
    while formats[i]:
        if formats[i] == kind:
            return view.strides[view.ndim - 1] == view.itemsize
        i += 1
    return False


cdef inline bint apart(Py_buffer *rows, Py_buffer *other) noexcept:
    """Whether two arrays with non-negative strides have no byte in common."""
    cdef uint64_t from_rows = <uint64_t>rows.buf, from_other = <uint64_t>other.buf
    cdef uint64_t to_rows = from_rows + rows.itemsize, to_other = from_other + other.itemsize
    cdef int i
    for i in range(rows.ndim):
        to_rows += (rows.shape[i] - 1) * rows.strides[i]
    for i in range(other.ndim):
        to_other += (other.shape[i] - 1) * other.strides[i]
    return to_rows <= from_other or to_other <= from_rows


cdef inline bint plain_rows(Py_buffer *logits, Py_buffer *target) noexcept:
    return (
        logits.ndim == 2
        and target.ndim == 1
        and target.shape[0] == logits.shape[0]
        and logits.shape[0] > 0
        and logits.shape[1] > 0
        and logits.strides[0] >= 0
        and native(logits, b"fd")
        and native(target, b"bBhHiIlq")
        and (target.format[0] != b"L" or target.itemsize < 8)
    )


cdef inline bint plain_output(Py_buffer *grad, Py_buffer *logits, Py_buffer *target) noexcept:
    """Whether it is the logits themselves, or apart from everything."""
    return (
        grad.ndim == 2
        and not grad.readonly
        and grad.shape[0] == logits.shape[0]
        and grad.shape[1] == logits.shape[1]
        and grad.format[0] == logits.format[0]
        and native(grad, b"fd")
        and (grad.shape[0] == 1 or grad.strides[0] >= grad.shape[1] * grad.itemsize)
        and apart(grad, target)
        and (
            apart(grad, logits)
            or (grad.buf == logits.buf and grad.strides[0] == logits.strides[0])
        )
    )
