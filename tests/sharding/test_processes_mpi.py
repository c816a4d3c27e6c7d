"""Classes over the ranks of MPI: one `mpiexec` runs all cases, and some that end badly."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed")

import fastxent as fx
from sharding.shard_cases import (
    CASES,
    IN_BLOCKS,
    UNALIGNED,
    ShardCase,
    assert_close,
    assert_same_asides,
    spread,
)

HERE = Path(__file__).parent
THREE = ShardCase("three", tuple(spread(37, 3)), {"label_smoothing": 0.1})


def mpiexec():
    """The one beside the interpreter goes first: MPI from a wheel brings its own."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("there is no mpiexec")
    return found


def run(ranks, *arguments, timeout=100):
    """A job of MPI, which a time-out ends."""
    root = str(HERE.parent.parent)
    paths = os.pathsep.join([root, str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [mpiexec(), "-n", str(ranks), sys.executable, "-W", "error", *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("mpi") / "found"
    done = run(5, "-m", "mpi4py", str(HERE / "mpi_program.py"), str(path))
    assert done.returncode == 0, done.stderr
    return pickle.loads(path.read_bytes())


def together(answers):
    losses = [loss for loss, _, _ in answers]
    for loss in losses[1:]:
        np.testing.assert_array_equal(loss, losses[0])  # on every rank the same bits
    return losses[0], np.concatenate([grad for _, grad, _ in answers], axis=1), answers[-1][2]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_one_process(found, name):
    case = CASES[name]
    loss, grad, aux = together(found[name])
    expected = case.expected()
    assert_close((loss, grad), expected, case.rows)
    if aux is not None:
        assert_same_asides(aux, expected[2], expected[0].dtype)


@pytest.mark.parametrize("name", [n for n in IN_BLOCKS if IN_BLOCKS[n].backend == "cython"])
def test_blocks_merged_in_order_have_the_bits_of_one_process(found, name):
    if name not in found:
        pytest.skip(f"{IN_BLOCKS[name].backend} does not run, or not on shards of the classes")
    loss, grad, _ = together(found[name])
    expected = IN_BLOCKS[name].expected()
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("name", UNALIGNED)
def test_shards_between_blocks_merged_in_order_have_the_bits_of_their_division(found, name):
    if name not in found:
        pytest.skip(f"{UNALIGNED[name].backend} does not run")
    loss, grad, _ = together(found[name])
    expected = UNALIGNED[name].merged()
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


def test_another_axis_in_place_with_an_upstream_gradient(found):
    loss, grad, _ = together(found["turned"])
    case = ShardCase("three", THREE.bounds, {"label_smoothing": 0.1, "reduction": "none"})
    assert_close((loss, grad), case.expected(np.linspace(-1, 2, 6)), case.rows)


def test_a_few_numbers_a_row_are_exchanged(found):
    for sizes in found["exchanged"]:
        assert sizes == [64, 3 * 64 + 1]


@pytest.mark.parametrize("name", ["rows", "rows and classes"])
def test_rows_and_classes_spread_at_once_are_one_mean(found, name):
    logits = np.random.default_rng(4).normal(size=(12, 30))
    target = np.arange(12) * 2
    target[:4] = -100
    loss, grad = fx.cross_entropy_and_grad(logits, target)
    for total, rows, classes, local in found[name]:
        np.testing.assert_allclose(total, loss, rtol=1e-14)
        np.testing.assert_allclose(local, grad[np.ix_(rows, classes)], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "kind", "own", "others"),
    [
        ("other rows", "ShapeError", "rows is (5,) on rank 1", "rows is (5,) on rank 1"),
        ("other option", "OptionError", "z_loss is 0.5 on rank 1", "z_loss is 0.5 on rank 1"),
        ("bad label", "LabelError", "is -7", "rank 1 of the group was given the label -7"),
        ("bad upstream", "ShapeError", "grad_output must", "rank 1 of the group stopped"),
        ("bad output", "ShapeError", "out", "rank 1 of the group stopped"),
        ("bad array", "DTypeError", "dtype complex", "rank 1 of the group stopped"),
    ],
)
def test_what_is_wrong_on_one_rank_is_an_error_on_all(found, name, kind, own, others):
    for rank, told in enumerate(found[name]):
        assert told.startswith(f"{kind}: ")
        assert (own if rank == 1 else others) in told


PROGRAM = """
import os, numpy as np
from mpi4py import MPI
import fastxent.mpi
from fastxent.mpi import vocab_parallel_cross_entropy
rank = MPI.COMM_WORLD.rank
logits, target, options = np.zeros((4, 3), "f4"), np.array([1, 2, 3, 4]), {}
"""
ENDINGS = {
    # every rank raises, and so plain Python ends
    "an argument": ([], "options = {'z_loss': -1.0 * rank}", "rank 1 of the group stopped"),
    # the rank is gone, and the process manager ends the others
    "a death": ([], "rank == 1 and os._exit(3)", ""),
    # memory of one rank: the others wait in an exchange
    "memory": (
        [],
        """
        def partial(*arguments, **options):
            raise MemoryError
        if rank == 1:
            fastxent.mpi.cross_entropy.stats_of = partial
        """,
        "MemoryError",
    ),
    # an error of the script itself
    "the script": (["-m", "mpi4py"], "rank == 1 and 1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_job_with_an_error_ends_with_an_exit_code(tmp_path, name):
    how, spoiled, words = ENDINGS[name]
    script = tmp_path / "script.py"
    call = "vocab_parallel_cross_entropy(logits, target, **options)\n"
    script.write_text(PROGRAM + textwrap.dedent(spoiled) + "\n" + call)
    done = run(3, *how, str(script), timeout=60)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_a_job_without_an_error_ends_with_none(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROGRAM + "vocab_parallel_cross_entropy(logits, target, **options)\n")
    assert run(3, str(script), timeout=60).returncode == 0


OF_A_LIBRARY = """
import sys, numpy as np, fastxent as fx
from mpi4py import MPI
from fastxent.mpi import vocab_parallel_cross_entropy, vocab_parallel_cross_entropy_and_grad
if sys.argv[1] == "torch":
    import torch
    of, kind = torch.tensor, torch.Tensor
else:
    import jax
    of, kind = jax.numpy.asarray, jax.Array
logits, target = np.linspace(-2, 3, 24, dtype="f4").reshape(4, 6) ** 2, np.array([1, 2, 3, 5])
rank = MPI.COMM_WORLD.rank
here = slice(0, 4) if rank == 0 else slice(4, 6)
local, asked = of(logits[:, here]), ("lse", "argmax")
for merge in ("reduce", "in_order"):
    options = {"label_smoothing": 0.1, "reduction": "none", "softcap": 5.0, "aux": asked}
    expected = fx.cross_entropy_and_grad(logits, target, **options)
    found = vocab_parallel_cross_entropy_and_grad(local, of(target), merge=merge, **options)
    wanted = *expected[:2], expected[2].lse, expected[2].argmax
    for one, other in zip((*found[:2], found[2].lse, found[2].argmax), wanted, strict=True):
        assert isinstance(one, kind), type(one)
        other = other[:, here] if other.ndim == 2 else other
        np.testing.assert_allclose(np.asarray(one), other, rtol=5e-7, atol=1e-8)
    loss, aux = vocab_parallel_cross_entropy(local, of(target), merge=merge, **options)
    assert isinstance(loss, kind) and (loss == found[0]).all() and isinstance(aux.lse, kind)
if sys.argv[1] == "torch":
    out = torch.empty(4, here.stop - here.start)
    given = vocab_parallel_cross_entropy_and_grad(local, of(target), **options, out=out)
    assert given[1] is out and (out == found[1]).all()
"""


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_a_library_come_back_as_its_arrays(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    done = run(2, "-m", "mpi4py", "-c", OF_A_LIBRARY, library, timeout=100)
    assert done.returncode == 0, done.stderr


def test_what_is_no_communicator():
    code = """
    import numpy as np
    from fastxent.mpi import vocab_parallel_cross_entropy
    try:
        vocab_parallel_cross_entropy(np.zeros((1, 2)), [0], "world")
    except TypeError as error:
        assert "comm must be an mpi4py.MPI.Intracomm" in str(error)
    else:
        raise SystemExit("no error")
    """
    done = run(1, "-c", textwrap.dedent(code), timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_mpi_the_import_says_what_to_install():
    code = """
    import sys
    sys.modules["mpi4py"] = None
    try:
        import fastxent.mpi
    except ImportError as error:
        assert "fastxent[mpi]" in str(error)
    else:
        raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
