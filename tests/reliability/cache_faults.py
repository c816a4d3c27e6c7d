"""Harm the cache of compiled kernels in every way there is, and call a kernel in a new process.

A process must end well, with the right result, and never with a kernel that was not written for
it; the next one must find the cache in order again, where that is possible at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fastxent.backends import disk_cache
from fastxent.backends.numba_cpu import cache
from reliability import cache_children, cache_damage, records
from reliability.cache_children import COMPILED, LOADED

__all__ = ["main"]

EXAMPLES = """\
example:
  python -m reliability.cache_faults
  python -m reliability.cache_faults --rounds 1 --only 3 --step 1000

Takes a quarter of an hour on two cores. Some faults need root: as another user they are left out.
"""

# What one process gets another kernel for than the next: none may load that of the other.
OTHERS: dict[str, Mapping[str, object]] = {
    "another CPU": {"NUMBA_CPU_NAME": "haswell"},
    "other features of the CPU": {"NUMBA_CPU_FEATURES": "+sse2,+avx,+avx2,+fma"},
    "less optimisation": {"NUMBA_OPT": 1},
    "checked bounds": {"NUMBA_BOUNDSCHECK": 1},
}
# Only the cache sees these: libraries refuse to work with versions that are none.
VERSIONS = {
    f"another {name}": "import types; from fastxent.backends.numba_cpu import cache; "
    f"cache.{module} = types.SimpleNamespace({attribute}='9.9')"
    for name, module, attribute in (
        ("llvmlite", "llvmlite", "__version__"),
        ("NumPy", "np", "__version__"),
        ("Python", "sys", "version"),
    )
}
VERSIONS["another Numba"] = "import numba; numba.__version__ = '9.9'"
PROCESSES = 8

# What a fault found wrong: nothing is what is wanted.
Check = Callable[[], list[str]]


class Faults:
    """The faults, each with a copy of a cache that one process has filled."""

    def __init__(self, work: Path, kernel: str) -> None:
        self._work, self._kernel, self.processes = work, kernel, 0
        self.filled = work / "filled"
        (first,) = self._ways({"FASTXENT_CACHE_DIR": self.filled}, 1)
        if first != COMPILED:
            raise SystemExit(f"no cache was made: {first}")

    def _ways(self, environment: Mapping[str, object], times: int, **options: object) -> list[str]:
        self.processes += times
        outcomes = [cache_children.call(environment, self._kernel, **options) for _ in range(times)]
        return [
            outcome.way if outcome.warnings <= 1 else f"{outcome.warnings} warnings"
            for outcome in outcomes
        ]

    def _copy(self) -> Path:
        return Path(shutil.copytree(self.filled, Path(tempfile.mkdtemp(dir=self._work)) / "copy"))

    def _faults(self, wanted: list[str], environment: Mapping[str, object], **options) -> list[str]:
        found = self._ways(environment, len(wanted), **options)
        return [] if found == wanted else [f"{found} instead of {wanted}"]

    def _damaged(self, damage: cache_damage.Damage, of_file: bool) -> list[str]:
        place = self._copy()
        (file,) = place.glob("numba-*/CHECK_LABELS-*.nbc")
        damage.inflict(file if of_file else file.parent)
        after = LOADED if damage.recovers else COMPILED
        return self._faults([COMPILED, after], {"FASTXENT_CACHE_DIR": place})

    def _other(self, environment: Mapping[str, object], preparation: str = "") -> list[str]:
        place: Mapping[str, object] = {"FASTXENT_CACHE_DIR": self._copy()}
        both = place | environment
        return [
            *self._faults([COMPILED, LOADED], both, preparation=preparation),
            *self._faults([LOADED], place),
        ]

    def _cold(self, kernel: str) -> list[str]:
        place = {"FASTXENT_CACHE_DIR": Path(tempfile.mkdtemp(dir=self._work)) / "cold"}
        started = [cache_children.start(place, kernel) for _ in range(PROCESSES)]
        ways = [cache_children.finish(process) for process in started]
        self.processes += PROCESSES
        wrong = [way for way, _, _ in ways if way not in (LOADED, COMPILED)]
        left = [path.name for path in place["FASTXENT_CACHE_DIR"].glob("numba-*/*.part")]
        return [*wrong, *left, *self._faults([LOADED], place)] if kernel == self._kernel else wrong

    def _nowhere(self) -> Iterator[tuple[str, Check]]:
        file = self._work / "file"
        file.touch()
        loop = self._work / "loop"
        loop.symlink_to(loop)
        for name, place in {
            "is a file": file,
            "is below a file": file / "below",
            "is a loop of links": loop,
            "has too long a name": self._work / ("x" * 300),
            "cannot be made": Path("/proc/nowhere"),
        }.items():
            told = {"FASTXENT_CACHE_DIR": place}
            yield (
                f"the directory asked for {name}",
                lambda told=told: self._faults([COMPILED], told),
            )
        homes = {
            "is not set": {"HOME": None},
            "does not exist": {"HOME": "/proc/nowhere"},
            "is read-only": {"HOME": "/"},
        }
        stranger = cache_children.stranger()
        if stranger is not None:
            for name, home in homes.items():
                yield (
                    f"the home directory {name}, for a user who can write nowhere",
                    lambda home=home: self._faults([COMPILED], home, before=stranger),
                )
        if os.geteuid() == 0 and shutil.which("unshare"):
            yield "the disk is full", self._full_disk
        yield "a file cannot grow", self._no_growth

    def _full_disk(self) -> list[str]:
        disk = self._work / "disk"
        disk.mkdir()
        # in a mount namespace of its own: the disk is gone with the process
        mounted = f'mount -t tmpfs -o size=8k,mode=700 full "{disk}" && exec "$@"'
        before = ["unshare", "--mount", "sh", "-c", mounted, "sh"]
        return self._faults([COMPILED], {"FASTXENT_CACHE_DIR": disk / "cache"}, before=before)

    def _no_growth(self) -> list[str]:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
        place = {"FASTXENT_CACHE_DIR": Path(tempfile.mkdtemp(dir=self._work)) / "small"}
        return [
            *self._faults([COMPILED, COMPILED], place, preparation=limit),
            *self._faults([COMPILED, LOADED], place),
        ]

    def all(self, rounds: int) -> Iterator[tuple[str, Check]]:
        """Give each fault's name, and what inflicts it and looks."""
        for damage in cache_damage.applicable(cache_damage.FILE):
            yield f"file: {damage.name}", lambda damage=damage: self._damaged(damage, True)
        for damage in cache_damage.applicable(cache_damage.DIRECTORY):
            yield f"directory: {damage.name}", lambda damage=damage: self._damaged(damage, False)
        yield from self._nowhere()
        for name, environment in OTHERS.items():
            yield f"for {name}", lambda environment=environment: self._other(environment)
        for name, code in VERSIONS.items():
            yield f"of {name}", lambda code=code: self._other({}, f"{code}\n")
        for number in range(rounds):
            kernel = "softmax" if number == 0 else self._kernel
            yield (
                f"{PROCESSES} processes at once, round {number + 1}",
                lambda kernel=kernel: self._cold(kernel),
            )

    def altered_bytes(self, step: int) -> tuple[int, list[str]]:
        """Alter one byte after the other of a kernel's file; none may be read as a kernel."""
        place = self._copy()
        (file,) = place.glob("numba-*/CHECK_LABELS-*.nbc")
        good, stamp = file.read_bytes(), cache.stamp()
        tried, faults = 0, []
        for at in cache_damage.bytes_of_regions(len(good), step):
            for wrong in (
                good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :],
                good[:at],
            ):
                file.write_bytes(wrong)
                tried += 1
                if disk_cache.read(file, stamp) is not None:
                    faults.append(f"a file with byte {at} altered, or cut there, was read")
        file.write_bytes(good)
        if disk_cache.read(file, stamp) is None:
            faults.append("the file as it was is not read")
        return tried, faults


