"""The loss over the ranks of a communicator, alone and with the gradient of the local logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from mpi4py import MPI
from mpi4py.run import set_abort_status

from fastxent.checks.processes import check_communicator
from fastxent.errors import FastxentError
from fastxent.interchange import Home, home_of
from fastxent.mpi.communicator import Communicator
from fastxent.options import Options
from fastxent.sharding import ShardStats, grad_of, loss_of, merged, stats_of
from fastxent.sharding.agreement import Shards
from fastxent.sharding.engine import Arguments, agreed, names_of, whole_stats
from fastxent.side_outputs import Aux

__all__ = ["vocab_parallel_cross_entropy", "vocab_parallel_cross_entropy_and_grad"]


def vocab_parallel_cross_entropy(
    local_logits: Any,
    target: Any,
    comm: Any = None,
    *,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    merge: str = "reduce",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy over classes that are spread over the ranks of a communicator.

    Every rank makes the call, with the same rows and the same options.

    Parameters
    ----------
    local_logits : array_like of float16, bfloat16, float32 or float64
        Logits of this rank's classes along `axis`. The classes of rank 0 come first, then those of
        rank 1, and so on; ranks may have different numbers of them, or none.
    target : array_like
        Integers: class indices among the classes of all ranks, the same on every rank.
        Floating-point numbers or bool: the probabilities of this rank's classes.
    comm : mpi4py.MPI.Intracomm, optional
        By default ``MPI.COMM_WORLD``.
    weight : array_like of shape (C,), optional
        Class weights, of the classes of all ranks.
    ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap, \
logit_scale, axis, all_ignored, backend, num_threads
        As in `fastxent.cross_entropy`. Smoothing is over the classes of all ranks.
    aux : iterable of str, default ()
        As in `fastxent.cross_entropy`, but for "target_grad", and "correct" of probabilities.
    merge : {"reduce", "in_order"}, default "reduce"
        "reduce" lets MPI add up 3 to 4 numbers a row. "in_order" gives every rank the statistics
        of all others, and adds them up in class order: the same bits in every run, whatever
        algorithm MPI takes. If the classes of every rank that has some begin at a multiple of
        1,024, there are statistics of every block of 1,024 classes, and the bits are the same
        whatever the number of ranks; by compiled backends they are those of
        `fastxent.cross_entropy`, where that has more than 100 classes in all, along the last axis
        in memory. Else each rank has one entry, and the bits depend on how the classes are divided.

    Returns
    -------
    loss : numpy scalar or array
        That of all classes, the same bits on every rank. Of the library of `local_logits`, like
        `aux`.
    aux : fastxent.Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As from `fastxent.cross_entropy`, or where rows, dtype or options differ between ranks. If
        one rank raises before numbers are exchanged every rank does.

    Notes
    -----
    Three exchanges: a descriptor of 1,024 bytes a rank, by which all ranks know that they mean the
    same call, one maximum a row, and 2 to 3 sums a row. Side outputs "argmax" and "correct" need a
    fourth, of one number a row for both; "entropy" adds one to the sums, and "log_prob" of
    probabilities with class weights or label smoothing two. With ``merge="in_order"`` there are
    two exchanges: the descriptor, and all statistics. These are 2 numbers a row for every 1,024
    classes, or for every rank if that is what there is; 4 with label smoothing and for
    probabilities; the side outputs' besides, and for class indices one more a row from every rank.

    A rank that fails after the first exchange, of memory for instance, leaves the others waiting
    until it ends; then it ends the job through ``MPI_Abort``.

    Examples
    --------
    A rank of its own here; with more, each passes its columns of the logits.

    >>> import numpy as np
    >>> from fastxent.mpi import vocab_parallel_cross_entropy
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> round(float(vocab_parallel_cross_entropy(logits, [1, 0])), 3)
    2.019
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    return _Call(options, merge, backend, num_threads, comm).loss(local_logits, target)


def vocab_parallel_cross_entropy_and_grad(
    local_logits: Any,
    target: Any,
    comm: Any = None,
    *,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    merge: str = "reduce",
    backend: str | None = None,
    num_threads: int | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> Any:
    """Cross-entropy over classes on several ranks, and the gradient of this rank's logits.

    Parameters
    ----------
    local_logits, target, comm, weight, ignore_index, label_smoothing, reduction, normalizer, \
