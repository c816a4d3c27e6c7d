"""What a bug report needs: versions, CPU, backends, threads and where their limit comes from."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from fastxent import checks, layout, openmp, threads
from fastxent.backends import ORDER, load
from fastxent.errors import FastxentError
from fastxent.version import __version__

__all__ = ["collect", "show_config"]

# Packages that fastxent can use, and those whose own OpenMP runtime may sit beside ours.
_PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "cuda-bindings",
    "llvmlite",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "rich",
    "threadpoolctl",
    "torch",
    "jax",
    "lightgbm",
    "xgboost",
    "xgboost-cpu",
    "catboost",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
)

# Libraries that have threads of their own: those of two make each other wait.
_THREADED = (
    *openmp.RUNTIMES,
    *("libtbb", "libopenblas", "libscipy_openblas", "libmkl_rt", "libblis"),
)

# Adapters with a function `info`, which says how they call the kernels.
_ADAPTERS = ("jax",)

# Instruction sets that the compiled levels are made of, as Linux spells them.
_CPU_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "bmi2",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "asimd",
    "sve",
)

_ALWAYS_LISTED = ("FASTXENT_ISA", "FASTXENT_NUM_THREADS")
_PREFIXES = ("FASTXENT_", "OMP_", "NUMBA_")


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model and features; without /proc, what Python knows and no features."""
    import platform

    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    entries: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        entries.setdefault(key.strip(), value.strip())
    flags = entries.get("flags", entries.get("Features", "")).split()
    return {
        "model": entries.get("model name") or platform.processor() or platform.machine(),
        "features": [name for name in _CPU_FEATURES if name in flags],
        "cpus": os.cpu_count(),
        "available_cpus": threads.available_cpus(),
    }


def _python() -> dict[str, Any]:
    import platform
    import sysconfig

    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "executable": sys.executable,
        "platform": platform.platform(),
    }


def _threads() -> dict[str, Any]:
    try:
        limit, origin = threads.limit_and_origin()
    except FastxentError as error:  # a bad variable must not keep the report back
        return {"limit": None, "set_by": str(error)}
    return {"limit": limit, "set_by": origin}


def _backends() -> dict[str, Any]:
    return {name: _backend(name) for name in ORDER}


def _backend(name: str) -> dict[str, Any]:
    try:
        backend = load(name)
    except FastxentError as error:
        return {"able": False, "reason": str(error), "facts": {}}
    reason = backend.why_not()
    return {"able": reason is None, "reason": reason, "facts": backend.info()}


def _adapters() -> dict[str, str]:
    """How adapters that are loaded call the kernels; none is imported to find out."""
    loaded = {name: sys.modules.get(f"fastxent.{name}") for name in _ADAPTERS}
    return {
        name: "not loaded" if module is None else module.info() for name, module in loaded.items()
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _environment() -> dict[str, str | None]:
    listed: dict[str, str | None] = dict.fromkeys(_ALWAYS_LISTED)
    listed |= {name: os.environ[name] for name in os.environ if name.startswith(_PREFIXES)}
    return dict(sorted(listed.items()))


def _without_home(value: Any) -> Any:
    """The same with ~ for the home directory: its path names a person, and reports are public."""
    home = os.path.expanduser("~").rstrip(os.sep)
    if not os.path.isabs(home):
        return value
    below = re.compile(re.escape(home) + r"(?![\w.-])")

    def told(part: Any) -> Any:
        if isinstance(part, str):
            return below.sub("~", part)
        if isinstance(part, list):
            return [told(each) for each in part]
        return {key: told(each) for key, each in part.items()} if isinstance(part, dict) else part

    return told(value)


def collect() -> dict[str, Any]:
    """Gather what `show_config` shows: nested dicts of strings, numbers, bools, lists and None.

    The path of the home directory is ~ in it.
    """
    facts = {
        "fastxent": {"version": __version__},
        "python": _python(),
        "cpu": _cpu(),
        "threads": _threads(),
        "backends": _backends(),
        "runtimes": {"loaded": openmp.loaded(_THREADED)},  # those of the backends, too
        "adapters": _adapters(),
        "layouts": {"copied": list(layout.COPIED)},
        "versions": _versions(),
        "environment": _environment(),
    }
    told: dict[str, Any] = _without_home(facts)
    return told


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _listing(facts: dict[str, Any], indent: str = "") -> list[str]:
    """One line a fact, the values of a dict in one column, inner dicts below their name."""
    labels = {key: key.replace("_", " ") if key.islower() else key for key in facts}
    width = max((len(labels[key]) for key in facts if not isinstance(facts[key], dict)), default=0)
    lines = []
    for key, value in facts.items():
        if not isinstance(value, dict):
            lines.append(f"{indent}{labels[key]:{width}}  {_text(value)}")
        elif value:
            lines += [f"{indent}{labels[key]}", *_listing(value, indent + "  ")]
    return lines


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show versions, CPU, backends and threads: what a bug report should hold.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print a listing, or return the same facts as nested dicts that ``json.dumps`` takes.

    Returns
    -------
    dict or None
        The facts for "dicts", None for "stdout".

    Raises
    ------
    OptionError
        If there is no such mode. Also a ``ValueError``.

    Examples
    --------
    >>> import fastxent as fx
    >>> config = fx.show_config(mode="dicts")
    >>> config["fastxent"]["version"] == fx.__version__
    True
    >>> config["backends"]["numpy"]["able"]
    True
    """
    if checks.check_choice(mode, "mode", ("stdout", "dicts")) == "dicts":
        return collect()
    print("\n".join(_listing(collect())))
    return None
