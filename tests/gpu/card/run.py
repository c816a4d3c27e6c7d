"""All tests that need a card, on all cores, then compute-sanitizer where it is installed.

usage: PYTHONPATH=. python tests/gpu/card/run.py

Ends within ten minutes. What was not reached by then is said, and counts as a failure: the kernels
that were compiled are kept, so another run gets further.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fastxent as fx

HERE = Path(__file__).parent
TESTS = HERE.parent.parent
PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "torch", "cupy-cuda13x")
PACKAGES += ("cupy-cuda12x", "jax", "pytest")
ON_CARD = (TESTS / "gpu" / "card", TESTS / "gpu" / "test_torch_on_card.py")
ON_CARD += (TESTS / "test_conformance.py",)
TOOLS = ("memcheck", "racecheck")
# A process compiles on one core and keeps 500 MB of the card for its context.
MOST_PROCESSES = 16
SECONDS_OF_TESTS, SECONDS_OF_ALL = 440, 590
BEGIN = time.monotonic()


def left(seconds):
    """Seconds until this many have passed since the beginning."""
    return max(1, seconds - (time.monotonic() - BEGIN))


def versions():
    """Print what takes part, the card first."""
    for name, text in fx.show_config("dicts")["backends"]["cuda"]["facts"].items():
        print(name, text)
    for package in PACKAGES:
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "not installed")


def environment():
    """Variables of the processes: where tests are, and that JAX leaves memory to others."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def started(*arguments):
    """Start Python with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment(), text=True, **streams)


def ended(process, seconds):
    """What a process said; it is stopped when its time is over, first politely."""
    for stop in (lambda: process.send_signal(signal.SIGINT), process.kill):
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            stop()
            seconds = 10
    return process.communicate()[0] + "\nkilled: it did not stop"


def tests():
    """Run all parts of the tests at once; whether every one passed, and there were some."""
    parts = min(MOST_PROCESSES, os.cpu_count() or 1)
    options = ("-m", "pytest", "-c", HERE / "pytest.ini", f"--rootdir={TESTS.parent}")
    running = [started(*options, f"--part={part}/{parts}", *ON_CARD) for part in range(parts)]
    # its kernels are then there when the sanitizers need them
    running.append(started(HERE / "sanitized.py"))
    passed = 0
    failed = False
    for number, process in enumerate(running):
        said = ended(process, left(SECONDS_OF_TESTS))
        passed += sum(map(int, re.findall(r"(\d+) passed", said)))
        good = process.returncode == 0 or (process.returncode == 5 and "no tests ran" in said)
        failed |= not good
        print(said if not good else f"{number}: {said.strip().splitlines()[-1:]}", flush=True)
    print(f"{passed} tests passed on the card" + (", and some did not" if failed else ""))
    return passed > 0 and not failed


def sanitized():
    """Run a part of everything under compute-sanitizer; whether it found nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not installed: memory and races were not checked by it")
        return True
    running = {}
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running[tool] = subprocess.Popen(
            [*command, HERE / "sanitized.py"], env=environment(), text=True, **streams
        )
    passed = True
    for tool, process in running.items():
        said = ended(process, left(SECONDS_OF_ALL - 20))
        good = process.returncode == 0
        print(f"compute-sanitizer, {tool}: " + ("passed" if good else f"FAILED\n{said}"))
        passed &= good
    return passed


def main():
    """Run everything; 0 if all of it passed."""
    reason = fx.backends()["cuda"]
    if reason is not None:
        print(f"nothing tested: {reason}")
        return 1
    versions()
    return 0 if all([tests(), sanitized()]) else 1


if __name__ == "__main__":
    sys.exit(main())
