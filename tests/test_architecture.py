"""The rules of docs/design.md that hold the layers apart, checked on the source and at run time."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastxent
from fastxent.backends import contract, load

PACKAGE = Path(fastxent.__file__).parent
KERNELS = Path(__file__).parent.parent / "src_cython"

# What each module may import of fastxent, by the layers of docs/design.md. A name ending in "."
# stands for the package below it.
LEAVES = {"errors", "precision", "version", "device_array"}
DOOR = {"checks", "layout", "mass", "options", "reduction", "problem", "threads"}
DOOR |= {"environment", "interchange", "jacobian"} | LEAVES
ADAPTERS = {"torch", "jax", "boosting", "sklearn", "numba", "tensorflow", "keras"}
ADAPTERS |= {"dask", "mpi", "on_disk"}
BELOW_ADAPTERS = {
    "spare",
    "api",
    "backends",
    "checks.",
    "backends.contract",
    "binary",
    "loss",
} | DOOR
BELOW_ADAPTERS |= {"shortcut", "side_outputs", "on_device.", "linear.", "sharding.", "long_sum"}
BENCH = {"backends", "backends.contract", "precision", "threads"}
ALLOWED = {
    "errors": set(),
    "precision": set(),
    "version": set(),
    "reference.*": {"reference."},
    "device_array": {"precision"},
    "on_device.*": {"on_device.", "backends", "backends.contract", "binary", "side_outputs"}
    | {"sharding."}
    | DOOR,
    "layout": {"precision"},
    "options": set(),
    "long_sum": set(),
    "interchange.*": {"interchange.", "device_array", "precision"},
    "checks.*": {"checks.", "device_array", "errors", "interchange", "layout", "precision"},
    "environment": {"checks"},
    "threads": {"checks", "cpus"},
    "cpus": set(),
    "openmp": {"checks", "environment"},
    "reduction": {"precision"},
    "mass": {"precision"},
    "spare": {"precision"},
    "problem": {
        "checks",
        "device_array",
        "layout",
        "mass",
        "options",
        "precision",
        "reduction",
        "threads",
    }
    | {"backends.contract"},
    "jacobian": {"checks", "layout", "precision", "threads"},
    "side_outputs": {"backends.contract", "layout", "precision", "problem"},
    "binary": {"checks", "layout", "precision", "reduction", "threads", "backends.contract"},
    "backends.outputs": {"device_array", "precision"},
    "backends.contract": {"backends.outputs", "binary", "device_array", "jacobian"}
    | {"precision", "problem"},
    "backends": {"checks", "backends.contract", "problem"},
    "backends.*": {
        "backends.contract",
        "backends.disk_cache",
        "backends.label_summary",
        "binary",
        "device_array",
        "backends.numpy_jacobian",
        "backends.numpy_rows",
        "jacobian",
        "problem",
        "precision",
        "threads",
        "environment",
        "own",
    },
    "api.*": {
        "api.",
        "on_device",
        "binary",
        "backends",
        "backends.contract",
        "linear.",
        "sharding.",
        "shortcut",
        "side_outputs",
    }
    | DOOR,
    "linear.*": {"linear.", "long_sum", "backends", "backends.contract", "side_outputs"} | DOOR,
    "sharding.*": {"sharding.", "checks.", "backends", "backends.contract", "side_outputs"} | DOOR,
    "shortcut": {"backends", "layout", "options", "threads"},
    "loss": {"api", "checks", "options"},
    "cases.*": {"cases.", "precision"},
    "bench.*": {"api", "cases", "conformance", "config", "reference", "bench."} | BENCH,
    "bench.copying": {"backends.numba_cpu.jit", "backends.numba_cpu.lanes", "bench."} | BENCH,
    "bench.peers.*": {"backends", "bench.timer", "bench.workloads", "precision", "own"}
    | {"torch", "jax"},
    "bench.contests.*": {"bench.contest", "boosting", "sklearn", "precision", "own"},
    **{f"{name}.*": {f"{name}."} | BELOW_ADAPTERS for name in ADAPTERS - {"numba", "keras"}},
    "numba.*": {"numba.", "backends.numba_cpu.", "backends.contract"},
    "keras.*": {"keras.", "torch", "jax", "tensorflow"} | BELOW_ADAPTERS,
    "comparison": {"reference"},
    "promises": {"backends", "backends.contract", "cases.", "comparison", "problem", "reference"},
    "conformance": {"api", "cases.", "comparison", "promises", "reference"},
    "trials.*": {"api", "backends.contract", "cases.", "comparison", "conformance", "errors"}
    | {"promises", "reference", "trials."},
    "determinism": {"api", "backends", "backends._kernels", "cases.", "comparison", "trials."},
}
# What goes wrong with a GPU shows when a kernel is launched.
ALLOWED |= {
    f"backends.cuda.{module}": ALLOWED["backends.*"] | {"checks"}
    for module in ("calls", "driver", "launch", "layouts", "memory", "runtime", "tables")
}
ALLOWED["backends.cuda.residence"] = ALLOWED["backends.*"] | {"layout"}
FRAMEWORKS = {"torch", "jax", "sklearn", "scipy", "tensorflow", "keras"}
FRAMEWORKS |= {"xgboost", "lightgbm", "catboost", "dask", "mpi4py"}
# What an adapter may import; the objectives of boosting need nothing of the libraries they serve.
FRAMEWORKS_OF = {name: {name} for name in ADAPTERS} | {"sklearn": {"sklearn", "scipy"}}
FRAMEWORKS_OF |= {"mpi": {"mpi4py"}}
# What may import Numba besides.
COMPILED = ("numba", "backends.cuda.")
OPTION_WORDS = ("label_smoothing", "ignore_index", "reduction", "class_weight", "pos_weight")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts).removesuffix("__init__").rstrip(".") or "fastxent", path


def imported(path):
    """Every module that a file imports, wherever in the file, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                file = PACKAGE.parent / Path(*below.split("."))
                is_module = file.with_suffix(".py").exists() or file.is_dir()
                yield below if is_module or alias.name == "_kernels" else node.module


