"""A thousand compiled JAX steps, through XLA's FFI and through the callback: none hangs."""

import textwrap

import pytest

from processes.runs import environment, run

pytest.importorskip("jax", reason="JAX is not installed")

CODE = """
    import threading
    import jax, jax.numpy as jnp, numpy as np
    import fastxent, fastxent.jax as fj

    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(500, 500)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 500, 500))
    step = jax.jit(jax.value_and_grad(fj.cross_entropy))
    first = [np.asarray(part) for part in step(logits, labels)]
    same = []

    def steps(count):
        right = True
        for _ in range(count):
            loss, grad = step(logits, labels)
            right = right and np.array_equal(loss, first[0]) and np.array_equal(grad, first[1])
        same.append(right)

    steps(800)
    callers = [threading.Thread(target=steps, args=(50,)) for _ in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert same == [True] * 5, same
    print(fj.info())
"""


@pytest.mark.parametrize(("ffi", "name"), [("1", "XLA FFI"), ("0", "jax.pure_callback")])
def test_a_thousand_steps(ffi, name):
    out, fault = run(
        ["-c", textwrap.dedent(CODE)], environment(None, FASTXENT_JAX_FFI=ffi), timeout=200
    )
    assert not fault, fault
    assert out.startswith(name)