def main(argv: list[str] | None = None) -> int:
    """Inflict all faults, and keep how many were survived.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0 if all were survived, else 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="cold starts of 8 processes at once")
    parser.add_argument("--step", type=int, default=1, help="alter only one byte in so many")
    parser.add_argument("--only", type=int, help="only so many of the faults")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="where the record goes")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    survived, wrong = 0, []
    with tempfile.TemporaryDirectory() as work:
        faults = Faults(Path(work), "labels")
        todo = list(faults.all(arguments.rounds))[: arguments.only]
        with records.progress("faults", len(todo) + 1) as advance:
            for name, check in todo:
                advance(0, name)
                found = check()
                survived += not found
                wrong += [f"{name}: {fault}" for fault in found]
                advance()
            advance(0, "altered bytes")
            altered, found = faults.altered_bytes(arguments.step)
            advance()
        wrong += found
    seconds = time.monotonic() - began
    figures = {
        "faults": len(todo),
        "survived": survived,
        "processes": faults.processes,
        "altered_files": altered,
        "cold_rounds": sum("processes at once" in name for name, _ in todo),
        "cold_processes": PROCESSES,
    }
    records.keep("cache_faults", figures, not wrong, seconds, wrong, arguments.out)
    print(f"{len(todo)} faults in {faults.processes} processes, {altered} files altered")
    print("\n".join(wrong) or "all survived")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