def rule_for(name):
    if name in ALLOWED:
        return ALLOWED[name]
    packages = ("api", "backends", "bench.peers", "bench.contests", "bench", "cases", "checks")
    packages += ("interchange", "linear", "on_device", "reference", "sharding", "trials", *ADAPTERS)
    return next((ALLOWED[f"{p}.*"] for p in packages if f"{name}.".startswith(f"{p}.")), None)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=str)
def test_imports_go_down_the_layers(name, path):
    allowed = rule_for(name)
    if allowed is None:
        return  # the entry points (cli, demo, config, adapters) may use everything
    for target in imported(path):
        if target == "fastxent" or not target.startswith("fastxent."):
            continue
        inner = target.removeprefix("fastxent.")
        own = "own" in allowed and (
            inner == "backends._kernels" or inner.startswith(".".join(name.split(".")[:2]))
        )
        below = any(f"{inner}.".startswith(rule) for rule in allowed if rule.endswith("."))
        assert inner in allowed or own or below, f"{name} must not import {inner}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=str)
def test_foreign_packages_stay_in_their_modules(name, path):
    roots = {target.partition(".")[0] for target in imported(path)}
    if not name.startswith("backends.numba_cpu"):
        assert "llvmlite" not in roots or name.startswith("backends.cuda.machine")
        # the kernels of bench.copying are the copy limit
        assert "numba" not in roots or name == "bench.copying" or name.startswith(COMPILED)
    assert "cuda" not in roots or name.startswith("backends.cuda.")
    if name.startswith("reference"):
        standard = {"__future__", "collections", "dataclasses", "typing"}
        assert roots <= {"numpy", "fastxent"} | standard
    adapter = name.partition(".")[0]
    if not name.startswith(("demo", "bench.peers.", "bench.contests.", "bench.card.")):
        assert roots & FRAMEWORKS <= FRAMEWORKS_OF.get(adapter, set())
    if name.startswith("bench.peers."):
        assert len(roots & FRAMEWORKS) <= 1, "one framework a file"


def test_option_words_stay_above_the_backends():
    files = [
        *(PACKAGE / "backends").rglob("*.py"),
        *KERNELS.glob("*.?pp"),
        *KERNELS.glob("*.p[yx]?"),
    ]
    assert files
    for path in files:
        found = [word for word in OPTION_WORDS if word in path.read_text()]
        assert not found or path.name == "_kernels.cpp", f"{path.name} knows {found}"


def test_only_the_door_raises():
    for name, path in modules():
        if name.startswith("checks") or name == "errors":
            continue
        raised = [
            node.exc.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
        ]
        ours = [error for error in raised if error in fastxent.errors.__all__]
        assert not ours, f"{name} raises {ours}: its message belongs into checks/"


@pytest.mark.parametrize("name", fastxent.backends())
def test_backend_signatures_equal_the_contract(name):
    backend = load(name)
    for verb, declared in inspect.getmembers(contract.Backend, inspect.isfunction):
        if verb.startswith("_"):
            continue
        assert inspect.signature(getattr(type(backend), verb)) == inspect.signature(declared), verb
    assert backend.name == name


