"""Wheels made from a copy of the source, clean environments to install them in, tests run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability.environment_list import Build, Environment, Python

__all__ = ["Broken", "Outcome", "Workshop"]

ROOT = Path(__file__).parents[2]
MINUTES = 60  # for one command
# What tests read besides themselves and the installed package.
BESIDE = ("tests", "pyproject.toml", "README.md", "constraints.txt", "constraints-oldest.txt")
# Run inside: where the package came from, what it was built with, what stands beside it.
DESCRIBE = """
import json, re, sys
from importlib.metadata import distributions
from pathlib import Path
import fastxent
from fastxent.backends import _kernels
assert Path(fastxent.__file__).is_relative_to(sys.prefix), fastxent.__file__
assert fastxent.backends()["cython"] is None, fastxent.backends()["cython"]
RUNTIMES = r"lib[gi]?omp[^/]*\\.so\\.[0-9]+"
maps = Path("/proc/self/maps").read_text()
print(json.dumps({
    "python": sys.version.split()[0],
    "packages": {one.name.lower().replace("_", "-"): one.version for one in distributions()},
    "level": _kernels.level(),
    "openmp": str(_kernels.openmp_version()),
    "runtime": ", ".join(sorted(set(re.findall(RUNTIMES, maps)))) or "none",
    "lock": "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off",
}))
"""


class Broken(Exception):
    """An environment could not be made, or something in it failed; the text says what."""


@dataclass
class Outcome:
    """What happened in one environment."""

    facts: dict[str, Any] = field(default_factory=dict)
    passed: int = 0
    skipped: int = 0
    fault: str = ""


class Workshop:
    """A temporary folder in which wheels and environments are made; output goes to its logs.

    `builder`, the lowest Python, makes the wheel that every CPython with a lock takes.
    """

    def __init__(self, folder: Path, builder: Python) -> None:
        self.folder, self.builder = folder, builder
        self.tree = folder / "tree"
        self._wheels: dict[tuple[Build, str], Path] = {}
        self._copy_source()

    def log_of(self, name: str) -> Path:
        """Give the file with all output of an environment or build."""
        return self.folder / f"{name}.log"

    def _copy_source(self) -> None:
        """Copy what git knows, so that nothing built earlier in the tree reaches the wheel."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise Broken("the source is not a git repository: which files belong to it is unknown")
        for name in filter(None, listed.stdout.split("\0")):
            source, target = ROOT / name, self.tree / name
            if source.is_file():  # one that was deleted is still listed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def run(
        self,
        log: str,
        command: Sequence[str | Path],
        where: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command, add its output to a log, give its stdout.

        Raises
        ------
        Broken
            If it fails or takes longer than `MINUTES`.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FASTXENT_", "PYTEST_", "NUMBA_", "OMP_", "PYTHON"))
        }
        # compiled kernels are kept for other environments with the same Numba, not for the user
        environment["FASTXENT_CACHE_DIR"] = str(self._cache())
        words = [str(word) for word in command]
        with self.log_of(log).open("a", encoding="utf-8") as output:
            output.write(f"\n$ {' '.join(words)}\n")
            output.flush()
            try:
                done = subprocess.run(
                    words,
                    cwd=where or self.folder,
                    env=environment | dict(variables or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    text=True,
                    timeout=60 * MINUTES,
                    check=False,
                )
            except subprocess.TimeoutExpired as late:
                raise Broken(f"took longer than {MINUTES} minutes: {' '.join(words)}") from late
            output.write(done.stdout)
        if done.returncode:
            last = "\n".join(self.log_of(log).read_text(encoding="utf-8").splitlines()[-15:])
            raise Broken(f"exit code {done.returncode}: {' '.join(words)}\n{last}")
        return done.stdout

    def _cache(self) -> Path:
        place = self.folder / "compiled"
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    def _venv(self, log: str, python: Python, name: str) -> Path:
        """Make an empty environment with a pip that knows dependency groups."""
        place = self.folder / name
        self.run(log, [python.path, "-m", "venv", "--clear", place])
        inside = place / "bin" / "python"
        self.run(log, [inside, "-m", "pip", "install", "-q", "--upgrade", "pip"])
        return inside

    def _pip(self, log: str, python: Path, constraints: str | None, *wanted: str) -> None:
        held = [] if constraints is None else ["--constraint", constraints]
        self.run(
            log,
            [python, "-m", "pip", "install", "-q", "--prefer-binary", *held, *wanted],
            where=self.tree,
        )

    def wheel(self, build: Build, python: Python) -> Path:
        """Build sdist and wheel, once for each build: one serves every CPython with a lock."""
        key = build, python.name if python.threaded else "abi3"
        if key not in self._wheels:
            name = f"build-{build.name}{'-' + python.name if python.threaded else ''}"
            inside = self._venv(name, python if python.threaded else self.builder, name)
            self._pip(name, inside, build.constraints, "--group", "build")
            place = self.folder / f"dist-{name}"
            self.run(
                name,
                [inside, "-m", "build", "--no-isolation", "--outdir", place, self.tree],
                variables=dict(build.variables),
            )
            (self._wheels[key],) = place.glob("*.whl")
        return self._wheels[key]

    def install(self, wanted: Environment, wheel: Path) -> Path:
        """Make the environment: the wheel, the packages of the tests, and nothing of the source."""
        inside = self._venv(wanted.name, wanted.python, wanted.name)
        if not wanted.without:
            extra = f"[{wanted.extra}]" if wanted.extra else ""
            self._pip(wanted.name, inside, wanted.constraints, f"{wheel}{extra}")
        else:
            self._pip(wanted.name, inside, wanted.constraints, "--no-deps", str(wheel))
            self._pip(wanted.name, inside, wanted.constraints, "numpy")
        self._pip(wanted.name, inside, wanted.constraints, "--group", "test", *wanted.packages)
        return inside

    def test(self, wanted: Environment, inside: Path, tests: Sequence[str]) -> Outcome:
        """Run tests where the source tree is absent."""
        place = self.folder / f"tests-{wanted.name}"
        for name in BESIDE:
            source = self.tree / name
            if source.is_dir():
                shutil.copytree(source, place / name)
            elif source.exists():
                place.mkdir(exist_ok=True)
                shutil.copy2(source, place / name)
        command = [*wanted.emulator, inside, "-P"]  # -P: the current folder is not on the path
        facts = json.loads(self.run(wanted.name, [*command, "-c", DESCRIBE], place))
        for fact, expected in wanted.expects:
            if facts[fact] != expected:
                raise Broken(f"{fact} is {facts[fact]!r}, expected {expected!r}")
        report = self.folder / f"{wanted.name}.xml"
        chosen = ["-k", wanted.expression] if wanted.expression else []
        self.run(
            wanted.name,
            [*command, "-m", "pytest", "-q", "-x", f"--junitxml={report}", *chosen, *tests],
            place,
        )
        counts = ElementTree.parse(report).getroot().find("testsuite")
        if counts is None:
            raise Broken("pytest wrote no report")
        ran, skipped = int(counts.attrib["tests"]), int(counts.attrib["skipped"])
        return Outcome(facts, ran - skipped, skipped)

    def result(self, wanted: Environment, tests: Sequence[str]) -> Outcome:
        """Build, install, test; a failure is an outcome, too."""
        try:
            wheel = self.wheel(wanted.build, wanted.python)
            inside = self.install(wanted, wheel)
            outcome = self.test(wanted, inside, tests)
        except Broken as error:
            return Outcome(fault=str(error))
        if outcome.passed == 0:
            outcome.fault = "no test passed"
        # an environment takes half a gigabyte
        shutil.rmtree(self.folder / wanted.name)
        return outcome
