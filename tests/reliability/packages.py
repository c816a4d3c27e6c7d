"""Build sdist and wheel twice, in different places, and look at what is in them.

The sdist must be the same file both times. Whether the wheel is depends on the compiler: that is
told.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from reliability import records

__all__ = ["main", "wheel_faults"]

ROOT = Path(__file__).parents[2]
EXAMPLES = """\
example:
  python -m reliability.packages

Takes as long as to compile the extension twice, some minutes. Needs a C++ compiler, setuptools
and Cython.
"""
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"
# A day of the year 2020, as good as any.
WHEN = "1577836800"
BUILT = (".git", ".venv", ".*_cache", "__pycache__", "build", "dist", "*.egg-info", "*.so")
SUFFIXES = (".py", ".pyi", ".typed", ".so")
METADATA = {"METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt", "top_level.txt"}


def wheel_faults(wheel: Path) -> list[str]:
    """Say what is in a wheel that should not be there, or is missing.

    Parameters
    ----------
    wheel : Path
        The file.

    Returns
    -------
    list of str
        Nothing if all is as it should be.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if name.startswith("fastxent/")}
    about = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    faults = [f"unexpected: {name}" for name in sorted(names - inside - about)]
    faults += [f"unexpected: {name}" for name in sorted(inside) if not name.endswith(SUFFIXES)]
    faults += [f"unexpected: {name}" for name in sorted(about) if Path(name).name not in METADATA]
    libraries = [name for name in inside if name.endswith(".so")]
    if libraries != ["fastxent/backends/_kernels.abi3.so"]:
        faults.append(f"compiled modules: {libraries}")
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastxent").rglob("*.py")}
    faults += [f"missing: {name}" for name in sorted({*sources, "fastxent/py.typed"} - inside)]
    faults += [f"missing: {name}" for name in sorted(METADATA - {Path(n).name for n in about})]
    return faults


def _built(kind: str, tree: Path, out: Path) -> Path:
    """Build an sdist or a wheel from a tree."""
    out.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind=kind), out],
        cwd=tree,
        # a compiler's cache would give the second build what the first made
        env={**os.environ, "SOURCE_DATE_EPOCH": WHEN, "CCACHE_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"no {kind} could be built:\n{done.stderr}")
    return out / done.stdout.split()[-1]


def _unpacked(sdist: Path, where: Path) -> Path:
    where.mkdir(parents=True)
    subprocess.run(["tar", "-xf", sdist, "-C", where], check=True, timeout=60)
    (tree,) = where.iterdir()
    return tree


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Build everything twice, and keep what was found.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0 if the packages are as they should be, else 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="where the record goes")
    arguments = parser.parse_args(argv)
    if not (ROOT / "setup.py").exists():
        print("packages are built from the source tree, which is not here", file=sys.stderr)
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work, records.progress("sdist", 4) as advance:
        first = _built("sdist", ROOT, Path(work) / "first")
        advance(1, "sdist again")
        copy = Path(work) / "a copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*BUILT))
        second = _built("sdist", copy, Path(work) / "second")
        advance(1, "wheel")
        tree = _unpacked(first, Path(work) / "tree")
        wheel = _built("wheel", tree, Path(work) / "wheel")
        advance(1, "wheel again")
        elsewhere = _unpacked(second, Path(work) / "another" / "place")
        again = _built("wheel", elsewhere, Path(work) / "again")
        advance()
        faults = wheel_faults(wheel)
        if _digest(first) != _digest(second):
            faults.append("the sdist made from a copy of the sources is another file")
        figures = {
            "sdist": first.name,
            "wheel": wheel.name,
            "wheel_bytes": wheel.stat().st_size,
            "same_wheel": "the same" if _digest(wheel) == _digest(again) else "another",
        }
    records.keep("packages", figures, not faults, time.monotonic() - began, faults, arguments.out)
    print(f"{figures['sdist']}, {figures['wheel']}: a second wheel is {figures['same_wheel']} file")
    print("\n".join(faults) or "nothing missing, nothing too much")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
