"""Where and how the kernels run: one pass, no Python, threads, devices, the callback."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

jnp = jax.numpy

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402

RNG = np.random.default_rng(3)


def large():
    return (
        jnp.asarray(RNG.normal(size=(300, 2000)), jnp.float32),
        jnp.asarray(RNG.integers(0, 2000, 300), jnp.int32),
    )


def child(code, **environment):
    """What a fresh process prints, of which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_training_step_reads_the_logits_once(dtype, reduction):
    logits, labels = large()
    logits = logits.astype(dtype)
    step = jax.value_and_grad(lambda x: fj.cross_entropy(x, labels, reduction=reduction))
    text = jax.jit(step).lower(logits).compile().as_text()
    of_size = [line for line in text.splitlines() if "[300,2000]" in line and " = " in line]
    does = [line for line in of_size if " parameter(" not in line and "get-tuple" not in line]
    does = [line for line in does if " tuple(" not in line]
    assert len(does) == 1, does
    assert 'custom_call_target="fastxent_cross_entropy"' in does[0]


def test_the_loss_alone_writes_no_gradient():
    logits, labels = large()
    text = jax.jit(fj.cross_entropy).lower(logits, labels).compile().as_text()
    call = next(line for line in text.splitlines() if " custom-call(" in line)
    assert "[300,2000]" not in call.split(" custom-call(")[0]


