"""Builds the extension: one C++ source, compiled once per instruction level into one module.

Everything else is in pyproject.toml. FASTXENT_OPENMP=0 in the environment builds without OpenMP.
"""

from __future__ import annotations

import gzip
import os
import platform
import sysconfig
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, LinkError

SOURCES = Path("src_cython")
KERNELS = SOURCES / "kernels.cpp"
HANDLERS = SOURCES / "jax_handlers.c"  # XLA calls C
# -ffast-math and its relatives never: linked in, they switch off subnormals for the whole process.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",  # Python's own flags say -g, which makes 9 MB of it
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # fused where lanes.hpp says so: the same bits on every level with FMA
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wvla",
    # GCC 12 says both of its own header: __Y = __Y in avx512fintrin.h
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
]
C_FLAGS = ["-std=c11", "-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Against what an overflow could do; of these, those that the compiler knows.
PROTECTION = [
    "-U_FORTIFY_SOURCE",  # some distributions' Pythons say =2
    "-D_FORTIFY_SOURCE=3",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection=full",
]
# No function pointer that the loader fills in stays writable, and no stack is executable.
LINK_PROTECTION = [
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,noexecstack",
    "-fno-openmp-implicit-rpath",  # Clang writes the folder of its libomp into what it links
]
# -mprefer-vector-width: GCC otherwise splits 64-byte vectors in two on some CPUs
LEVELS = {
    "baseline": [],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
OPENMP = "-fopenmp"


class BuildLevels(build_ext):
    """Compiles kernels.cpp for each level that the compiler knows, and links them together."""

    def build_extension(self, ext: Extension) -> None:
        openmp = [OPENMP] if self._has_openmp() else []
        protection = [flag for flag in PROTECTION if self._compiles([flag])]
        link_protection = [flag for flag in LINK_PROTECTION if self._compiles([flag], link=True)]
        levels = {"baseline": LEVELS["baseline"]}
        if platform.machine().lower() in ("x86_64", "amd64"):
            levels |= {name: flags for name, flags in LEVELS.items() if self._compiles(flags)}
        with ThreadPoolExecutor() as pool:  # ten seconds a level
            objects = pool.map(
                lambda name: self.compiler.compile(
                    [str(KERNELS)],
                    output_dir=str(Path(self.build_temp) / name),
                    macros=[("FASTXENT_LEVEL", name)],
                    extra_postargs=FLAGS + protection + openmp + levels[name],
                ),
                levels,
            )
            ext.extra_objects += [path for paths in objects for path in paths]
        ext.extra_objects += self.compiler.compile(
            [str(HANDLERS)], output_dir=self.build_temp, extra_postargs=C_FLAGS + protection
        )
        ext.define_macros += [(f"FASTXENT_HAVE_{name.upper()}", "1") for name in levels]
        # the module itself is Cython's code: its unused parameters are not ours to warn about
        ext.extra_compile_args = [f for f in FLAGS if f != "-Wextra"] + protection + openmp
        ext.extra_link_args = [*openmp, *link_protection, "-Wl,--as-needed"]
        super().build_extension(ext)

    def _compiles(self, flags: list[str], source: str = "", link: bool = False) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "probe.cpp"
            program.write_text(f"{source}\nint main() {{ return 0; }}\n")
            try:
                objects = self.compiler.compile([str(program)], folder, extra_postargs=flags)
                if link:
                    self.compiler.link_executable(
                        objects, "probe", folder, extra_postargs=flags, target_lang="c++"
                    )
            except (CompileError, LinkError):
                return False
        return True

    def _has_openmp(self) -> bool:
        if os.environ.get("FASTXENT_OPENMP", "1") == "0":
            return False
        found = self._compiles([OPENMP], "#include <omp.h>", link=True)
        if not found:
            self.warn("OpenMP was not found: the compiled backend will use one thread")
        return found


# The time of all files of an sdist, the first that a zip file can hold, too.
NO_TIME = 315532800


class SameSdist(sdist):
    """Packs the same sources into the same file: without times, owners and the maker's modes."""

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        if format != "gztar" or base_dir is None:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        when = int(os.environ.get("SOURCE_DATE_EPOCH", NO_TIME))

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)
        return str(path)


# One wheel for CPython 3.11 and later; free-threaded builds have no limited API yet.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cmdclass={"build_ext": BuildLevels, "sdist": SameSdist},
    ext_modules=[
        Extension(
            "fastxent.backends._kernels",
            sources=[
                str(SOURCES / name) for name in ("_kernels.pyx", "levels.cpp", "jax_calls.cpp")
            ],
            depends=[
                *("setup.py", str(KERNELS), str(HANDLERS)),
                *map(str, sorted(SOURCES.glob("*.[hp]*"))),
            ],
            include_dirs=[str(SOURCES)],
            language="c++",
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
            py_limited_api=LIMITED_API,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
