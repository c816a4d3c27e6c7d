"""The compiled extension: instruction levels, what is linked in, what it does to the process."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx

REASON = fx.backends()["cython"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
X86 = platform.machine() in ("x86_64", "AMD64")


def kernels():
    from fastxent.backends import _kernels

    return _kernels


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} (binutils) is not installed")
    return path


@pytest.mark.skipif(not X86, reason="levels are those of x86-64")
def test_three_levels_are_built():
    assert kernels().levels()[0] == ("baseline", "v3", "v4")


@pytest.mark.skipif(not X86, reason="levels are those of x86-64")
def test_environment_lowers_the_level():
    names, supported = kernels().levels()
    code = (
        "import fastxent as fx; assert fx.backends()['cython'] is None\n"
        "from fastxent.backends import _kernels; print(_kernels.level())"
    )
    for wish in names:
        highest = names[min(names.index(wish), supported - 1)]
        assert run(code, FASTXENT_ISA=wish).strip() == highest
    assert run(code, FASTXENT_ISA="").strip() == names[supported - 1]


def test_unknown_level_is_an_error():
    code = (
        "import fastxent as fx\n"
        "for attempt in (fx.backends, lambda: fx.softmax([1.0])):\n"
        "    try: attempt()\n"
        "    except fx.OptionError as error: assert all(w in str(error) for w in ('v3', 'avx'))\n"
        "    else: raise SystemExit('no error')"
    )
    run(code, FASTXENT_ISA="avx")


@pytest.mark.skipif(not X86, reason="levels are those of x86-64")
def test_avx2_and_avx512_give_the_same_bits():
    if kernels().levels()[1] < 3:
        pytest.skip("this CPU has no AVX-512")
    code = """
import hashlib
import numpy as np
import fastxent as fx
from fastxent.boosting import logistic_gradient_hessian, softmax_gradient_hessian
rng = np.random.default_rng(4)
digest = hashlib.blake2b()
for dtype in ("f4", "f8"):
    for shape in ((20, 7), (20, 100), (9, 1025), (3, 40001)):
        logits = (rng.standard_normal(shape) * 6).astype(dtype)
        for target in (np.arange(shape[0]) % 7, rng.random(shape)):
            for options in ({}, {"label_smoothing": 0.1}, {"weight": rng.random(shape[1])}):
                loss, grad = fx.cross_entropy_and_grad(logits, target, backend="cython", **options)
                digest.update(loss.tobytes() + grad.tobytes())
        digest.update(fx.log_softmax(logits, backend="cython").tobytes())
    for order, shape in (("C", (53, 7)), ("F", (53, 7)), ("C", (9, 1025))):
        scores = np.asarray(rng.standard_normal(shape) * 6, dtype, order=order)
        for hessian in ("xgboost", "xgboost-distance"):
            for result in softmax_gradient_hessian(scores, np.arange(len(scores)) % 7,
                                                   hessian=hessian, backend="cython"):
                digest.update(result.tobytes())
            for result in logistic_gradient_hessian(scores[:, 0].copy(), np.arange(len(scores)) % 2,
                                                    hessian=hessian, backend="cython"):
                digest.update(result.tobytes())
    for kind in (dtype, "f2"):
        x, y = (rng.standard_normal(40001) * 6).astype(kind), rng.random(40001).astype(dtype)
        for options in ({}, {"pos_weight": 3.0}, {"reduction": "none"}):
            loss, grad = fx.binary_cross_entropy_with_logits_and_grad(
                x, y, backend="cython", **options
            )
            digest.update(loss.tobytes() + grad.tobytes())
