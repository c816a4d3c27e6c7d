"""What the ranks of one `mpiexec` run for test_processes_mpi.py: every case, in groups of ranks.

The first argument is the file that rank 0 writes what it finds to: by the name of the case, what
each rank of its group got.
"""

import pickle
import sys
import warnings

import numpy as np
from mpi4py import MPI

from fastxent.backends import load
from fastxent.mpi import (
    communicator,
    vocab_parallel_cross_entropy,
    vocab_parallel_cross_entropy_and_grad,
)
from sharding.shard_cases import CASES, IN_BLOCKS, RANKS, UNALIGNED, ShardCase, spread

# One compiled backend will do: what the ranks exchange does not depend on it, and loading Numba
# costs each of them a second.
COMPILED = {name: case for name, case in IN_BLOCKS.items() if case.backend == "cython"}
THREE = ShardCase("three", tuple(spread(37, 3)), {"label_smoothing": 0.1})
WRONG = {
    "other rows": lambda x, t: {"local_logits": x[1:], "target": t[1:]},
    "other option": lambda x, t: {"z_loss": 0.5},
    "bad label": lambda x, t: {"target": np.where(t == t[3], -7, t)},
    "bad upstream": lambda x, t: {"grad_output": np.ones(5)},
    "bad output": lambda x, t: {"out": np.empty((2, 2), "f4")},
    "bad array": lambda x, t: {"local_logits": x.astype(complex)},
}


def given_to(case, rank):
    logits, target = case.arrays()
    here = case.shard(rank)
    options = case.given() | {"merge": case.merge, "backend": case.backend}
    return logits[:, here], target[:, here] if case.soft else target, options


def loss_and_grad(comm, case):
    logits, target, options = given_to(case, comm.rank)
    found = vocab_parallel_cross_entropy_and_grad(logits, target, comm, **options)
    alone = vocab_parallel_cross_entropy(logits, target, comm, **options)
    alone = alone[0] if case.options.get("aux") else alone
    np.testing.assert_array_equal(alone, found[0])
    return found[0], found[1], found[2]._asdict() if len(found) > 2 else None


def turned(comm, case):
    """Classes along axis 0, in place, with an upstream gradient."""
    logits, target, options = given_to(case, comm.rank)
    logits, upstream = np.array(logits.T, order="F"), np.linspace(-1, 2, case.rows)
    options["reduction"] = "none"
    loss, grad = vocab_parallel_cross_entropy_and_grad(
        logits, target, comm, **options, axis=0, out=logits, grad_output=upstream
    )
    assert grad is logits
    return loss, grad.T, None


def wrong(comm, changes):
    """What one rank raises that was given something else, and what the others do."""
    logits, target, options = given_to(THREE, comm.rank)
    given = {"local_logits": logits, "target": target, "comm": comm, **options}
    if comm.rank == 1:
        given |= changes(logits, target)
    try:
        vocab_parallel_cross_entropy_and_grad(**given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def exchanged(comm, case):
    """How many numbers each exchange carries."""
    sizes = []

    class Counting(communicator.Communicator):
        def all_max(self, numbers):
            sizes.append(numbers.size)
            super().all_max(numbers)

        def all_sum(self, numbers):
            sizes.append(numbers.size)
            super().all_sum(numbers)

    from fastxent.mpi import cross_entropy

    before, cross_entropy.Communicator = cross_entropy.Communicator, Counting
    logits, target, options = given_to(case, comm.rank)
    vocab_parallel_cross_entropy(logits, target, comm, **options)
    cross_entropy.Communicator = before
    return sizes


def rows_and_classes(comm, classes_over):
    """Rows and classes spread at once: `classes_over` ranks share the classes of each row."""
    of_classes = comm.Split(comm.rank // classes_over, comm.rank)
    of_rows = comm.Split(comm.rank % classes_over, comm.rank)
    logits = np.random.default_rng(4).normal(size=(12, 30))
    target = np.arange(12) * 2
    target[:4] = -100
    rows = np.array_split(np.arange(12), of_rows.size)[of_rows.rank]
    classes = np.array_split(np.arange(30), classes_over)[of_classes.rank]
    counted = of_rows.allreduce(int((target[rows] != -100).sum()))
    loss, grad = vocab_parallel_cross_entropy_and_grad(
        logits[np.ix_(rows, classes)], target[rows], of_classes, normalizer=counted
    )
    return of_rows.allreduce(float(loss)), rows, classes, grad


def can_run(case):
    if case.backend is None:
        return True
    backend = load(case.backend)
    return backend.why_not() is None and hasattr(backend, "partial")


def main(path):
    warnings.simplefilter("error")
    world = MPI.COMM_WORLD
    found = {}
    for ranks in RANKS:
        comm = world.Split(0 if world.rank < ranks else MPI.UNDEFINED, world.rank)
        if comm == MPI.COMM_NULL:
            continue
        for name, case in (CASES | COMPILED | UNALIGNED).items():
            if case.ranks == ranks and can_run(case):
                found[name] = comm.gather(loss_and_grad(comm, case))
        if ranks == 3:
            for name, changes in WRONG.items():
                found[name] = comm.gather(wrong(comm, changes))
            found["turned"] = comm.gather(turned(comm, THREE))
            large = ShardCase("large", tuple(spread(3000, 3)), {"label_smoothing": 0.1}, rows=64)
            found["exchanged"] = comm.gather(exchanged(comm, large))
            found["rows and classes"] = comm.gather(rows_and_classes(comm, 3))
        if ranks == 2:
            found["rows"] = comm.gather(rows_and_classes(comm, 1))
    if world.rank == 0:
        with open(path, "wb") as file:
            pickle.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
