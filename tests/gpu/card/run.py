"""All tests that need a card, on all cores, then compute-sanitizer where it is installed.

usage: PYTHONPATH=. python tests/gpu/card/run.py
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fastxent as fx

HERE = Path(__file__).parent
TESTS = HERE.parent.parent
PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "torch", "cupy-cuda13x")
PACKAGES += ("cupy-cuda12x", "jax", "pytest")
# A process compiles on one core and keeps 500 MB of the card for its context.
MOST_PROCESSES = 12
# Tests that need a card, by what selects those of them that do.
ON_CARD = (
    [TESTS / "gpu" / "card", TESTS / "gpu" / "test_torch_on_card.py"],
    [TESTS / "test_conformance.py", "-k", "cuda"],
)
TOOLS = ("memcheck", "racecheck")


def versions():
    """Print what takes part, the card first."""
    for name, text in fx.show_config("dicts")["backends"]["cuda"].items():
        print(name, text)
    for package in PACKAGES:
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "not installed")


def tests():
    """Run all parts of the tests at once; whether every one passed."""
    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    running = []
    for selected in ON_CARD:
        for part in range(processes):
            command = [sys.executable, "-m", "pytest", "-c", HERE / "pytest.ini"]
            command += [f"--rootdir={TESTS.parent}", f"--part={part}/{processes}", *selected]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    passed = True
    for process in running:
        said, _ = process.communicate()
        no_tests = process.returncode == 5
        passed &= process.returncode == 0 or no_tests
        print(said.strip().splitlines()[-1] if process.returncode in (0, 5) else said, flush=True)
    return passed


def sanitized():
    """Run a part of everything under compute-sanitizer; whether it found nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not installed: memory and races were not checked by it")
        return True
    passed = True
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable]
        done = subprocess.run([*command, HERE / "sanitized.py"], check=False)
        print(f"compute-sanitizer, {tool}: {'passed' if done.returncode == 0 else 'FAILED'}")
        passed &= done.returncode == 0
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
