"""fastxent for MPI: the loss of logits whose classes are spread over the ranks of a communicator.

Each rank has the logits of some classes, for the same rows; `vocab_parallel_cross_entropy` gives
every rank the loss of all classes, and ``_and_grad`` the gradient of its own.

A rank that was given something wrong raises its error, and every other rank raises one that names
it. An error in a script's own code is another matter: under plain ``python`` the process that
raises waits in ``MPI_Finalize`` for the others, and they for it. Run such jobs as mpi4py advises,
``mpiexec -n 4 python -m mpi4py script.py``: then an uncaught exception ends the job, with an exit
code that is not 0.

>>> import numpy as np
>>> from fastxent.mpi import vocab_parallel_cross_entropy
>>> loss = vocab_parallel_cross_entropy(np.zeros((4, 10)), [3, 1, 4, 1])  # a single rank
>>> round(float(loss), 4)
2.3026
"""

try:
    from mpi4py import MPI as _mpi  # noqa: F401
except (ImportError, RuntimeError) as error:
    raise ImportError(
        "fastxent.mpi needs mpi4py and a library of MPI, which cannot be imported: pip install "
        "'fastxent[mpi]' brings mpi4py; the library is your system's, or pip install mpich"
    ) from error

from fastxent.mpi.cross_entropy import (
    vocab_parallel_cross_entropy,
    vocab_parallel_cross_entropy_and_grad,
)

__all__ = ["vocab_parallel_cross_entropy", "vocab_parallel_cross_entropy_and_grad"]