sample_weight, z_loss, softcap, logit_scale, axis, all_ignored, aux, merge, backend, num_threads
        As in `vocab_parallel_cross_entropy`.
    grad_output : float or array_like, one number a row, optional
        Upstream gradient, the same on every rank: multiplies the gradient, not the loss.
    out : array, optional
        Where the gradient goes, as in `fastxent.cross_entropy_and_grad`; `local_logits` too.

    Returns
    -------
    loss : numpy scalar or array
        As from `vocab_parallel_cross_entropy`.
    grad : array
        In the shape and dtype of `local_logits`. No exchange is made for it.
    aux : fastxent.Aux
        Only where `aux` names something.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError, OutputError
        As from `vocab_parallel_cross_entropy`; or `out` cannot be written to.

    Examples
    --------
    Row sharding (data parallel) on top: ranks with the same rows share their classes through one
    communicator, and `normalizer` has the number of rows of all, so that the losses and gradients
    of all ranks add up to those of one mean.

    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> from fastxent.mpi import vocab_parallel_cross_entropy_and_grad
    >>> world, shards = MPI.COMM_WORLD, 1
    >>> of_classes = world.Split(world.rank // shards, world.rank)  # the same rows
    >>> of_rows = world.Split(world.rank % shards, world.rank)  # the same classes
    >>> logits, target = np.zeros((4, 10)), np.array([3, 1, 4, 1])
    >>> counted = of_rows.allreduce(int((target != -100).sum()))
    >>> loss, grad = vocab_parallel_cross_entropy_and_grad(
    ...     logits, target, of_classes, normalizer=counted
    ... )
    >>> round(of_rows.allreduce(float(loss)), 4)
    2.3026
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, axis, all_ignored, aux)
    call = _Call(options, merge, backend, num_threads, comm)
    return call.loss_and_grad(local_logits, target, grad_output, out)


class _Call:
    """One call on one rank."""

    def __init__(
        self, options: Options, merge: Any, backend: Any, num_threads: Any, comm: Any
    ) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        check_communicator(isinstance(comm, MPI.Intracomm) and comm != MPI.COMM_NULL, comm)
        self.options = options._replace(aux=names_of(options.aux))
        self.merge = merge
        self.how = backend, num_threads
        self.ranks = Communicator(comm)

    def loss(self, logits: Any, target: Any) -> Any:
        """Loss, with side outputs where they are asked for."""
        shards, home = self._agreed(logits, target)
        with _job_ends_on_failure():
            (loss, aux), _ = self._merged(logits, target, shards)
            return home.give(loss) if aux is None else (home.give(loss), home.give_each(aux))

    def loss_and_grad(self, logits: Any, target: Any, grad_output: Any, out: Any) -> Any:
        """Loss, gradient, and side outputs where they are asked for."""
        shards, home = self._agreed(logits, target, grad_output, out)
        with _job_ends_on_failure():
            (loss, aux), stats = self._merged(logits, target, shards)
            place = shards.place()
            given = logits, target, stats, self.options._replace(aux=())
            here = place["class_offset"], place["num_classes"]
            grad = grad_of(*given, here, *self.how, grad_output, out)
            found = home.give(loss), home.deliver(grad, out)
            return found if aux is None else (*found, home.give_each(aux))

    def _agreed(
        self, logits: Any, target: Any, grad_output: Any = None, out: Any = None
    ) -> tuple[Shards, Home]:
        """Where the classes of all ranks lie, and whose arrays the results are to be."""

        def read() -> Arguments:
            given = logits, target, self.options
            backend, num_threads = self.how
            return Arguments(
                *given,
                backend=backend,
                num_threads=num_threads,
                grad_output=grad_output,
                out=out,
            )

        return agreed(read, self.merge, self.ranks), home_of(logits)

    def _merged(
        self, logits: Any, target: Any, shards: Shards
    ) -> tuple[tuple[Any, Aux | None], ShardStats]:
        """Loss and side outputs, and the statistics of all classes: NumPy's arrays, as MPI sends.

        Whatever library the arguments are of, which only the results come back to.
        """

        def partial(class_offset: int, num_classes: int, by_block: bool) -> ShardStats:
            place = class_offset, num_classes
            return stats_of(logits, target, self.options, place, by_block, *self.how)

        stats = whole_stats(shards, self.merge, self.ranks, partial, _merged_parts)
        # statistics are of logits that have been scaled and capped
        options = self.options._replace(softcap=None, logit_scale=1.0)
        return loss_of(stats, target, options, shards.num_classes, *self.how), stats


def _merged_parts(*stats: ShardStats) -> ShardStats:
    return merged(stats)


@contextlib.contextmanager
def _job_ends_on_failure() -> Iterator[None]:
    """See to it that the job ends where one rank alone fails, and others would wait for it.

    Errors of fastxent's own are raised on every rank.
    """
    try:
        yield
    except FastxentError:
        raise
    except Exception:
        set_abort_status(1)
        raise