def test_sums_and_gradients_have_the_same_bits_for_any_number_of_threads():
    logits, labels = large()
    before = fastxent.get_num_threads()
    given = {"label_smoothing": 0.1, "sample_weight": jnp.asarray(RNG.uniform(size=300))}
    found = []
    step = jax.jit(jax.value_and_grad(lambda x: fj.cross_entropy(x, labels, **given)))
    try:
        for threads in (1, 2, 3, 7):
            fastxent.set_num_threads(threads)  # the compiled step asks at run time
            found.append(step(logits))
    finally:
        fastxent.set_num_threads(before)
    fixed = jax.jit(
        jax.value_and_grad(lambda x: fj.cross_entropy(x, labels, num_threads=2, **given))
    )
    for loss, grad in [*found[1:], fixed(logits)]:
        np.testing.assert_array_equal(loss, found[0][0])
        np.testing.assert_array_equal(grad, found[0][1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_the_limit_holds_when_the_program_runs():
    code = """
        import os, jax, jax.numpy as jnp, fastxent, fastxent.jax as fj
        def team():
            return len(os.listdir("/proc/self/task"))
        fastxent.set_num_threads(1)
        step = jax.jit(jax.value_and_grad(fj.cross_entropy))
        given = jnp.zeros((400, 3000)), jnp.zeros(400, int)
        for _ in range(20):
            jax.block_until_ready(step(*given))
        before = team()
        for _ in range(20):
            jax.block_until_ready(step(*given))
        assert team() == before
        fastxent.set_num_threads(5)
        jax.block_until_ready(step(*given))
        print(fastxent.get_num_threads() - 1, team() - before)
    """
    wanted, started = child(code, OMP_NUM_THREADS="5", JAX_CPU_ENABLE_ASYNC_DISPATCH="0").split()
    assert wanted == "4"
    assert int(started) >= 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_forked_child_starts_no_team_of_threads():
    code = """
        import os, signal, warnings, jax, jax.numpy as jnp, fastxent, fastxent.jax as fj
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of fork
        fastxent.set_num_threads(2)
        step = jax.jit(jax.value_and_grad(lambda x: fj.cross_entropy(x, labels, num_threads=2)))
        logits, labels = jnp.zeros((300, 2000)), jnp.zeros(300, int)
        loss = float(step(logits)[0])
        child = os.fork()
        if child == 0:
            signal.alarm(200)
            again, _ = jax.block_until_ready(step(logits))
            os._exit(float(again) != loss or len(os.listdir("/proc/self/task")) > 1)
        print(os.waitpid(child, 0)[1])
    """
    assert child(code, JAX_CPU_ENABLE_ASYNC_DISPATCH="0") == "0"


def test_a_call_on_a_thread_of_xla_needs_no_lock_of_python():
    code = """
        import sys, time, jax, jax.numpy as jnp, fastxent.jax as fj
        slow = jax.jit(lambda x: x @ x @ x)
        step = jax.jit(jax.value_and_grad(fj.cross_entropy))
        x, labels = jnp.zeros((1500, 1500)), jnp.zeros(1500, int)
        jax.block_until_ready(step(slow(x), labels))
        sys.setswitchinterval(1e5)  # a thread that waits for the lock from now on waits for ever
        loss, grad = step(slow(x), labels)  # runs when its logits are there, on another thread
        late = time.monotonic() + 60
        while not (loss.is_ready() and grad.is_ready()):
            assert time.monotonic() < late
        print("done")
    """
    assert child(code) == "done"


def test_devices_of_shard_map():
    code = """
        import jax, jax.numpy as jnp, numpy as np, fastxent, fastxent.jax as fj
        from jax.sharding import PartitionSpec as P
        rng = np.random.default_rng(0)
        logits = jnp.asarray(rng.normal(size=(64, 33)), jnp.float32)
        labels = jnp.asarray(rng.integers(0, 33, 64)).at[:20].set(-100)
        weight = jnp.asarray(rng.uniform(0.5, 2, 33), jnp.float32)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        assert mesh.size == 2
        def local(x, y, w):
            count = jax.lax.psum(jnp.where(y >= 0, w[y], 0.0).sum(), "data")
            loss = fj.cross_entropy(x, y, weight=w, normalizer=count)
            return jax.lax.psum(loss, "data")
        parted = jax.shard_map(
            local, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P()
        )
        loss, grad = jax.jit(jax.value_and_grad(parted))(logits, labels, weight)
        expected = fastxent.cross_entropy_and_grad(
            np.asarray(logits), np.asarray(labels), weight=np.asarray(weight)
        )
        np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-8)
        rows = jax.shard_map(
            fj.log_softmax, mesh=mesh, in_specs=P("data"), out_specs=P("data")
        )
        np.testing.assert_allclose(
            jax.jit(rows)(logits), fastxent.log_softmax(np.asarray(logits)), rtol=1e-6, atol=1e-6
        )
        expected = fastxent.cross_entropy_and_grad(np.asarray(logits), np.asarray(labels))
        for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
            place = jax.sharding.NamedSharding(mesh, P("data"))
            with jax.set_mesh(mesh):  # arrays of two devices, gathered by XLA
                step = jax.jit(jax.value_and_grad(fj.cross_entropy))
                got = step(jax.device_put(logits, place), jax.device_put(labels, place))
            np.testing.assert_array_equal(got[0], expected[0])
            np.testing.assert_array_equal(got[1], expected[1])
        print("done")
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    assert child(code, XLA_FLAGS=flags) == "done"


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_a_program_for_another_platform_is_a_clear_error(platform):
    step = jax.jit(jax.grad(fj.cross_entropy)).trace(jnp.zeros((2, 3)), jnp.array([0, 1]))
    with pytest.raises(fastxent.BackendError, match=f"on the CPU only.* compiled for {platform}"):
        step.lower(lowering_platforms=(platform,))


def test_an_exported_program_takes_any_number_of_rows():
    (rows,) = jax.export.symbolic_shape("rows")
    given = jax.ShapeDtypeStruct((rows, 33), "float32"), jax.ShapeDtypeStruct((rows,), "int32")
    ours = jax.export.DisabledSafetyCheck.custom_call("fastxent_cross_entropy")
    step = jax.jit(jax.value_and_grad(fj.cross_entropy))
    exported = jax.export.export(step, disabled_checks=[ours])(*given)
    for count in (3, 70):
        logits = RNG.normal(size=(count, 33)).astype(np.float32)
        labels = RNG.integers(0, 33, count).astype(np.int32)
        loss, grad = exported.call(logits, labels)
        expected = fastxent.cross_entropy_and_grad(logits, labels)
        np.testing.assert_array_equal(loss, expected[0])
        np.testing.assert_array_equal(grad, expected[1])


def test_show_config_says_how_kernels_are_called():
    assert fj.info() == "XLA FFI"
    assert fastxent.show_config(mode="dicts")["adapters"]["jax"] == "XLA FFI"


def test_the_callback_gives_the_same_numbers():
    code = """
        import jax, jax.numpy as jnp, numpy as np, fastxent, fastxent.jax as fj
        assert fastxent.show_config("dicts")["adapters"]["jax"].startswith("jax.pure_callback")
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(3, 8, 5)).astype(np.float32)
        labels = rng.integers(0, 5, (3, 8)).astype(np.int32)
        step = jax.jit(jax.vmap(jax.value_and_grad(fj.cross_entropy)))
        try:
            step.trace(logits, labels).lower(lowering_platforms=("cuda",))
        except fastxent.BackendError as error:
            assert "on the CPU only" in str(error)
        else:
            raise AssertionError
        assert "fastxent_" not in step.lower(logits, labels).compile().as_text()
        for dtype in (jnp.float32, jnp.bfloat16):
            loss, grad = step(jnp.asarray(logits, dtype), labels)
            for i in range(3):
                given = np.asarray(jnp.asarray(logits[i], dtype))
                expected = fastxent.cross_entropy_and_grad(given, labels[i])
                np.testing.assert_array_equal(loss[i], expected[0])
                np.testing.assert_array_equal(grad[i], expected[1])
        soft = np.full((8, 5), 0.2, np.float32)
        both = jax.jit(jax.grad(fj.cross_entropy, (0, 1)))(logits[0], soft)
        _, grad, aux = fastxent.cross_entropy_and_grad(logits[0], soft, aux=("target_grad",))
        np.testing.assert_array_equal(both[0], grad)
        np.testing.assert_array_equal(both[1], aux.target_grad)
        one = jax.grad(lambda t: fj.cross_entropy(logits[0], t))(soft)
        np.testing.assert_array_equal(one, aux.target_grad)
        np.testing.assert_allclose(
            jax.jit(jax.grad(fj.logsumexp))(logits[0, 0]), fastxent.softmax(logits[0, 0]), rtol=1e-6
        )
        try:
            jax.block_until_ready(step(logits, labels + 4))
        except jax.errors.JaxRuntimeError as error:
            assert "lies outside [0, 5)" in str(error)
            print("done")
    """
    assert child(code, FASTXENT_JAX_FFI="0") == "done"


def test_where_the_ffi_fails_a_warning_says_so():
    code = """
        import warnings, jax, jax.numpy as jnp, numpy as np, fastxent
        def refuse(*given, **options):
            raise RuntimeError("another version")
        jax.ffi.register_ffi_target = refuse
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import fastxent.jax as fj
        assert "RuntimeError: another version" in str(caught[-1].message), caught
        assert caught[-1].category is RuntimeWarning
        assert "another version" in fastxent.show_config("dicts")["adapters"]["jax"]
        loss = jax.jit(fj.cross_entropy)(jnp.zeros((2, 4)), jnp.array([0, 3]))
        np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
        print("done")
    """
    assert child(code) == "done"


def test_without_jax_the_import_says_what_to_install():
    code = """
        import sys
        sys.modules["jax"] = None
        try:
            import fastxent.jax
        except ImportError as error:
            print(error)
    """
    assert "pip install 'fastxent[jax]'" in child(code)
