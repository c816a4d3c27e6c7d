"""Builds of the kernels that watch themselves: native programs, and the extension.

They lie in `build/sanitize/`, each in a folder named after what it was built from: nothing is
built twice.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reliability.tools import ROOT, need, run

__all__ = ["LEVELS", "NATIVE", "Build", "levels_here", "sanitized_package"]

NATIVE = Path(__file__).parent / "native"
KERNELS = ROOT / "src_cython"
BUILDS = ROOT / "build" / "sanitize"

# As in setup.py: what the numbers depend on. Optimised little, for reports that name lines.
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-fno-omit-frame-pointer"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)
# Clang inlines a kernel into one function, and each access in it into checks: allocating registers
# there took more than 20 minutes and 4 GB. With checks that are called and the allocator of -O0 it
# takes 5 minutes and 1 GB.
QUICKLY = (
    *("-mllvm", "-asan-instrumentation-with-call-threshold=0"),
    *("-mllvm", "-regalloc=fast", "-mllvm", "-optimize-regalloc=0"),
)
LEVELS = {
    "baseline": (),
    "v3": ("-march=x86-64-v3",),
    "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}


def levels_here() -> list[str]:
    """Names of the instruction levels that this CPU runs, lowest first."""
    from fastxent.backends import _kernels

    built, supported = _kernels.levels()
    return [name for name in built[:supported] if name in LEVELS]


def _folder(words: Sequence[str], sources: Sequence[Path]) -> Path:
    digest = hashlib.sha256("\n".join(words).encode())
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return BUILDS / digest.hexdigest()[:16]


def _sources(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.glob("*.[hcp]*") if path.is_file()]


@dataclass(frozen=True)
class Build:
    """A native program: one level's kernels and one of the programs of `native/`.

    The level is built under the name of the lowest, which needs no test of the CPU.
    """

    compiler: str
    program: str
    level: str
    kernel_flags: tuple[str, ...] = ()
    program_flags: tuple[str, ...] = ()
    openmp: bool = False

    def path(self) -> Path:
        """Compile it, unless that is done already."""
        compiler = need(self.compiler)
        flags = [*FLAGS, *LEVELS[self.level], "-DFASTXENT_LEVEL=baseline"]
        flags += ["-fopenmp"] if self.openmp else []
        flags += QUICKLY if self.compiler == "clang++" else []
        words = [compiler, *flags, *self.kernel_flags, "|", self.program, *self.program_flags]
        folder = _folder(words, _sources(KERNELS, NATIVE))
        program = folder / self.program
        if program.exists():
            return program
        folder.mkdir(parents=True, exist_ok=True)
        sources = {
            "kernels.o": (KERNELS / "kernels.cpp", self.kernel_flags),
            "levels.o": (KERNELS / "levels.cpp", self.kernel_flags),
            "program.o": (NATIVE / f"{self.program}.cpp", self.program_flags),
        }

        def compiled(name: str) -> Path:
            source, own = sources[name]
            own = own or self.kernel_flags
            words = [*_cached(compiler), *flags, *own, "-Wall", "-Wextra", f"-I{KERNELS}"]
            run([*words, "-c", source, "-o", folder / name], timeout=7200)
            return folder / name

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, sources))
        linked = [
            compiler,
            *flags,
            *(self.program_flags or self.kernel_flags),
            *objects,
            "-pthread",
        ]
        run([*linked, "-o", folder / "unfinished"], timeout=600)
        return (folder / "unfinished").rename(program)


def _cached(compiler: str) -> list[str]:
    cache = shutil.which("ccache")
    return [compiler] if cache is None else [cache, compiler]


def sanitized_package(level: str, flags: Sequence[str]) -> Path:
    """Build the extension of one level with more compiler flags, beside a copy of the package.

    Parameters
    ----------
    level : str
        A name of `LEVELS`; the extension calls it baseline.
    flags : sequence of str
        What the compiler is told after all else.

    Returns
    -------
    Path
        A folder for PYTHONPATH.
    """
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", *LEVELS[level], *flags]
    folder = _folder(flags, [*_sources(KERNELS), ROOT / "setup.py"])
    place = folder / "package"
    library = folder / "library" / "fastxent" / "backends"
    if not list(library.glob("_kernels*.so")):
        _build_extension(folder, flags)
    shutil.rmtree(place, ignore_errors=True)
    left_out = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fastxent", place / "fastxent", ignore=left_out)
    for built in library.glob("_kernels*.so"):
        shutil.copy2(built, place / "fastxent" / "backends")
    return place


def _build_extension(folder: Path, flags: Sequence[str]) -> None:
    # setup.py says -O3 -g0 after the environment's flags: a compiler that adds its own has the last
    # word. It knows no levels, so that there is one, which takes 1 GB to compile, and not three.
    wrappers = folder / "compilers"
    wrappers.mkdir(parents=True, exist_ok=True)
    for name in ("gcc", "g++"):
        wrapper = wrappers / name
        command = " ".join([*_cached(need(name)), '"$@"', *flags])
        refusal = 'case "$*" in *-march=x86-64-v*) exit 1;; esac'
        wrapper.write_text(f"#!/bin/sh\n{refusal}\nexec {command}\n", encoding="utf-8")
        wrapper.chmod(0o755)
    build = [sys.executable, "setup.py", "-q", "build_ext"]
    build += ["--build-lib", str(folder / "library"), "--build-temp", str(folder / "objects")]
    run(build, timeout=7200, CC=str(wrappers / "gcc"), CXX=str(wrappers / "g++"))
