"""The source distribution: the same file from the same sources, nothing in it that was built."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MISSING = [name for name in ("setuptools", "Cython") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the source tree is not here"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
BUILT = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info")
BUILT += ("*.so", "*.o")


def sdist(tree, umask, time, **environment):
    """Copy the sources to a directory, with files of that age, and pack them there."""
    before = os.umask(umask)
    try:
        shutil.copytree(
            ROOT, tree, ignore=shutil.ignore_patterns(*BUILT), copy_function=shutil.copy
        )
        for path in [tree, *tree.rglob("*")]:
            os.utime(path, (time, time))
        out = tree.parent / f"{tree.name}-out"
        subprocess.run(
            [sys.executable, "-c", BUILD, out],
            cwd=tree,
            env={name: os.environ[name] for name in os.environ if name != "SOURCE_DATE_EPOCH"}
            | environment,
            capture_output=True,
            timeout=300,
            check=True,
        )
    finally:
        os.umask(before)
    (packed,) = out.iterdir()
    return packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return sdist(tmp_path_factory.mktemp("one") / "tree", 0o022, 1_700_000_000)


def test_sdist_is_the_same_from_another_place_time_and_umask(packed, tmp_path):
    other = sdist(tmp_path / "deeper" / "another tree", 0o077, 1_600_000_000)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (packed, other)]
    assert digests[0] == digests[1]
    assert packed.name == other.name


def test_sdist_takes_the_time_that_is_given(tmp_path):
    dated = sdist(tmp_path / "tree", 0o022, 1_700_000_000, SOURCE_DATE_EPOCH="1500000000")
    with tarfile.open(dated) as archive:
        assert {member.mtime for member in archive} == {1_500_000_000}


def test_sdist_holds_sources_and_no_more(packed):
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    needed = {"LICENSE", "SECURITY.md", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py"}
    needed |= {"constraints.txt", "src_cython/_kernels.pyx", "src_cython/kernels.cpp"}
    needed |= {"fastxent/py.typed", "fastxent/backends/_kernels.pyi", "tests/conftest.py"}
    assert needed <= names
    tested = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tested <= names
    built = (".so", ".pyc", ".o", ".orig", ".nbc", ".whl", "_kernels.cpp")
    assert not [name for name in names if name.endswith(built)]
    assert not [name for name in names if name.startswith((".", "build/", "dist/"))]
    for member in members:
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mode in (0o644, 0o755)
        assert member.isdir() or member.isfile()