def test_public_names_are_those_of_the_contract():
    expected = {
        *("binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_and_grad"),
        *("cross_entropy", "cross_entropy_and_grad", "softmax", "log_softmax", "logsumexp"),
        *("softmax_backward", "log_softmax_backward"),
        *("linear_cross_entropy", "linear_cross_entropy_and_grad", "LinearGrads"),
        *("partial_stats", "merge_stats", "loss_from_stats", "grad_from_stats", "ShardStats"),
        *("CrossEntropyLoss", "check_labels", "backends", "use_backend", "show_config"),
        *(
            "Aux",
            "set_num_threads",
            "get_num_threads",
            "share_openmp",
            "FastxentError",
            "BackendError",
            "DTypeError",
        ),
        *("CallOrderError", "LabelError", "OptionError", "OutputError", "ShapeError"),
        "__version__",
    }
    assert set(fastxent.__all__) == expected
    assert all(hasattr(fastxent, name) for name in expected)


def test_public_signatures_are_those_of_the_contract():
    shared = (
        "weight=None, ignore_index=-100, label_smoothing=0.0, reduction='mean', normalizer=None, "
        "sample_weight=None, z_loss=0.0, softcap=None, logit_scale=1.0, axis=-1, "
        "all_ignored='nan', aux=(), backend=None, num_threads=None"
    )
    binary = (
        "weight=None, pos_weight=None, label_smoothing=0.0, reduction='mean', backend=None, "
        "num_threads=None"
    )
    place = "axis=-1, *, out=None, backend=None, num_threads=None"
    expected = {
        "cross_entropy": f"(logits, target, *, {shared})",
        "cross_entropy_and_grad": f"(logits, target, *, {shared}, grad_output=None, out=None)",
        "binary_cross_entropy_with_logits": f"(logits, target, *, {binary})",
        "binary_cross_entropy_with_logits_and_grad": (
            f"(logits, target, *, {binary}, grad_output=None, out=None)"
        ),
        "softmax": "(x, axis=-1, *, out=None, backend=None, num_threads=None)",
        "log_softmax": "(x, axis=-1, *, out=None, backend=None, num_threads=None)",
        "logsumexp": "(x, axis=-1, *, backend=None, num_threads=None)",
        "softmax_backward": f"(p, grad_p, {place})",
        "log_softmax_backward": f"(log_p, grad, {place})",
        "check_labels": "(target, num_classes, ignore_index=-100)",
        "CrossEntropyLoss": f"(*, {shared})",
    }
    for name, text in expected.items():
        signature = inspect.signature(getattr(fastxent, name))
        bare = signature.replace(
            parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
            return_annotation=signature.empty,
        )
        assert str(bare) == text, name


def test_import_is_light():
    code = (
        "import sys; before = set(sys.modules); import numpy; base = set(sys.modules)\n"
        "import fastxent\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - base}\n"
        "heavy = {'numba', 'llvmlite', 'scipy', 'sklearn', 'matplotlib', 'rich', 'torch', 'jax'}\n"
        "heavy |= {'xgboost', 'lightgbm', 'catboost', 'tensorflow', 'keras'}\n"
        "assert not new & heavy, new & heavy\n"
        "assert 'fastxent.backends._kernels' not in sys.modules\n"
        "import warnings\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_files_are_of_one_screenful_of_ideas():
    for path in [*PACKAGE.rglob("*.py"), *KERNELS.glob("*.?pp"), *KERNELS.glob("*.p[yx]?")]:
        if path.name == "_kernels.cpp":
            continue
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path.name} has {lines} lines"


def test_block_is_the_same_on_both_sides():
    header = KERNELS / "kernels.hpp"
    if not header.exists():
        pytest.skip("the source tree is absent: a wheel is being tested")
    text = header.read_text()
    assert f"fastxent_block = {contract.BLOCK};" in text
    assert f"fastxent_label_chunk = {contract.LABEL_CHUNK};" in text
    assert f"fastxent_tile_classes = {contract.TILE_CLASSES};" in text
    jacobian = (KERNELS / "jacobian_pass.hpp").read_text()
    assert f"_tile_classes = {contract.JACOBIAN_TILE_CLASSES};" in jacobian
    power = re.search(r"fastxent_chunk_elements = 1 << (\d+);", text)
    assert power is not None
    assert 1 << int(power[1]) == contract.CHUNK_ELEMENTS
    kinds = re.search(r"enum fastxent_kind \{(.*?)\};", text, re.DOTALL)
    assert kinds is not None
    assert tuple(re.findall(r"fastxent_(\w+),", kinds[1])) == contract.KINDS
