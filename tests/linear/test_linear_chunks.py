"""What chunks and threads leave as it is."""

import math

import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx
from fastxent import threads
from fastxent.linear import by_class, chunks, kernel
from fastxent.linear.plan import plan_chunks

N, D, C = 320, 320, 1500
# Where the logits are: in chunks of rows, in the gradient of the weights, in blocks of classes.
WAYS = {
    "chunks": (None, "float32", ()),
    "first rows": (900_000, "float32", ("_first_rows",)),
    "by class": (1_900_000, "float16", ("run",)),
}


@pytest.mark.parametrize(
    ("backend", "way"),
    [*(("cython", way) for way in WAYS), ("numba", "chunks")],
    indirect=["backend"],
)
def test_the_bits_do_not_depend_on_the_threads(way, backend, monkeypatch):
    budget, dtype, names = WAYS[way]
    rng = np.random.default_rng(0)
    hidden, weights = rng.normal(size=(N, D)).astype("f4"), rng.normal(size=(C, D)).astype(dtype)
    target = rng.integers(0, C, N)
    options = {"aux": ("lse",), "backend": backend, "memory_budget": budget}
    used, ways = set(), set()

    def spied(module):
        replace = module.replace

        def counted(problem, **changed):
            used.add(changed.get("num_threads", 1))
            return replace(problem, **changed)

        monkeypatch.setattr(module, "replace", counted)

    def noted(of, name):
        method = getattr(of, name)
        monkeypatch.setattr(of, name, lambda self, *a: (ways.add(name), method(self, *a))[1])

    spied(by_class if dtype == "float16" else kernel)
    noted(by_class.WeightGradByClass, "run")
    noted(chunks.Chunks, "_first_rows")
    found = []
    for count in (1, 2, 5):
        used.clear()
        call = fx.linear_cross_entropy_and_grad
        found.append(call(hidden, weights, target, num_threads=count, **options))
        most = min(count, threads.most_threads())
        assert max(used) == most if count <= 2 else max(used) > 1
    assert ways == set(names)
    for loss, grads, aux in found[1:]:
        assert loss == found[0][0]
        for one, other in zip(grads[:2], found[0][1][:2], strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(aux.lse, found[0][2].lse)


def test_the_chunks_do_not_depend_on_the_machine(monkeypatch):
    rng = np.random.default_rng(0)
    given = rng.normal(size=(400, 8)), rng.normal(size=(3000, 8)), rng.integers(0, 3000, 400)
    options = {"softcap": 3.0, "memory_budget": 4_000_000}
    planned = []

    def noted(*arguments):
        planned.append(plan_chunks(*arguments))
        return planned[-1]

    monkeypatch.setattr("fastxent.linear.needs.plan_chunks", noted)
    for cpus in (1, 96):
        monkeypatch.setattr(threads, "machine_cpus", lambda cpus=cpus: cpus)
        fx.linear_cross_entropy_and_grad(*given, **options)
    assert planned[0] == planned[-1]
    assert planned[0].count > 1


def test_the_sum_does_not_depend_on_the_number_of_chunks():
    # beside 1e16 a float64 has no room for the losses of the other rows, one at a time
    hidden = np.zeros((1000, 1))
    hidden[0] = 1e16
    given = hidden, np.array([[1.0], [0.0]]), np.ones(1000, int)
    least = least_budget(*given, reduction="sum")
    expected = math.fsum([1e16, *[math.log(2)] * 999])
    for budget in (least, None):
        loss, _ = fx.linear_cross_entropy_and_grad(*given, reduction="sum", memory_budget=budget)
        assert loss == expected
