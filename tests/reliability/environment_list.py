"""The environments that fastxent is built and tested in: which Python, packages, compiler, CPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CORE", "SPECIAL", "Build", "Environment", "Python", "environments", "pythons"]

# What says most about a build and the versions beside it, and needs no framework: every option,
# dtype and layout against the reference on every backend, what is refused and how, threads, forks
# and many callers at once, the instruction levels, how the extension was built, the command line.
CORE = (
    "tests/test_conformance.py",
    "tests/test_binary.py",
    "tests/test_build.py",
    "tests/test_cli.py",
    "tests/test_config.py",
    "tests/test_dtypes.py",
    "tests/test_errors.py",
    "tests/test_layouts.py",
    "tests/test_levels.py",
    "tests/test_loss.py",
    "tests/test_numerics.py",
    "tests/test_properties.py",
    "tests/test_scipy_edges.py",
    "tests/test_softmax_backward.py",
    "tests/test_threads.py",
    "tests/test_traps.py",
    "tests/processes/test_callers.py",
    "tests/processes/test_fork.py",
    "tests/processes/test_limits_teams.py",
)
# Without Numba, whose compiler would be emulated too; what a test starts runs on the real CPU.
EMULATED = ("tests/test_conformance.py", "tests/test_binary.py", "tests/test_numerics.py")
# No Numba, and what counts references or asks for packages that are not there is skipped.
THREADED = (*CORE, "tests/test_spare.py")
FRAMEWORKS = (
    "tests/frameworks/test_boosting_lightgbm.py",
    "tests/frameworks/test_boosting_xgboost.py",
    "tests/frameworks/test_jax_loss.py",
    "tests/frameworks/test_sklearn_losses.py",
    "tests/frameworks/test_sklearn_stand_in.py",
    "tests/sharding/test_dask.py",
)
# Names of environments that differ in the compiled code, not in the versions of packages.
SPECIAL = ("no-openmp", "clang", "nehalem")
_FACTS = (
    "import sys, sysconfig; print(*sys.version_info[:2], "
    "int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))), sys._base_executable)"
)


@dataclass(frozen=True)
class Python:
    """An interpreter of this machine."""

    path: Path
    minor: int  # of 3
    threaded: bool  # has no global lock

    @property
    def name(self) -> str:
        """As its command is called: 3.11, 3.14t."""
        return f"3.{self.minor}{'t' if self.threaded else ''}"


@dataclass(frozen=True)
class Build:
    """How a wheel is made."""

    name: str
    constraints: str | None = "constraints.txt"  # versions of what builds it; None for the newest
    variables: tuple[tuple[str, str], ...] = ()
    tool: str | None = None  # a program that has to be there


@dataclass(frozen=True)
class Environment:
    """One clean place to install a wheel in and to run tests."""

    name: str
    python: Python
    build: Build
    constraints: str | None = "constraints.txt"
    extra: str = ""  # of fastxent
    packages: tuple[str, ...] = ()  # besides fastxent and the group `test`
    without: tuple[str, ...] = ()  # packages that cannot be had there
    tests: tuple[str, ...] = CORE
    expression: str = ""  # of pytest's -k
    emulator: tuple[str, ...] = ()  # a command before Python
    expects: tuple[tuple[str, str], ...] = ()  # facts of the extension, as `describe` gives them

    @property
    def missing(self) -> str | None:
        """What has to be installed before it can be tried."""
        for tool in (self.build.tool, *self.emulator[:1]):
            if tool is not None and shutil.which(tool) is None:
                return f"{tool} is not installed: apt-get install {_PACKAGES[tool]}"
        return None


_PACKAGES = {"clang": "clang libomp-dev", "qemu-x86_64": "qemu-user"}
PLAIN = Build("plain")
OLDEST = Build("oldest", "constraints-oldest.txt")
NEWEST = Build("newest", None)
WITHOUT_OPENMP = Build("no-openmp", variables=(("FASTXENT_OPENMP", "0"),))
CLANG = Build("clang", variables=(("CC", "clang"), ("CXX", "clang++")), tool="clang")


def _candidates(given: Sequence[str]) -> Iterator[Path]:
    yield from map(Path, given)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            yield from sorted(Path(folder).glob("python3.*"))
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted((root / "versions").glob("*/bin/python3"))
    yield Path(sys.executable)


def pythons(given: Sequence[str] = ()) -> list[Python]:
    """Find the interpreters from 3.11 on, one of each version, those given before others."""
    found: dict[str, Python] = {}
    for path in _candidates(given):
        if not re.fullmatch(r"python3?(\.\d+t?)?", path.name):
            continue
        try:
            done = subprocess.run(
                [path, "-c", _FACTS], capture_output=True, text=True, timeout=30, check=False
            )
        except OSError:
            continue
        if done.returncode:
            continue
        *facts, base = done.stdout.rstrip("\n").split(" ", 3)
        major, minor, threaded = map(int, facts)
        python = Python(Path(base), minor, bool(threaded))
        if (major, minor) >= (3, 11):
            found.setdefault(python.name, python)
    return sorted(found.values(), key=lambda python: (python.threaded, python.minor))


def environments(found: Sequence[Python]) -> Iterator[Environment]:
    """List all environments that these interpreters allow."""
    usual = [python for python in found if not python.threaded]
    for python in usual:
        yield Environment(f"wheel-{python.name}", python, PLAIN, extra="demo")
    for python in usual:
        yield Environment(
            f"oldest-{python.name}", python, OLDEST, constraints="constraints-oldest.txt"
        )
    for python in usual:
        yield Environment(f"newest-{python.name}", python, NEWEST, constraints=None)
    if usual:
        lowest, highest = usual[0], usual[-1]
        # a compiler makes only the extension: what Numba compiles is the same
        for name, build, expects in (
            ("no-openmp", WITHOUT_OPENMP, (("openmp", "0"),)),
            ("clang", CLANG, (("runtime", "libomp.so.5"),)),
        ):
            yield Environment(
                name, lowest, build, without=("numba",), expression="not numba", expects=expects
            )
        yield Environment(
            "nehalem",
            lowest,
            PLAIN,
            without=("numba",),
            tests=EMULATED,
            expression="not numba",
            emulator=("qemu-x86_64", "-cpu", "Nehalem"),
            expects=(("level", "baseline"),),
        )
        # JAX 0.6 wants a later ml_dtypes than the tests do: the first that there is for 3.13
        yield Environment(
            "oldest-frameworks",
            highest,
            OLDEST,
            constraints="constraints-oldest.txt",
            packages=("jax", "scikit-learn", "xgboost-cpu", "lightgbm", "dask[array]", "optax"),
            tests=FRAMEWORKS,
        )
    for python in found:
        if python.threaded:
            yield Environment(
                f"threaded-{python.name}",
                python,
                NEWEST,
                constraints=None,
                without=("numba",),
                tests=THREADED,
                expects=(("lock", "off"),),
            )
