"""Atheris's way in to the public functions: coverage of the Python code guides it.

    python -m reliability.fuzz_door CORPUS -max_total_time=60

Its arguments are libFuzzer's. `reliability.fuzz` starts it.
"""

from __future__ import annotations

import sys

from reliability.tools import need_module

atheris = need_module("atheris", "fuzz")

# not fastxent.backends.numba_cpu, which is imported when it is first asked for: Numba could not
# compile what is instrumented
with atheris.instrument_imports(include=["fastxent"]):
    import fastxent  # noqa: F401
    from reliability import door


def main() -> None:
    """Fuzz until libFuzzer's arguments say that it is enough."""
    atheris.Setup(sys.argv, door.call)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