print(digest.hexdigest())
"""
    assert run(code, FASTXENT_ISA="v3") == run(code, FASTXENT_ISA="v4")


@pytest.mark.skipif(not X86, reason="registers of x86-64")
def test_each_level_uses_its_own_registers(tmp_path):
    """All three widths are there, in the loops of both dtypes."""
    listing = subprocess.run(
        [tool("objdump"), "-d", "--no-show-raw-insn", kernels().__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len(re.findall(r"vfmadd\w+ps .*%zmm", listing)) > 50
    assert len(re.findall(r"vmaxps .*%zmm", listing)) >= 2
    assert len(re.findall(r"vfmadd\w+ps .*%ymm", listing)) > 50
    assert len(re.findall(r"vmaxps .*%ymm", listing)) >= 2
    assert len(re.findall(r"\bmaxps .*%xmm", listing)) >= 2


@pytest.mark.slow  # it compiles the kernels once more: two minutes
@pytest.mark.skipif(not X86, reason="registers of x86-64")
def test_baseline_holds_nothing_of_the_higher_levels(tmp_path):
    """What a level calls must be inlined into it: a shared copy might be another level's code."""
    source = Path(__file__).parent.parent / "src_cython" / "kernels.cpp"
    if not source.exists():
        pytest.skip("the source tree is absent: a wheel is being tested")
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-fopenmp"]
    compiled = tmp_path / "kernels.o"
    subprocess.run(
        [tool("g++"), *flags, "-DFASTXENT_LEVEL=baseline", "-c", source, "-o", compiled],
        check=True,
    )
    listing = subprocess.run(
        [tool("objdump"), "-d", "--no-show-raw-insn", compiled],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "mulps" in listing
    assert not re.search(r"%[yz]mm|\bv(mul|add|fmadd)\w+", listing)
    symbols = subprocess.run(
        [tool("nm"), compiled], capture_output=True, text=True, check=True
    ).stdout
    # weak symbols of one level would be linked for all of them
    assert not re.findall(r" [WVu] (\w+)", symbols)


def test_exports_and_imports():
    symbols = subprocess.run(
        [tool("nm"), "-D", kernels().__file__], capture_output=True, text=True, check=True
    ).stdout
    exported = re.findall(r" [TDBV] (\w+)", symbols)
    assert exported == ["PyInit__kernels"]
    # GCC's vector math library: absent on musl and on older glibc
    assert "_ZGV" not in symbols
    needed = subprocess.run(
        [tool("readelf"), "-d", kernels().__file__], capture_output=True, text=True, check=True
    ).stdout
    libraries = re.findall(r"NEEDED.*\[(.+?)\]", needed)
    # a renamed copy of libgomp would mean two pools of spinning threads in one process
    assert {name for name in libraries if "gomp" in name} <= {"libgomp.so.1"}
    assert not any("stdc++" in name for name in libraries)


def test_floating_point_mode_is_left_alone():
    """-ffast-math, linked in, would flush subnormals in the whole process."""
    code = (
        "import sys, numpy as np, fastxent as fx\n"
        "tiny = np.array([sys.float_info.min])\n"
        "assert tiny / 2 != 0\n"
        "for backend, why in fx.backends().items():\n"
        "    if why is None:\n"
        "        fx.cross_entropy_and_grad(np.zeros((99, 2000)), [0] * 99, backend=backend,\n"
        "                                  num_threads=2)\n"
        "    assert tiny / 2 != 0 and np.float32(1e-38) / np.float32(1000) != 0"
    )
    run(code)


def test_without_the_extension_the_reason_is_said():
    code = (
        "import sys; sys.modules['fastxent.backends._kernels'] = None\n"
        "import fastxent as fx\n"
        "reason = fx.backends()['cython']\n"
        "assert 'cannot be loaded' in reason and 'pip install' in reason, reason\n"
        "try: fx.softmax([1.0], backend='cython')\n"
        "except fx.BackendError as error: assert reason in str(error)\n"
        "else: raise SystemExit('no error')\n"
        "assert abs(fx.cross_entropy([0.0, 0.0], 0) - 0.6931) < 1e-4"
    )
    run(code)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_is_good_to_one_unit_in_the_last_place(dtype):
    """Through softmax: two classes, the larger at 0, so that p is exp(x) / (1 + exp(x))."""
    lowest, highest = (-87.0, -25.0) if dtype == np.float32 else (-708.0, -45.0)
    x = np.linspace(lowest, 0, 200_001).astype(dtype)
    logits = np.stack([np.zeros_like(x), x], axis=1)
    exps = np.exp(x.astype(np.longdouble))
    exact = exps / (1 + exps)
    error = np.abs(fx.softmax(logits, backend="cython")[:, 1] - exact)
    error /= np.spacing(exact.astype(dtype))
    # below `highest` the sum rounds to 1 by far and p is exp itself; without a fused multiply-add
    # the argument is rounded once more
    fused = kernels().level() in ("v3", "v4")
    of_exp = 1.0 if fused else 1.25
    assert error[x < highest].max() <= of_exp
    # half a unit from the sum, its reciprocal and the product each, of their own units
    total, share = 1 + exps, 1 / (1 + exps)
    unit = {name: np.spacing(value.astype(dtype)) for name, value in
            {"exp": exps, "total": total, "share": share, "result": exact}.items()}  # fmt: skip
    from_exp = of_exp * unit["exp"] * share**2
    rounded = exact * (unit["total"] / total + unit["share"] / share) / 2
    assert (error <= (from_exp + rounded) / unit["result"] + 0.501).all()
    assert error.max() <= (2.5 if fused else 2.75)  # 2.61 was measured without
    assert fx.softmax(np.array([0.0, -np.inf], dtype))[1] == 0
