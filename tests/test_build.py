"""How the extension was built: protected as compilers can; and the versions told are true."""

import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
REASON = fx.backends()["cython"]
compiled = pytest.mark.skipif(REASON is not None, reason=str(REASON))
x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="protection that only x86-64 has"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the extension is no ELF file")


def library():
    from fastxent.backends import _kernels

    return _kernels.__file__


def readelf(*options):
    path = shutil.which("readelf")
    if path is None:
        pytest.skip("readelf (binutils) is not installed")
    return subprocess.run(
        [path, "--wide", *options, library()], capture_output=True, text=True, check=True
    ).stdout


def imported():
    """Functions that the loader has to find elsewhere."""
    return set(re.findall(r" UND (\w+)", readelf("--dyn-syms")))


@compiled
@linux
def test_nothing_that_is_executed_can_be_written():
    segments = readelf("--segments")
    rights = re.findall(r"^ +(\w+) +0x\w+ 0x\w+ 0x\w+ 0x\w+ 0x\w+ ([RWE ]{3})", segments, re.M)
    assert ("GNU_STACK", "RW ") in rights
    assert not [kind for kind, right in rights if "W" in right and "E" in right]


@compiled
@linux
def test_function_pointers_are_read_only_once_loaded():
    assert "GNU_RELRO" in readelf("--segments")
    flags = re.findall(r"\((?:FLAGS|FLAGS_1)\) .*", readelf("--dynamic"))
    # without it the table of imported functions stays writable, relro or not
    assert any("NOW" in line for line in flags), flags


@compiled
@linux
def test_no_library_is_looked_for_in_a_fixed_folder_and_no_code_is_relocated():
    dynamic = readelf("--dynamic")
    assert "NEEDED" in dynamic
    assert not re.findall(r"RPATH|RUNPATH|TEXTREL", dynamic)


@compiled
@linux
def test_stack_and_copies_are_checked():
    functions = imported()
    assert "__stack_chk_fail" in functions
    # text for XLA's errors: formatted by the function that knows how long the buffer is
    assert "__vsnprintf_chk" in functions
    assert "vsnprintf" not in functions


@compiled
@linux
@x86
def test_jumps_land_where_they_may():
    """Functions that are called through pointers begin with the mark that such a jump must find.

    The mark of the whole file is not asked for: it takes start files of the system that have it.
    """
    path = shutil.which("objdump")
    if path is None:
        pytest.skip("objdump (binutils) is not installed")
    listing = subprocess.run(
        [path, "-d", "--no-show-raw-insn", library()], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"<PyInit__kernels>:\n.*\tendbr64", listing)
    # 3 are those of the start files
    assert len(re.findall(r"\tendbr64", listing)) > 100


@compiled
def test_one_file_serves_every_python_with_a_lock():
    threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    assert Path(library()).name.endswith(".abi3.so") == (not threaded)


@compiled
def test_python_stays_without_a_lock():
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python has a global lock")
    code = "import sys, fastxent; fastxent.backends(); assert not sys._is_gil_enabled()"
    # a module that does not declare itself safe switches the lock on, with a warning
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)


def requirements(project):
    """All requirements of pyproject.toml: of fastxent, its extras and its groups."""
    found = list(project["build-system"]["requires"]) + list(project["project"]["dependencies"])
    for several in project["project"]["optional-dependencies"].values():
        found += several
    for several in project["dependency-groups"].values():
        found += [one for one in several if isinstance(one, str)]
    return found


def test_the_oldest_versions_that_are_tested_are_those_that_are_told():
    packaging = pytest.importorskip("packaging.requirements", reason="parses requirements")
    version = pytest.importorskip("packaging.version", reason="compares versions").Version
    if not (ROOT / "constraints-oldest.txt").exists():
        pytest.skip("constraints-oldest.txt is not beside tests/: not a source tree")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest_python = project["project"]["requires-python"].removeprefix(">=")
    there = {"python_version": lowest_python, "python_full_version": f"{lowest_python}.0"}
    tested = {}
    for line in (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            held = packaging.Requirement(line)
            if held.marker is None or held.marker.evaluate(there):
                number = str(held.specifier).removeprefix("==").removesuffix(".*")
                tested[held.name.lower()] = version(number)
    told = {}
    for text in requirements(project):
        wanted = packaging.Requirement(text)
        lowest = re.search(r">=([\d.]+)", str(wanted.specifier))
        if lowest:
            told.setdefault(wanted.name.lower(), set()).add(version(lowest[1]))
    needed = {"numpy", "numba", "setuptools", "cython", "build"}
    needed |= {
        packaging.Requirement(text).name.lower() for text in project["dependency-groups"]["test"]
    }
    assert needed <= set(tested)
    known = {name: told[name] for name in tested if name in told}
    assert known == {name: {tested[name]} for name in known}


@pytest.mark.parametrize("level", ["baseline", "v3", "v4"])
def test_no_size_is_cut_to_32_bits(level):
    """Of the kernels' own code; GCC has no warning for this."""
    path, source = shutil.which("clang++"), ROOT / "src_cython" / "kernels.cpp"
    if path is None or not source.exists() or platform.machine() != "x86_64":
        pytest.skip("needs Clang, the source tree and x86-64")
    flags = [] if level == "baseline" else [f"-march=x86-64-{level}"]
    strict = ["-std=c++17", "-fsyntax-only", "-Werror=shorten-64-to-32", "-Werror=sign-compare"]
    done = subprocess.run(
        [path, *strict, *flags, f"-DFASTXENT_LEVEL={level}", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
