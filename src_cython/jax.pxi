# What fastxent.jax needs of the kernels; part of _kernels.pyx, which has the imports.

from cpython.pycapsule cimport PyCapsule_New


cdef extern from "jax_calls.h" nogil:
    void fastxent_jax_use(const fastxent_level *, int, double, double, double)
    void *fastxent_jax_partial(void *)
    void *fastxent_jax_partial_backward(void *)
    void *fastxent_jax_cross_entropy(void *)
    void *fastxent_jax_softmax(void *)
    void *fastxent_jax_denominator(void *)
    void *fastxent_jax_brain_rows(void *)


def jax_use(int limit, double of_row, double of_byte, double of_thread):
    """Use this level, so many threads at most (0: never a team), and this model of their worth."""
    fastxent_jax_use(_level, limit, of_row, of_byte, of_thread)


def jax_handlers():
    """Handlers for XLA's foreign function interface, as capsules."""
    return {
        "partial": PyCapsule_New(<void *>fastxent_jax_partial, NULL, NULL),
        "partial_backward": PyCapsule_New(<void *>fastxent_jax_partial_backward, NULL, NULL),
        "cross_entropy": PyCapsule_New(<void *>fastxent_jax_cross_entropy, NULL, NULL),
        "softmax": PyCapsule_New(<void *>fastxent_jax_softmax, NULL, NULL),
        "denominator": PyCapsule_New(<void *>fastxent_jax_denominator, NULL, NULL),
        "brain_rows": PyCapsule_New(<void *>fastxent_jax_brain_rows, NULL, NULL),
    }
